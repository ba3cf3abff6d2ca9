"""Contexts: which vCenter is used, and that no password is ever stored."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from gpuvm import settings
from gpuvm.errors import Ambiguous, BadInput, NotFound
from gpuvm.settings import CAFile, Context, Pin


@pytest.fixture(autouse=True)
def own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPUVM_CONFIG_DIR", str(tmp_path / "config"))
    for name in ("GPUVM_CONTEXT", "GPUVM_PASSWORD", "GOVC_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def _context(name: str = "prod", **changes: object) -> Context:
    return Context.model_validate({"name": name, "vcenter": "vc.example", "user": "a"} | changes)


def test_round_trip_and_owner_only(own_config: Path) -> None:
    context = _context(tls={"verify": "ca", "ca_file": "/etc/vmca.pem"}, confirm=False)
    file = settings.save(context)
    assert settings.load("prod") == context
    assert isinstance(settings.load().tls, CAFile)
    assert file.stat().st_mode & 0o077 == 0


def test_nothing_known() -> None:
    with pytest.raises(BadInput, match="there is no context yet"):
        settings.load()


def test_unknown_name_lists_the_known_ones() -> None:
    settings.save(_context())
    with pytest.raises(NotFound) as caught:
        settings.load("lab")
    assert caught.value.existing == ("prod",)


def test_removing_a_context_restores_the_previous_one() -> None:
    settings.save(_context("prod"))
    settings.save(_context("lab"))
    assert settings.load().name == "lab"
    settings.remove("lab")
    assert settings.load().name == "prod"


def test_several_and_none_chosen(own_config: Path) -> None:
    settings.save(_context("a"))
    settings.save(_context("b"))
    (own_config / "config" / "current").unlink()
    with pytest.raises(Ambiguous):
        settings.load()


def test_environment_names_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    settings.save(_context("a"))
    settings.save(_context("b"))
    monkeypatch.setenv("GPUVM_CONTEXT", "a")
    assert settings.load().name == "a"


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("vc.example", ("vc.example", 443)),
        ("vc.example:8443", ("vc.example", 8443)),
        ("https://vc.example/sdk", ("vc.example", 443)),
        ("https://127.0.0.1:8989/sdk", ("127.0.0.1", 8989)),
        ("https://[2001:db8::10]/sdk", ("2001:db8::10", 443)),
        ("[2001:db8::10]:8443", ("2001:db8::10", 8443)),
    ],
)
def test_address(endpoint: str, address: tuple[str, int]) -> None:
    assert _context(vcenter=endpoint).address == address


def test_no_address() -> None:
    with pytest.raises(BadInput, match="is not a host or https URL"):
        _ = _context(vcenter="http://vc example").address


@pytest.mark.parametrize("port", ["0", "65536", "9" * 5000])
def test_no_port(port: str) -> None:
    with pytest.raises(BadInput, match="is not a host or https URL"):
        settings.parse_address(f"vc.example:{port}")


def test_password_from_command_environment_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.password(_context(), lambda _: "asked") == SecretStr("asked")
    monkeypatch.setenv("GOVC_PASSWORD", "from-environment")
    assert settings.password(_context(), None) == SecretStr("from-environment")
    by_command = _context(password_command="printf 'first\\nsecond\\n'")
    assert settings.password(by_command, None) == SecretStr("first")


def test_password_without_a_terminal() -> None:
    with pytest.raises(BadInput, match="no terminal"):
        settings.password(_context(), None)


@pytest.mark.parametrize("command", ["false", "true", "no-such-program-here"])
def test_password_command_fails(command: str) -> None:
    with pytest.raises(BadInput, match="password_command"):
        settings.password(_context(password_command=command), None)


def test_pin_must_be_a_fingerprint() -> None:
    assert Pin(sha256="AB" * 32)
    assert Pin(sha256=":".join(["ab"] * 32))
    with pytest.raises(ValueError, match="sha256"):
        Pin(sha256="ab")
