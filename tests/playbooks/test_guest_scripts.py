"""The scripts that the playbook puts into a VM template, run for real, except vmware-rpctool.

It is a program on PATH that writes down how it was called, as the real one would take it.
"""

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from gpuvm.paths import resource

PREFIX = "info-set guestinfo.gpuvm.ssh_host_keys "
FAKE = """#!{python}
import json, sys
with open({calls!r}, "a", encoding="utf-8") as calls:
    calls.write(json.dumps(sys.argv) + "\\n")
sys.exit({status})
"""


class Guest:
    """A folder for PATH, a folder for /etc/ssh and a whole file system to seal."""

    def __init__(self, tmp_path: Path) -> None:
        self.programs, self.ssh, self.root = (tmp_path / n for n in ("bin", "ssh", "root"))
        self.programs.mkdir()
        self.ssh.mkdir()
        self.calls_file = tmp_path / "calls.jsonl"

    def program(self, name: str, status: int = 0) -> None:
        file = self.programs / name
        text = FAKE.format(python=sys.executable, calls=str(self.calls_file), status=status)
        file.write_text(text, encoding="utf-8")
        file.chmod(0o755)

    def run(self, script: str, argument: Path) -> "subprocess.CompletedProcess[str]":
        assert str(argument) not in ("", "/"), "never on this machine itself"
        return subprocess.run(
            ["/bin/sh", str(resource(f"templates/{script}")), str(argument)],
            env={"PATH": f"{self.programs}:{os.defpath}"},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    def publish(self) -> "subprocess.CompletedProcess[str]":
        return self.run("gpuvm-publish-host-keys.sh", self.ssh)

    @property
    def calls(self) -> list[list[str]]:
        if not self.calls_file.exists():
            return []
        lines = self.calls_file.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def host_key(self, kind: str, comment: str = "") -> str:
        """Writes a pair as ssh-keygen names it; the public half, without the comment."""
        own = ed25519.Ed25519PrivateKey.generate
        pair = own() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
        private = pair.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        (self.ssh / f"ssh_host_{kind}_key").write_bytes(private)
        encoding, form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        public = pair.public_key().public_bytes(encoding, form).decode()
        text = f"{public} {comment}\n" if comment else f"{public}\n"
        (self.ssh / f"ssh_host_{kind}_key.pub").write_text(text, encoding="utf-8")
        return public


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


def test_the_public_keys_are_published_in_one_value(guest: Guest) -> None:
    guest.program("vmware-rpctool")
    ecdsa = guest.host_key("ecdsa", comment="root@template with spaces")
    ed25519_ = guest.host_key("ed25519")
    done = guest.publish()
    assert (done.returncode, done.stderr) == (0, "")
    assert len(guest.calls) == 1
    _, command = guest.calls[0]
    assert command.startswith(PREFIX)
    value = command.removeprefix(PREFIX)
    assert re.fullmatch(r"[A-Za-z0-9+/]+=*", value)  # one word: info-set splits at spaces
    assert base64.b64decode(value).decode() == f"{ecdsa}\n{ed25519_}"


def test_nothing_private_leaves_the_guest(guest: Guest) -> None:
    guest.program("vmware-rpctool")
    guest.host_key("ed25519")
    guest.publish()
    published = base64.b64decode(guest.calls[0][1].removeprefix(PREFIX)).decode()
    assert "PRIVATE" not in published
    assert published.count("\n") == 0
    assert published.startswith("ssh-ed25519 ")


def test_without_a_host_key_it_fails_and_publishes_nothing(guest: Guest) -> None:
    guest.program("vmware-rpctool")
    done = guest.publish()
    assert done.returncode == 1
    assert done.stderr == (f"gpuvm-publish-host-keys: there is no public host key in {guest.ssh}\n")
    assert guest.calls == []


def test_empty_key_file_is_skipped(guest: Guest) -> None:
    guest.program("vmware-rpctool")
    key = guest.host_key("ed25519")
    (guest.ssh / "ssh_host_rsa_key.pub").write_text("", encoding="utf-8")
    assert guest.publish().returncode == 0
    assert base64.b64decode(guest.calls[0][1].removeprefix(PREFIX)).decode() == key


def test_a_refusal_of_vmware_tools_fails_the_unit(guest: Guest) -> None:
    guest.program("vmware-rpctool", status=1)
    guest.host_key("ed25519")
    assert guest.publish().returncode == 1


def test_the_unit_starts_the_script_after_the_clone_has_its_keys() -> None:
    file = resource("templates/gpuvm-publish-host-keys.service.j2")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701 - no HTML
    template = environment.from_string(file.read_text(encoding="utf-8"))
    unit = template.render(gpuvm_script="/usr/local/sbin/gpuvm-publish-host-keys").splitlines()
    assert "ExecStart=/usr/local/sbin/gpuvm-publish-host-keys" in unit
    assert "After=cloud-init.service cloud-init-network.service sshd.service" in unit
    assert "WantedBy=multi-user.target" in unit


REMOVED = (
    "var/lib/cloud/instance/boot-finished",
    "var/lib/cloud/instances/i-1/user-data.txt",
    "var/log/cloud-init.log",
    "etc/ssh/ssh_host_ed25519_key",
    "etc/ssh/ssh_host_ed25519_key.pub",
    "etc/udev/rules.d/70-persistent-net.rules",
    "etc/NetworkManager/system-connections/ens192.nmconnection",
    "etc/sysconfig/network-scripts/ifcfg-ens192",
    "var/lib/NetworkManager/secret_key",
    "var/lib/NetworkManager/internal-1-ens192.lease",
    "var/lib/dhclient/dhclient.leases",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
)
KEPT = (
    "var/lib/cloud/seed/keep",
    "etc/ssh/sshd_config",
    "etc/sysconfig/network-scripts/ifcfg-lo",
    "etc/sysconfig/network-scripts/ifup",
    "etc/cloud/cloud.cfg.d/99_gpuvm.cfg",
    "etc/NetworkManager/NetworkManager.conf",
)


def _furnish(root: Path) -> None:
    for name in (*REMOVED, *KEPT, "etc/machine-id"):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("of the template\n", encoding="utf-8")


def test_sealing_removes_what_clones_must_not_share_and_nothing_else(guest: Guest) -> None:
    for name in ("systemctl", "vmware-rpctool"):
        guest.program(name)
    _furnish(guest.root)
    done = guest.run("gpuvm-seal.sh", guest.root)
    assert (done.returncode, done.stderr) == (0, "")
    assert [name for name in REMOVED if (guest.root / name).exists()] == []
    assert [name for name in KEPT if not (guest.root / name).exists()] == []
    assert (guest.root / "etc/machine-id").read_bytes() == b""
    assert guest.calls == []  # a mounted file system is not the machine that runs


def test_sealing_twice_is_quiet(guest: Guest) -> None:
    _furnish(guest.root)
    guest.run("gpuvm-seal.sh", guest.root)
    done = guest.run("gpuvm-seal.sh", guest.root)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_linked_machine_id_stays_a_link(guest: Guest) -> None:
    _furnish(guest.root)
    link = guest.root / "var/lib/dbus/machine-id"
    link.unlink()
    link.symlink_to("/etc/machine-id")
    guest.run("gpuvm-seal.sh", guest.root)
    assert link.is_symlink()
