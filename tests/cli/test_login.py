"""gpuvm login and logout: a password is checked, kept in the keyring, used and deleted."""

import json
import os
from pathlib import Path

import pytest
from commands import CommandLine
from simulated_vcenter import Rig
from terminal import Terminal

from gpuvm import settings

SUPPORT = Path(__file__).parents[1] / "support"


class Site:
    """A command line with a keyring of its own, and a context without a password."""

    def __init__(self, rig: Rig, folder: Path) -> None:
        self.gpuvm = CommandLine(folder)
        self.keyring = folder / "keyring.json"
        self.password = settings.password(rig.context, None).get_secret_value()
        self.server, self.user = rig.context.server, rig.context.user
        self.gpuvm.environment |= {
            "GPUVM_CONFIG_DIR": str(folder / "config"),
            "GPUVM_STATE_DIR": str(folder / "state"),
            "GPUVM_TEST_KEYRING": str(self.keyring),
            "PYTHON_KEYRING_BACKEND": "file_keyring.FileKeyring",
            "PYTHONPATH": os.pathsep.join(
                filter(None, (str(SUPPORT), os.environ.get("PYTHONPATH")))
            ),
        }
        self.init: tuple[str, ...] = (
            "init",
            "--vcenter",
            rig.context.vcenter,
            "--user",
            self.user,
            "--name",
            "site",
        )
        self.init += ("--ca-file", str(getattr(rig.context.tls, "ca_file", "")))
        done = self.gpuvm(*self.init, GPUVM_PASSWORD=self.password)
        assert done.exit_code == 0, done.stderr

    def kept(self) -> list[str]:
        return list(json.loads(self.keyring.read_text()).values()) if self.keyring.exists() else []


@pytest.fixture
def site(rig: Rig, tmp_path: Path) -> Site:
    return Site(rig, tmp_path)


def test_kept_used_and_deleted(site: Site) -> None:
    gpuvm = site.gpuvm
    before = gpuvm("gpus")
    assert before.exit_code == 2
    assert "'gpuvm login'" in before.stderr
    done = gpuvm("login", "--password-stdin", stdin=f"{site.password}\n")
    assert done.exit_code == 0, done.stderr
    whose = f"{site.user} at {site.server}"
    assert f"the password of {whose} is in the keyring (file of a test)" in done.stdout
    assert site.kept() == [site.password]
    assert gpuvm("gpus").exit_code == 0
    gone = gpuvm("logout", "--json").json
    assert gone["data"]["changed"]
    assert gpuvm("gpus").exit_code == 2
    again = gpuvm("logout")
    assert again.exit_code == 0
    assert f"nothing to do: the keyring has no password of {whose}" in again.stdout


def test_a_refused_password_is_not_kept_and_its_source_is_said(site: Site) -> None:
    wrong = site.gpuvm("login", "--password-stdin", stdin="wrong\n")
    assert wrong.exit_code == 1
    assert "the password is from standard input" in wrong.stderr
    assert site.kept() == []
    site.gpuvm("login", "--password-stdin", stdin=site.password)
    entries = json.loads(site.keyring.read_text())
    site.keyring.write_text(json.dumps(dict.fromkeys(entries, "changed-since")))
    refused = site.gpuvm("gpus")
    assert refused.exit_code == 1
    assert "the password is from the keyring" in refused.stderr
    assert "'gpuvm login' keeps another one" in refused.stderr
    assert "changed-since" not in refused.stderr
    assert site.gpuvm("login", "--password-stdin", stdin=site.password).exit_code == 0
    assert site.gpuvm("gpus").exit_code == 0


def test_at_the_terminal(site: Site) -> None:
    with Terminal(site.gpuvm, "login") as terminal:
        terminal.read_until(f"Password for {site.user} at {site.server}:")
        terminal.press(f"{site.password}\n".encode())
        assert site.password not in terminal.read_until("is in the keyring")
        assert terminal.exit_code() == 0
    assert site.kept() == [site.password]


def test_init_offers_it(site: Site) -> None:
    for answer, kept in ((b"n\n", []), (b"y\n", [site.password])):
        with Terminal(site.gpuvm, *site.init) as terminal:
            terminal.read_until("Password for")
            terminal.press(f"{site.password}\n".encode())
            terminal.read_until("Keep the password in the keyring (file of a test)?")
            terminal.press(answer)
            terminal.read_until("next:")
            assert terminal.exit_code() == 0
        assert site.kept() == kept


def test_what_comes_first_is_said(site: Site) -> None:
    done = site.gpuvm(
        "login", "--password-stdin", stdin=site.password, GPUVM_PASSWORD=site.password
    )
    assert done.exit_code == 0
    assert "the keyring is not used for this context: GPUVM_PASSWORD comes first" in done.stderr


def test_without_a_keyring_nothing_is_lost(site: Site) -> None:
    headless = _with(site.gpuvm, PYTHON_KEYRING_BACKEND="keyring.backends.fail.Keyring")
    for command in (("login", "--password-stdin"), ("logout",)):
        refused = headless(*command, stdin=site.password)
        assert refused.exit_code == 2
        error, hint = refused.stderr.strip().splitlines()
        assert error == "error: this system has no keyring"
        assert "password_command" in hint
        assert "GPUVM_PASSWORD" in hint
    assert headless("gpus", GPUVM_PASSWORD=site.password).exit_code == 0
    with Terminal(headless, *site.init) as terminal:
        terminal.read_until("Password for")
        terminal.press(f"{site.password}\n".encode())
        assert "Keep the password" not in terminal.read_until("next:")
        assert terminal.exit_code() == 0


def test_nothing_typed(site: Site) -> None:
    done = site.gpuvm("login", "--password-stdin")
    assert done.exit_code == 2
    assert "standard input has no password" in done.stderr
    alone = site.gpuvm("login")
    assert alone.exit_code == 2
    assert "--password-stdin" in alone.stderr


def test_removing_the_last_context_of_an_account_removes_its_password(site: Site) -> None:
    site.gpuvm("login", "--password-stdin", stdin=site.password)
    twin = (*site.init[:-3], "twin", *site.init[-2:])
    assert site.gpuvm(*twin).exit_code == 0, "it uses the password that is kept"
    assert site.gpuvm("context", "remove", "twin").exit_code == 0
    assert site.kept() == [site.password]
    assert site.gpuvm("context", "remove", "site").exit_code == 0
    assert site.kept() == []


def _with(gpuvm: CommandLine, **environment: str) -> CommandLine:
    other = CommandLine(gpuvm.home)
    other.environment = gpuvm.environment | environment
    return other
