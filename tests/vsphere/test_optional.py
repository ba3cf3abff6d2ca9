"""Optional means optional: each thing that gpuvm reads is absent in turn.

The cases are made from the paths in the source and from pyVmomi's type table: an optional property
is unset, a required one is refused (the only way in which it can be missing), and so is
everything above them; then whole objects are invisible. No command ends in a Python error, nothing
that is not visible is assumed to be free, and what makes a difference is reported.
"""

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from property_paths import asked
from pyVmomi import VmomiSupport, vim
from simulated_vcenter import QUICK, Rig, rig_of

from gpuvm import doctor, lifecycle
from gpuvm.cli import gpus, status
from gpuvm.cli.plan_output import plan_json
from gpuvm.doctor import Check, CheckInput
from gpuvm.errors import GpuvmError
from gpuvm.events import Events
from gpuvm.inventory import Inventory
from gpuvm.lab.description import (
    DatastoreDescription,
    TemplateDescription,
    VMDescription,
    describe,
)
from gpuvm.planner import Plan
from gpuvm.spec import ClusterSpec
from gpuvm.vsphere import VSphere

NAME = "optional"
CARD = "0000:3b:00.0"
SPEC = f"""
name: {NAME}
hosts: 2
placement: spread
template: centos7-tensorflow
datastore: vsanDatastore
network: VM Network
"""
WHO = {
    vim.VirtualMachine: (f"{NAME}-01", "trainer", "sleeper", "centos7-tensorflow", "windows"),
    vim.HostSystem: tuple(f"esx-{n:02}.lab.local" for n in (1, 3, 4)),
    vim.ClusterComputeResource: ("GPU-Cluster",),
    vim.ResourcePool: ("Resources",),
    vim.Datacenter: ("Lab",),
    vim.Folder: ("vm", "host", "network", "datastore"),
    vim.Datastore: ("vsanDatastore", "archive"),
    vim.Network: ("VM Network", "storage"),
}
"""Ours and not ours, by name: what is hidden of each kind. The others are not in this lab."""


def above(path: str) -> Iterator[str]:
    """The path itself, and what it is part of."""
    parts = re.findall(r'[^.\[]+(?:\["[^"]*"\])?', path)
    yield from (".".join(parts[:n]) for n in range(1, len(parts) + 1))


def optional(kind: Any, path: str) -> bool:
    """Whether the API lets a vCenter leave it out; a key of a list may always be missing."""
    found = "[" in path
    for name in path.partition("[")[0].split("."):
        info = kind._GetPropertyInfo(name)
        found, kind = found or bool(info.flags & VmomiSupport.F_OPTIONAL), info.type
    return found


def cases() -> Iterator[Any]:
    """Each path of one object of its kind, in turn; of all the others in ``make soak``."""
    paths = {(kind, part) for _, kind, path in asked() for part in above(path)}
    for kind, names in WHO.items():
        mine = sorted({part for of, part in paths if issubclass(kind, of)})
        for place, path in enumerate(["", *mine]):
            for number, name in enumerate(names):
                marks = [] if number == place % len(names) or not path else [pytest.mark.soak]
                label = f"{name}-{path or 'itself'}"
                yield pytest.param(kind, name, path, id=label, marks=marks)


@pytest.fixture(scope="module")
def site(home: Path) -> Iterator[Rig]:
    """gpuvm-01 runs on one host, an unrelated VM on each of two others, and one host is free."""
    shape = describe(hosts=4).model_copy(
        update={
            "timings": QUICK,
            "vms": (
                VMDescription(name="trainer", host="esx-01.lab.local", gpu=CARD),
                VMDescription(name="sleeper", host="esx-02.lab.local", gpu=CARD, power="off"),
            ),
            "networks": ("VM Network", "storage"),
            "datastores": (DatastoreDescription(), DatastoreDescription(name="archive")),
            "templates": (
                TemplateDescription(datastore="vsanDatastore"),
                TemplateDescription(
                    name="windows", guest_id="windows2019srv_64Guest", datastore="archive"
                ),
            ),
        }
    )
    with rig_of(home, NAME, shape) as rig:
        with rig.connect() as connection:
            made = rig.provision(connection, rig.plan(connection, **spec_options(hosts=1)))
        assert not made.failed
        yield rig


def spec_options(**changed: Any) -> dict[str, Any]:
    pairs = (line.split(": ") for line in SPEC.strip().splitlines())
    return {**dict(pairs), **changed}


@pytest.fixture(scope="module")
def ids(site: Rig) -> dict[tuple[str, str], str]:
    with urllib.request.urlopen(f"{site.control}/ids") as answer:
        return {(one["kind"], one["name"]): one["id"] for one in json.load(answer)}


@pytest.fixture(scope="module")
def connection(site: Rig) -> Iterator[VSphere]:
    with site.connect() as made:
        yield made


@dataclass(frozen=True)
class Seen:
    """What the commands come to; a refusal is its text."""

    gpus: dict[str, Any]
    plan: dict[str, Any]
    status: dict[str, Any]
    doctor: tuple[Check, ...]
    inventory: Inventory | None = None
    refused: str = ""

    @property
    def free(self) -> set[tuple[str, str]]:
        """GPUs that are assigned without a warning."""
        listed = self.gpus.get("gpus", ())
        sure = [g for g in listed if g["free"] and not g["may_be_held_by"]]
        return {(g["host"], g["pci_address"]) for g in sure if not g["host_unusable"]}

    @property
    def message(self) -> set[str]:
        """All notes in addition to the facts."""
        drift = (text for vm in self.status.get("vms", ()) for text in vm["drift"])
        findings = (finding["text"] for finding in self.plan.get("findings", ()))
        checks = (check.text for check in self.doctor if check.level != "ok")
        hidden = (vm["why"] for vm in self.status.get("unreadable", ()))
        return {*self.gpus.get("notes", ()), *drift, *findings, *checks, *hidden, self.refused}


