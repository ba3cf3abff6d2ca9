"""TLS, and a SOAP stub that logs in again and repeats reads.

A call that the vCenter refused because the session had expired was not executed, so it is made
again. A call without an answer may have been executed: reads are repeated, for any other call the
caller checks the outcome (:class:`~gpuvm.errors.OutcomeUnknown`). Reads that the vCenter answers
itself are also repeated after an internal error.
"""

import hashlib
import hmac
import logging
import re
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import stamina
from cryptography import x509
from cryptography.x509.oid import NameOID
from pyVmomi import vim, vmodl
from pyVmomi.SoapAdapter import SoapStubAdapter
from typing_extensions import override

from gpuvm.errors import BadInput, Unreachable, Untrusted
from gpuvm.settings import TLS, CAFile, Insecure, Pin, authority
from gpuvm.vsphere.faults import Undecodable

CERTIFICATE_TIMEOUT_S = 20.0
ATTEMPTS = 4
LOST = (OSError, HTTPException)
_NOT_DECODED = (TypeError, KeyError, AttributeError, ValueError, ExpatError)
"""What pyVmomi raises for an unknown type, field or value in an answer."""

# Prefixes of API methods that change nothing but the session, its collectors and its views.
_READS = (
    "Retrieve",
    "Query",
    "Find",
    "Fetch",
    "Has",
    "WaitForUpdatesEx",
    "Continue",
    "CreateContainerView",
    "CreatePropertyCollector",
    "CreateFilter",
    "DestroyView",
    "DestroyPropertyCollector",
    "CurrentTime",
    "Logout",  # a second one finds no session
)

# Those that the vCenter answers itself, without a host that may be the one in trouble.
_OF_THE_VCENTER = ("Retrieve", "WaitForUpdatesEx", "Continue", "Create")

logging.getLogger("stamina").setLevel(logging.ERROR)


class DecodingStub(SoapStubAdapter):
    """Raises Undecodable for any answer or fault that pyVmomi cannot decode."""

    @override
    def InvokeMethod(self, mo: Any, info: Any, args: Any, outerStub: Any = None) -> Any:
        try:
            return super().InvokeMethod(mo, info, args, outerStub)  # type: ignore[no-untyped-call]
        except LOST:
            raise  # ssl.SSLCertVerificationError is also a ValueError
        except _NOT_DECODED as error:
            raise Undecodable(f"{type(error).__name__}: {error}") from error
        except Exception as error:
            if type(error) is Exception:  # from pyVmomi, for an error page without a fault
                raise Undecodable(str(error).splitlines()[0]) from error
            raise


class SessionStub(DecodingStub):
    """Logs in again when the session has expired: calls ``login`` with this stub."""

    def __init__(self, login: Callable[[Any], None], **connection: Any) -> None:
        super().__init__(**connection)  # type: ignore[no-untyped-call]
        self._login, self._logging_in = login, threading.RLock()
        self._connection = connection

    def for_service(self, path: str, version: str) -> DecodingStub:
        """Return a stub for another service of the vCenter, with this session in a header."""
        cookie = re.search(r'vmware_soap_session="?([^";]+)', str(self.cookie))
        header = {"vcSessionCookie": cookie[1]} if cookie else {}
        changed = {"path": path, "version": version, "requestContext": header}
        return DecodingStub(**self._connection | changed)  # type: ignore[no-untyped-call]

    @override
    def InvokeMethod(self, mo: Any, info: Any, args: Any, outerStub: Any = None) -> Any:
        name = str(info.wsdlName).removesuffix("_Task")
        session = self.cookie
        try:
            return self._invoke(mo, info, args, outerStub, repeat=_only_reads(name))
        except vim.fault.NotAuthenticated:
            if name in ("Login", "Logout"):
                raise
            with self._logging_in:
                if self.cookie == session:  # no other thread has done it meanwhile
                    self._login(self)
            return self._invoke(mo, info, args, outerStub, repeat=_only_reads(name))

    def _invoke(self, mo: Any, info: Any, args: Any, outer: Any, *, repeat: bool) -> Any:
        attempts = ATTEMPTS if repeat else 1
        own = repeat and str(info.wsdlName).startswith(_OF_THE_VCENTER)
        on = (*LOST, vmodl.fault.SystemError) if own else LOST
        for attempt in stamina.retry_context(on=on, attempts=attempts, wait_initial=0.2):
            with attempt:
                return super().InvokeMethod(mo, info, args, outer)
        raise AssertionError("stamina raises what the last attempt raised")


def _only_reads(method: str) -> bool:
    return method.startswith(_READS)


def ssl_context(tls: TLS, host: str, port: int) -> ssl.SSLContext:
    """Return the context for this kind of trust.

    Always set one: without a context, pyVmomi does not verify 127.0.0.1; it does not pin the
    version probe, and accepts a wrong thumbprint with an unverified context. A pin is therefore
    compared before pyVmomi connects. Raises Untrusted if it differs, Unreachable, and BadInput for
    a bad CA file.
    """
    if isinstance(tls, Insecure):
        return ssl._create_unverified_context()  # noqa: S323 - set in the context, with a warning
    if isinstance(tls, CAFile):
        return _with_ca(tls.ca_file)
    if isinstance(tls, Pin):
        return _pinned(tls.sha256, host, port)
    return ssl.create_default_context()


