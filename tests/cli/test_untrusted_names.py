"""A vCenter whose VMs and hosts have hostile names: every command shows them, and does no more.

They have no ESC, which XML cannot carry, but C1 characters, with which sequences begin as well.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import untrusted
from simulated_vcenter import QUICK, Rig, rig_of
from typer.testing import CliRunner

from gpuvm.cli import main
from gpuvm.lab.description import DatastoreDescription, HostDescription, VMDescription, describe

HOSTS = ("esx\x9d0;owned\x9c[/]", "'; touch gone #[bold]x", "esx\u202e:fire:\x9b2J", "h" * 3000)
HOLDER = "\x9b2J[/bold]\u2066holder"
OWN = "[/][bold]own\x9b2J"


@pytest.fixture(scope="module")
def hostile(home: Path) -> Iterator[Rig]:
    """The GPU of the last host is held by a VM; the others are free."""
    shape = describe(hosts=len(HOSTS))
    hosts = [
        HostDescription(name=name, gpus=host.gpus)
        for name, host in zip(HOSTS, shape.hosts, strict=True)
    ]
    holder = VMDescription(name=HOLDER, host=HOSTS[-1], gpu=hosts[-1].gpus[0].pci_address)
    changed = {
        "hosts": tuple(hosts),
        "vms": (holder,),
        "datastores": (DatastoreDescription(name="store\x9b31m[/]\u202e"),),
        "networks": ("net\x9d0;x[red]",),
        "timings": QUICK,
    }
    with rig_of(home, "hostile", shape.model_copy(update=changed)) as rig:
        yield rig


def shown(rig: Rig, *command: str, exit_code: int = 0) -> str:
    done = CliRunner().invoke(main.app, [*command, "-c", rig.context.name])
    assert done.exit_code == exit_code, (command, done.output, done.exception)
    assert untrusted.unprintable(done.output) == set(), command
    assert untrusted.longest_word(done.output) < 1000
    return done.output


def test_every_command_shows_them_as_they_are(hostile: Rig) -> None:
    gpus = shown(hostile, "gpus")
    assert r"esx\x9d0;owned\x9c[/]" in gpus
    assert r"\x9b2J[/bold]\u2066holder" in gpus
    assert "'; touch gone #[bold]x" in gpus
    assert r"esx\u202e:fire:\x9b2J" in gpus
    shown(hostile, "plan", "--hosts", "3", exit_code=10)
    refused = shown(hostile, "plan", "--hosts", "4", exit_code=3)
    assert "holder" in refused
    shown(hostile, "provision", "--hosts", "2", "--until", "powered-on", "--yes")
    with hostile.connect() as connection:
        (first, _) = hostile.own_vms(connection, "gpuvm")
    with hostile.in_vcenter(first) as vm:
        vm.Rename_Task(newName=OWN)
    for command in (["status", "--no-guests"], ["deployments"], ["doctor"]):
        shown(hostile, *command, exit_code=3 if command == ["doctor"] else 0)
    assert r"[/][bold]own\x9b2J" in shown(hostile, "status", "--no-guests")
    assert r"[/][bold]own\x9b2J" in shown(hostile, "deployments")
    data = json.loads(shown(hostile, "status", "--no-guests", "--json"))["data"]
    assert OWN in [vm["vm"] for vm in data["vms"]]
    assert r"[/][bold]own\x9b2J: removed" in shown(hostile, "teardown")