def seen(connection: VSphere) -> Seen:
    """gpus, plan, doctor and status of one reading; everything else reads the same."""
    wanted = ClusterSpec.model_validate(spec_options())
    try:
        inventory = connection.read_inventory()
    except GpuvmError as error:
        return Seen({}, {}, {}, (), refused=str(error))
    trial = doctor.make_trial_plan(wanted, inventory)
    checks = doctor.run_checks(CheckInput(wanted, inventory, trial, missing={}, tls="ca"))
    made = trial.plan
    plan = plan_json(made) if isinstance(made, Plan) else {}
    against = status.Against(wanted, None, counted=True)
    reported = status.compare([inventory], against, {}).data(against)
    return Seen(gpus.listed(inventory), plan, reported, checks, inventory)


@pytest.fixture(scope="module")
def whole(connection: VSphere) -> Seen:
    """What is seen when nothing is hidden."""
    found = seen(connection)
    assert {host for host, _ in found.free} == {"esx-04.lab.local"}
    assert found.message == {""}
    return found


@pytest.fixture
def hide(site: Rig, ids: dict[tuple[str, str], str]) -> Iterator[Callable[[Any, str, str], None]]:
    def hidden(kind: Any, name: str, path: str) -> None:
        moref = ids[kind.__name__.removeprefix("vim."), name]
        denied = bool(path) and not optional(kind, path)
        site.post("/hide", {"object": moref, "path": path, "denied": denied})

    yield hidden
    delete_all(site)


@pytest.mark.parametrize(("kind", "name", "path"), list(cases()))
def test_absent(
    kind: Any,
    name: str,
    path: str,
    hide: Callable[[Any, str, str], None],
    connection: VSphere,
    whole: Seen,
) -> None:
    hide(kind, name, path)
    found = seen(connection)
    if path != "name":  # for a name the id stands
        assert found.free <= whole.free
        assert found.message - whole.message or facts(found) == facts(whole)
    if found.inventory is not None:
        with suppress(GpuvmError):
            everything_else(connection, found.inventory)


def facts(one: Seen) -> Any:
    """What the commands state, without the words of doubt."""
    listed = [(g["host"], g["pci_address"], g["free"]) for g in one.gpus.get("gpus", ())]
    steps = [(s["vm"], s["action"], s["host"], s["gpus"]) for s in one.plan.get("steps", ())]
    words = ("drift", "address")  # the guest has not reported an address yet
    vms = [{k: v for k, v in vm.items() if k not in words} for vm in one.status.get("vms", ())]
    return listed, steps, vms, one.status.get("missing"), one.status.get("copies")


def everything_else(connection: VSphere, inventory: Inventory) -> None:
    """The reads of provisioning, teardown, start, stop and passthrough."""
    found = connection.read_deployment(NAME)
    for vm in found.ours:
        lifecycle.why_left(vm, with_disks=False, with_templates=False)
    morefs = [vm.moref for vm in found.ours]
    hosts = [host for host in inventory.hosts if host.name in WHO[vim.HostSystem]]
    connection.read_vms(morefs)
    connection.read_diagnosis(morefs)
    connection.read_holders([host.moref for host in hosts])
    for source in inventory.templates:
        connection.template(source.moref, source.name).state()
        connection.running_tasks(source.moref, "clone")
    connection.unfinished_templates()
    connection.clones_in_flight()
    connection.find_in_folder(inventory.cluster.vm_folder, f"{NAME}-01")
    with connection.update_stream() as stream:
        stream.follow_vms({vm.name: vm.moref for vm in found.ours})
        for host in hosts[:2]:
            connection.residents(host)
            connection.host_state(host)
            stream.follow_host(host.name, host.moref)
        stream.next_changes(1)


def test_vm_with_unreadable_hardware_is_kept(
    site: Rig, hide: Callable[[Any, str, str], None], connection: VSphere
) -> None:
    """It may have disks of somebody else by now, which destroying it would delete."""
    hide(vim.VirtualMachine, f"{NAME}-01", "config.hardware.device")
    own = site.own_vms(connection, NAME)
    done = lifecycle.teardown(own, connection, Events(), with_disks=True)
    (outcome,) = done.outcomes
    assert str(outcome.error) == (
        f"{NAME}-01 is not removed: vCenter does not show its virtual hardware; "
        "its other contents are unknown"
    )


def test_refused_and_unset_properties_are_distinguished(
    site: Rig, ids: dict[tuple[str, str], str]
) -> None:
    sleeper = ids["VirtualMachine", "sleeper"]
    for denied, who in ((True, "this account may not read"), (False, "vCenter does not show")):
        site.post("/hide", {"object": sleeper, "path": "config.hardware", "denied": denied})
        with site.connect() as connection:
            inventory = connection.read_inventory()
        message = f"sleeper may hold a GPU of esx-02.lab.local: {who} its virtual hardware"
        assert inventory.notes == (message,)
        gpu = next(gpu for gpu in inventory.gpus if gpu.host == "esx-02.lab.local")
        assert gpu.state == "free, unless sleeper has it"
        delete_all(site)


def delete_all(site: Rig) -> None:
    request = urllib.request.Request(f"{site.control}/hide", method="DELETE")
    urllib.request.urlopen(request).close()
