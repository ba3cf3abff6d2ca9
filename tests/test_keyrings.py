"""The system's keyring: what is kept, and that one which fails costs nothing but a question."""

from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from file_keyring import FileKeyring, ForgetfulKeyring, LockedKeyring, SilentKeyring
from keyring.backend import KeyringBackend
from keyring.backends import fail, null
from pydantic import SecretStr

from gpuvm import keyrings, settings
from gpuvm.errors import BadInput, NoKeyring
from gpuvm.settings import Context

CONTEXT = Context(name="site", vcenter="VC.example", user="alice@vsphere.local")
SECRET = SecretStr("kept")


def made(ring: type[KeyringBackend]) -> KeyringBackend:
    return ring()


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("GPUVM_TEST_KEYRING", str(tmp_path / "keyring.json"))
    monkeypatch.setattr(keyrings, "_silent", set())
    before = keyring.get_keyring()
    keyring.set_keyring(made(FileKeyring))
    yield tmp_path / "keyring.json"
    keyring.set_keyring(before)


def _kept() -> SecretStr | None:
    return keyrings.read(CONTEXT.server, CONTEXT.user)


def test_it_is_kept_for_one_account_of_one_server() -> None:
    keyrings.store(CONTEXT.server, CONTEXT.user, SECRET)
    assert _kept() == SECRET
    assert keyrings.read("vc.example:443", CONTEXT.user) == SECRET, "however the host is spelt"
    assert keyrings.read("vc.example:8443", CONTEXT.user) is None
    assert keyrings.read(CONTEXT.server, "bob") is None
    assert keyrings.delete(CONTEXT.server, CONTEXT.user)
    assert not keyrings.delete(CONTEXT.server, CONTEXT.user)
    assert _kept() is None


def test_command_and_environment_come_before_it_and_the_prompt_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert settings.find_password(CONTEXT, lambda _: "asked")[1] == settings.PROMPT
    keyrings.store(CONTEXT.server, CONTEXT.user, SECRET)
    assert settings.find_password(CONTEXT, lambda _: "asked") == (SECRET, settings.KEYRING)
    monkeypatch.setenv("GPUVM_PASSWORD", "given")
    assert settings.find_password(CONTEXT, None)[1] == "GPUVM_PASSWORD"
    by_command = CONTEXT.model_copy(update={"password_command": "echo printed"})
    assert settings.find_password(by_command, None)[1] == settings.COMMAND


@pytest.mark.parametrize(
    ("ring", "reason"),
    [
        (fail.Keyring, "this system has no keyring"),
        (null.Keyring, "this system has no keyring"),
        (LockedKeyring, "the keyring refused: Failed to unlock the collection!"),
        (SilentKeyring, "the keyring did not answer within 0.01 seconds"),
    ],
)
def test_without_one_that_answers_the_prompt_is_left(
    ring: type[KeyringBackend], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyrings, "ANSWER_S", 0.01 if "within" in reason else keyrings.ANSWER_S)
    keyring.set_keyring(made(ring))
    assert settings.find_password(CONTEXT, lambda _: "asked")[1] == settings.PROMPT
    with pytest.raises(BadInput) as caught:
        settings.find_password(CONTEXT, None)
    assert str(caught.value).endswith(f"no terminal to ask on; {reason}")
    assert "GPUVM_PASSWORD" in (caught.value.hint or "")
    assert "gpuvm login" not in (caught.value.hint or "")
    with pytest.raises(NoKeyring) as refused:
        keyrings.store(CONTEXT.server, CONTEXT.user, SECRET)
    assert str(refused.value) == reason
    assert "password_command" in (refused.value.hint or "")


def test_one_that_keeps_nothing() -> None:
    keyring.set_keyring(made(ForgetfulKeyring))
    with pytest.raises(NoKeyring, match="did not keep"):
        keyrings.store(CONTEXT.server, CONTEXT.user, SECRET)