@dataclass(frozen=True)
class Certificate:
    """A server's certificate that did not verify, and the reason."""

    issuer: str
    names: tuple[str, ...]
    sha256: str
    reason: str
    code: int
    """OpenSSL's, of the reason."""

    @property
    def can_be_pinned(self) -> bool:
        """A pin says whose certificate it is, and not that it is still valid."""
        return self.code not in (_EXPIRED, _NOT_YET_VALID)

    def remedy(self, host: str, port: int) -> str:
        """What makes it trusted, for a hint."""
        if self.code == _EXPIRED:
            return "renew the vCenter's certificate; the password was not sent"
        if self.code == _NOT_YET_VALID:
            return "compare this machine's clock with the vCenter's; the password was not sent"
        if self.code in _OTHER_HOST and self.names:
            return (
                f"name it as its certificate does (vcenter: {self.names[-1]}), or compare the "
                "SHA-256 with the server's and pin it (tls: {verify: sha256})"
            )
        return (
            "compare that SHA-256 with the server's and pin it (tls: {verify: sha256}), or "
            "set the CA file (tls: {verify: ca}; a vCenter offers it at "
            f"https://{authority(host, port)}/certs/download.zip)"
        )


_EXPIRED, _NOT_YET_VALID = 10, 9
_OTHER_HOST = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH and …_IP_ADDRESS_MISMATCH of OpenSSL's x509_vfy.h."""


def rejected_certificate(tls: TLS, host: str, port: int) -> Certificate | None:
    """Return the server's certificate if it does not verify, else None; sends only a handshake.

    Raises OSError without a TLS server there, and as ``ssl_context``.
    """
    context = ssl_context(tls, host, port)
    try:
        with (
            socket.create_connection((host, port), CERTIFICATE_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return None
    except ssl.SSLCertVerificationError as error:
        return _certificate(peer_certificate(host, port), error)


def _certificate(der: bytes, error: ssl.SSLCertVerificationError) -> Certificate:
    read = x509.load_der_x509_certificate(der)
    names = [str(name.value) for name in read.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    with suppress(x509.ExtensionNotFound, ValueError):
        extension = read.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names += [str(name.value) for name in extension.value]
    issuer = "itself" if read.issuer == read.subject else read.issuer.rfc4514_string()
    reason, code = error.verify_message.rstrip("."), error.verify_code
    if code == _EXPIRED:
        reason += f" on {read.not_valid_after_utc:%Y-%m-%d}"
    if code == _NOT_YET_VALID:
        reason += f", but from {read.not_valid_before_utc:%Y-%m-%d}"
    known = tuple(dict.fromkeys(names))
    return Certificate(issuer or "unknown", known, fingerprint(der), reason, code)


def untrusted(host: str, port: int, error: ssl.SSLCertVerificationError) -> Untrusted:
    """Return the error for a certificate that did not verify, with its issuer and SHA-256."""
    where = authority(host, port)
    try:
        certificate = _certificate(peer_certificate(host, port), error)
    except OSError:
        return Untrusted(f"the certificate of {where} is not trusted: {error.verify_message}")
    return Untrusted(
        f"the certificate of {where} is not trusted: {certificate.reason} (issued by "
        f"{certificate.issuer}, SHA-256 {certificate.sha256})",
        hint=certificate.remedy(host, port),
    )


def without_tls(host: str, port: int, error: ssl.SSLError) -> Unreachable:
    """Return the error for a handshake that failed before any certificate was compared."""
    reason = (error.reason or str(error)).replace("_", " ").lower()
    return Unreachable(
        f"there is no TLS at {authority(host, port)}: {reason}",
        hint="a vCenter is reached by HTTPS alone, on port 443 by default: check the port",
    )


def fingerprint(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()


def peer_certificate(host: str, port: int) -> bytes:
    """Return the server's certificate as DER, unverified: only for comparison and display."""
    context = ssl._create_unverified_context()  # noqa: S323 - nothing is sent
    with (
        socket.create_connection((host, port), CERTIFICATE_TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=host) as wrapped,
    ):
        return wrapped.getpeercert(binary_form=True) or b""


def _with_ca(file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(file))
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or "it has no PEM certificate"
        raise BadInput(f"tls.ca_file {file}: {reason}") from None


def _pinned(pin: str, host: str, port: int) -> ssl.SSLContext:
    """Return a context that verifies, and trusts only the certificate with this pin."""
    try:
        der = peer_certificate(host, port)
    except ssl.SSLError as error:
        raise without_tls(host, port, error) from None
    except OSError as error:
        raise Unreachable(f"no connection to {authority(host, port)}: {error}") from None
    wanted, seen = pin.replace(":", "").lower(), fingerprint(der)
    if not hmac.compare_digest(wanted, seen):
        raise Untrusted(
            f"the certificate of {authority(host, port)} has the SHA-256 {seen}, "
            "not the pinned one",
            hint="pin the new one if the certificate was renewed; otherwise do not connect",
        )
    context = ssl.create_default_context(cadata=ssl.DER_cert_to_PEM_cert(der))
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
