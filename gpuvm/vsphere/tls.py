"""Whether the server is who it says: an ``ssl.SSLContext`` for each way to trust a vCenter.

pyVmomi leaves 127.0.0.1 unverified without a context, pins no version probe, and accepts a wrong
thumbprint beside an unverified context; so a context is always made here, and a pin is compared
before pyVmomi sees the server at all.
"""

import hashlib
import hmac
import socket
import ssl
from pathlib import Path

from cryptography import x509

from gpuvm.errors import BadInput, Unreachable, Untrusted
from gpuvm.settings import TLS, CAFile, Insecure, Pin, authority

TIMEOUT_S = 20.0


def ssl_context(tls: TLS, host: str, port: int) -> ssl.SSLContext:
    """Raises Untrusted when a pin does not match, Unreachable, and BadInput for a bad CA file."""
    if isinstance(tls, Insecure):
        return ssl._create_unverified_context()  # noqa: S323 - asked for, and said loudly
    if isinstance(tls, CAFile):
        return _with_ca(tls.ca_file)
    if isinstance(tls, Pin):
        return _pinned(tls.sha256, host, port)
    return ssl.create_default_context()


def untrusted(host: str, port: int, reason: str) -> Untrusted:
    """The error for a certificate that did not verify: what it is, and how it can be trusted."""
    try:
        der = peer_certificate(host, port)
    except OSError:
        return Untrusted(f"the certificate of {authority(host, port)} is not trusted: {reason}")
    certificate = x509.load_der_x509_certificate(der)
    issuer = certificate.issuer.rfc4514_string() or "nobody"
    return Untrusted(
        f"the certificate of {authority(host, port)} is not trusted: {reason} (issued by {issuer}, "
        f"SHA-256 {fingerprint(der)})",
        hint="compare that SHA-256 with the server's own and pin it (tls: {verify: sha256}), or "
        "give the CA's file (tls: {verify: ca}; a vCenter offers it at "
        f"https://{authority(host, port)}/certs/download.zip)",
    )


def fingerprint(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()


def peer_certificate(host: str, port: int) -> bytes:
    """The server's certificate as DER, unverified: only to be compared or shown."""
    context = ssl._create_unverified_context()  # noqa: S323 - nothing is sent over it
    with (
        socket.create_connection((host, port), TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=host) as wrapped,
    ):
        return wrapped.getpeercert(binary_form=True) or b""


def _with_ca(file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(file))
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or "it holds no PEM certificate"
        raise BadInput(f"tls.ca_file {file}: {reason}") from None


def _pinned(pin: str, host: str, port: int) -> ssl.SSLContext:
    """Verification stays on, with exactly this one certificate as the trusted one."""
    try:
        der = peer_certificate(host, port)
    except OSError as error:
        raise Unreachable(f"no connection to {authority(host, port)}: {error}") from None
    wanted, seen = pin.replace(":", "").lower(), fingerprint(der)
    if not hmac.compare_digest(wanted, seen):
        raise Untrusted(
            f"the certificate of {authority(host, port)} has the SHA-256 {seen}, "
            "not the pinned one",
            hint="if the vCenter's certificate was renewed, pin the new one; otherwise stop here",
        )
    context = ssl.create_default_context(cadata=ssl.DER_cert_to_PEM_cert(der))
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
