"""The first boot of a guest from its user data."""

import base64
import gzip
import logging
from pathlib import Path

import pytest

from gpuvm.lab.guest import cloudinit

USERS = "#cloud-config\nusers:\n- name: gpuvm\n  ssh_authorized_keys: [ssh-ed25519 AAAA me]\n"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path


def keys(disk: Path, user: str = "gpuvm") -> str:
    return (disk / "home" / user / ".ssh/authorized_keys").read_text()


def encoded(text: str, encoding: str) -> dict[str, str]:
    data = gzip.compress(text.encode()) if encoding.startswith("gz") else text.encode()
    value = base64.b64encode(data).decode() if encoding else text
    return {"guestinfo.userdata": value, "guestinfo.userdata.encoding": encoding}


@pytest.mark.parametrize("encoding", ["", "base64", "b64", "gzip+base64", "gz+b64"])
def test_user_data_in_every_encoding(disk: Path, encoding: str) -> None:
    instance = cloudinit.boot(disk, "vm-1", encoded(USERS, encoding))
    assert instance == cloudinit.Instance("vm-1", "vm-1", ("gpuvm",))
    assert keys(disk) == "ssh-ed25519 AAAA me\n"
    assert (disk / "home/gpuvm/.ssh").stat().st_mode & 0o777 == 0o700


def test_it_is_applied_once_for_each_instance_id(disk: Path) -> None:
    first = {**encoded(USERS, ""), "guestinfo.metadata": "instance-id: a\nlocal-hostname: h1"}
    assert cloudinit.boot(disk, "vm-1", first).hostname == "h1"
    changed = {**first, "guestinfo.userdata": USERS.replace("AAAA", "BBBB")}
    assert cloudinit.boot(disk, "vm-1", changed).users == ("gpuvm",)
    assert "AAAA" in keys(disk)
    again = {**changed, "guestinfo.metadata": '{"instance-id": "b", "local-hostname": "h2"}'}
    assert cloudinit.boot(disk, "vm-1", again).hostname == "h2"
    assert "BBBB" in keys(disk)


def test_keys_for_all_and_the_default_user(disk: Path) -> None:
    text = "#cloud-config\nssh_authorized_keys: [k0]\nusers: [default, {name: a}]\nruncmd: [x]\n"
    assert cloudinit.boot(disk, "vm-1", encoded(text, "")).users == ("cloud-user", "a")
    assert (keys(disk, "cloud-user"), keys(disk, "a")) == ("k0\n", "k0\n")


@pytest.mark.parametrize(
    ("guestinfo", "complaint"),
    [
        (encoded("#!/bin/sh\n", ""), "not a #cloud-config"),
        (encoded("#cloud-config\nusers: [", ""), "not YAML"),
        ({**encoded(USERS, ""), "guestinfo.userdata.encoding": "base64"}, "is not base64"),
        ({}, "not a #cloud-config"),
    ],
)
def test_bad_user_data_boots_and_is_reported_on_the_console(
    disk: Path, guestinfo: dict[str, str], complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cloudinit.boot(disk, "vm-1", guestinfo)
    assert complaint in caplog.text


def test_a_user_s_name_stays_below_home(disk: Path) -> None:
    evil = encoded(USERS.replace("gpuvm", "../../evil"), "")
    assert cloudinit.boot(disk, "vm-1", evil).users == ("evil",)
    assert (disk / "home/evil/.ssh/authorized_keys").exists()


def test_the_commands_of_every_boot() -> None:
    text = f"{USERS}bootcmd:\n- [touch, a, 1]\n- echo a; echo b\n"
    assert cloudinit.boot_commands(encoded(text, "base64")) == [
        ["touch", "a", "1"],
        ["sh", "-c", "echo a; echo b"],
    ]
    for without in (USERS, "#!/bin/sh\n", "#cloud-config\nbootcmd: x\n"):
        assert cloudinit.boot_commands(encoded(without, "")) == []
