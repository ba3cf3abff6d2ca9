"""No password leaves this machine for a server that is not the trusted one.

Asserted at the other end: a server that keeps all that it could read, with TLS or without.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr
from tls_server import TODAY, YEAR, Issued, issue, recorder

from gpuvm import vsphere
from gpuvm.errors import GpuvmError, LoginRefused, Unreachable, Untrusted
from gpuvm.settings import TLS, CAFile, Context, Insecure, Pin, SystemTrust

PASSWORD = "the-password-that-must-not-leave"


@dataclass(frozen=True)
class Authority:
    """A CA, and what it and others have signed for the server."""

    folder: Path
    ca: Issued

    @property
    def trusted(self) -> CAFile:
        return CAFile(ca_file=self.ca.file)

    def good(self) -> Issued:
        return issue(self.folder, "good", by=self.ca)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("certificates")
    return Authority(folder, issue(folder, "ca", is_ca=True))


def refused(tls: TLS, *shown: Issued) -> tuple[GpuvmError, bytes]:
    """How a login at a server with these certificates ends, and what the server has read."""
    with recorder(*shown) as server:
        context = Context(name="recorder", vcenter=server.url, user="alice", tls=tls)
        with pytest.raises(GpuvmError) as caught:
            vsphere.connect(context, SecretStr(PASSWORD))
        received = server.close()
        assert server.connections, "the server was asked at all"
    for text in (str(caught.value), caught.value.hint or ""):
        assert "\n" not in text
        assert PASSWORD not in text
    return caught.value, received


def test_it_is_sent_to_the_server_whose_ca_is_trusted(authority: Authority) -> None:
    error, received = refused(authority.trusted, authority.good())
    assert isinstance(error, LoginRefused)
    assert PASSWORD.encode() in received


def test_it_is_sent_to_the_server_with_the_pin(authority: Authority) -> None:
    alone = issue(authority.folder, "pinned", host="elsewhere.example")
    error, received = refused(Pin(sha256=alone.sha256), alone)
    assert isinstance(error, LoginRefused)
    assert PASSWORD.encode() in received


def test_it_is_sent_to_any_server_only_where_the_context_says_so(authority: Authority) -> None:
    error, received = refused(Insecure(), issue(authority.folder, "any"))
    assert isinstance(error, LoginRefused)
    assert PASSWORD.encode() in received


def test_another_pin(authority: Authority) -> None:
    good = authority.good()
    error, received = refused(Pin(sha256="ab" * 32), good)
    assert isinstance(error, Untrusted)
    assert f"has the SHA-256 {good.sha256}, not the pinned one" in str(error)
    assert "if the certificate was renewed" in (error.hint or "")
    assert received == b""


def test_another_certificate_once_the_pin_was_compared(authority: Authority) -> None:
    """Who can stand between two connections: the second one is verified as well."""
    good = authority.good()
    error, received = refused(
        Pin(sha256=good.sha256), good, issue(authority.folder, "swapped", by=authority.ca)
    )
    assert isinstance(error, Untrusted)
    assert received == b""


def test_expired(authority: Authority) -> None:
    old = issue(authority.folder, "old", by=authority.ca, valid=(TODAY - 2 * YEAR, TODAY - YEAR))
    for tls in (authority.trusted, Pin(sha256=old.sha256)):
        error, received = refused(tls, old)
        assert isinstance(error, Untrusted)
        assert "certificate has expired" in str(error)
        assert "renew" in (error.hint or "")
        assert f"{TODAY - YEAR:%Y-%m-%d}" in str(error)
        assert received == b""


def test_not_valid_yet(authority: Authority) -> None:
    early = issue(
        authority.folder, "early", by=authority.ca, valid=(TODAY + YEAR, TODAY + 2 * YEAR)
    )
    error, received = refused(authority.trusted, early)
    assert isinstance(error, Untrusted)
    assert "not yet valid" in str(error)
    assert "clock" in (error.hint or "")
    assert received == b""


@pytest.mark.parametrize("system", [True, False], ids=["system", "ca"])
def test_signed_by_itself(authority: Authority, system: bool) -> None:
    alone = issue(authority.folder, "alone")
    error, received = refused(SystemTrust() if system else authority.trusted, alone)
    assert isinstance(error, Untrusted)
    assert f"SHA-256 {alone.sha256}" in str(error)
    assert "issued by itself" in str(error)
    assert "verify: sha256" in (error.hint or "")
    assert received == b""


def test_signed_by_another_ca(authority: Authority, tmp_path: Path) -> None:
    other = issue(tmp_path, "other-ca", is_ca=True)
    error, received = refused(authority.trusted, issue(tmp_path, "foreign", by=other))
    assert isinstance(error, Untrusted)
    assert "CN=other-ca" in str(error)
    assert "verify: ca" in (error.hint or "")
    assert received == b""


@pytest.mark.parametrize("name", ["vc.example", "127.0.0.2"])
def test_for_another_host(authority: Authority, name: str) -> None:
    error, received = refused(
        authority.trusted, issue(authority.folder, "elsewhere", by=authority.ca, host=name)
    )
    assert isinstance(error, Untrusted)
    assert "mismatch" in str(error)
    assert f"name it as its certificate does (vcenter: {name})" in (error.hint or "")
    assert received == b""


@pytest.mark.parametrize("tls", [SystemTrust(), Insecure(), Pin(sha256="ab" * 32)])
def test_plain_http(tls: TLS) -> None:
    error, received = refused(tls)
    assert isinstance(error, Unreachable)
    assert "no TLS" in str(error)
    assert "port" in (error.hint or "")
    assert PASSWORD.encode() not in received
