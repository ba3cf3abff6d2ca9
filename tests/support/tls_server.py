"""A server on loopback that keeps every byte which it could read, and refuses every login.

It has just enough of a vCenter for a client to get as far as sending a password.
"""

import datetime as dt
import re
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HERE = "127.0.0.1"
TODAY = dt.datetime.now(dt.UTC)
YEAR = dt.timedelta(days=365)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, as PEM in one file."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    file: Path

    @property
    def sha256(self) -> str:
        return self.certificate.fingerprint(hashes.SHA256()).hex()


def issue(
    folder: Path,
    name: str,
    *,
    by: Issued | None = None,
    host: str = HERE,
    valid: tuple[dt.datetime, dt.datetime] = (TODAY - YEAR, TODAY + YEAR),
    is_ca: bool = False,
) -> Issued:
    """A new certificate for this host, signed ``by`` that one or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, signer = (by.certificate, by.key) if by else (None, key)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
        .add_extension(x509.SubjectAlternativeName([_alternative(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    file = folder / f"{name}.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return Issued(certificate, key, file)


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class Recorder:
    """``shown`` are the certificates of the first, second, … connection; the last one stays.

    None of them is plain HTTP: without TLS everything that arrives is readable.
    """

    def __init__(self, shown: Sequence[Issued]) -> None:
        self._shown = list(shown)
        self._listening = socket.create_server((HERE, 0))
        self.port: int = self._listening.getsockname()[1]
        self.connections = 0
        self._received: list[bytes] = []
        self._threads: list[tuple[threading.Thread, socket.socket]] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    @property
    def url(self) -> str:
        return f"{HERE}:{self.port}"

    def close(self) -> bytes:
        """Everything that arrived, from connections that the client keeps open as well."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listening.close()
        for thread, connection in self._threads:
            with connection, suppress(OSError):
                connection.shutdown(socket.SHUT_RD)  # what has arrived is still read
            thread.join()
        self._threads.clear()
        return b"".join(self._received)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                number, self.connections = self.connections, self.connections + 1
                certificate = (
                    self._shown[min(number, len(self._shown) - 1)] if self._shown else None
                )
                thread = threading.Thread(target=self._serve, args=(connection, certificate))
                self._threads.append((thread, connection.dup()))
                thread.start()

    def _serve(self, plain: socket.socket, certificate: Issued | None) -> None:
        with plain, suppress(OSError):
            if certificate is None:
                self._answer(plain)
                return
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.file)
            with context.wrap_socket(plain, server_side=True) as wrapped:
                self._answer(wrapped)

    def _answer(self, connection: socket.socket) -> None:
        waiting = b""
        while data := connection.recv(1 << 16):
            self._received.append(data)
            waiting += data
            if not waiting.startswith((b"GET ", b"POST ")):  # such as a TLS handshake
                connection.sendall(_http("400 Bad Request", ""))
                return
            head, found, rest = waiting.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            wanted = int(length[1]) if length else 0
            if found and len(rest) >= wanted:
                waiting = rest[wanted:]
                connection.sendall(_answer_to(head + rest[:wanted]))


def _answer_to(request: bytes) -> bytes:
    if request.startswith(b"GET"):
        return _http("200 OK", VERSIONS)
    if b"RetrieveServiceContent" in request:
        return _http("200 OK", _soap(CONTENT))
    if b":Login" in request or b"<Login" in request:
        return _http("500 Internal Server Error", _soap(REFUSED))
    return _http("400 Bad Request", "")


def _http(status: str, body: str) -> bytes:
    kind = "Content-Type: text/xml; charset=utf-8"
    return f"HTTP/1.1 {status}\r\n{kind}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def _soap(body: str) -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" '
        'xmlns:xsd="http://www.w3.org/2001/XMLSchema" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        f"<soapenv:Body>{body}</soapenv:Body></soapenv:Envelope>"
    )


VERSIONS = (
    '<?xml version="1.0" encoding="UTF-8"?><namespaces version="1.0"><namespace>'
    "<name>urn:vim25</name><version>8.0.0.0</version></namespace></namespaces>"
)
CONTENT = (
    '<RetrieveServiceContentResponse xmlns="urn:vim25"><returnval>'
    '<rootFolder type="Folder">group-d1</rootFolder>'
    '<propertyCollector type="PropertyCollector">propertyCollector</propertyCollector>'
    "<about><name>recorder</name><fullName>recorder</fullName><vendor>none</vendor>"
    "<version>8.0.0</version><build>0</build><osType>linux</osType>"
    "<productLineId>vpx</productLineId><apiType>VirtualCenter</apiType>"
    "<apiVersion>8.0.0.0</apiVersion></about>"
    '<sessionManager type="SessionManager">SessionManager</sessionManager>'
    "</returnval></RetrieveServiceContentResponse>"
)
REFUSED = (
    "<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>no</faultstring><detail>"
    '<InvalidLoginFault xmlns="urn:vim25" xsi:type="InvalidLogin"/></detail></soapenv:Fault>'
)


@contextmanager
def recorder(*shown: Issued) -> Iterator[Recorder]:
    made = Recorder(shown)
    try:
        yield made
    finally:
        made.close()
