"""gpuvm status: the deployment in vCenter and in the guests, compared with the spec."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from gpuvm import guest, lifecycle, planner, spec
from gpuvm.cli import deployments, output
from gpuvm.cli.options import ClusterOption, DeploymentOptions, HostsOption, PerHostOption, grouped
from gpuvm.cli.output import State
from gpuvm.cli.session import Session, open_session
from gpuvm.cli.tables import Prose
from gpuvm.errors import Ambiguous, BadInput, GpuvmError, SharedAddress
from gpuvm.inventory import VM, Inventory, UnreadableVM
from gpuvm.ownership import copy_note
from gpuvm.text import counted, how_long, one_line

TIMEOUT_S = 10
AT_ONCE = 16


@dataclass(frozen=True)
class Inside:
    """The GPUs that the guest's nvidia-smi lists; if unknown, ``text`` is why, ``gpus`` None."""

    text: str = "-"
    gpus: int | None = None
    idle: guest.IdleState | None = None
    """None if the guest does not shut down when idle."""
    shared: SharedAddress | None = None
    """Why the guest was not asked: another one might have answered."""
    address: str | None = None
    """The one that answered, of those that the guest reports."""


@dataclass(frozen=True)
class Seen:
    vm: VM
    gpus: tuple[str, ...]
    inside: Inside
    drift: tuple[str, ...]

    @property
    def address(self) -> str | None:
        """Without an answer over SSH, the first that the guest reports."""
        return self.inside.address or self.vm.address


@grouped
def status(
    ctx: typer.Context,
    guests: Annotated[
        bool, typer.Option("--guests/--no-guests", help="Also check running guests over SSH.")
    ] = True,
    hosts: HostsOption = None,
    per_host: PerHostOption = None,
    cluster: ClusterOption = None,
    every: Annotated[
        bool, typer.Option("--all", help="List every deployment in the vCenter instead.")
    ] = False,
    *,
    options: DeploymentOptions,
) -> None:
    """Show the deployment's VMs: power, address, GPUs in vCenter and in the guest, and drift.

    [bold]Examples[/]

        gpuvm status

        gpuvm status --hosts 4 --no-guests --json

        gpuvm status --all

    Drift is the difference from the spec that each VM was created from. If gpuvm.yaml or an option
    sets the number of VMs, it also includes VMs that are missing, surplus, powered off, or created
    from a different spec.
    It works from any machine with the vCenter's credentials; checking guests needs an SSH key that
    they accept.
    """
    wanted = options.spec(cluster=cluster, hosts=hosts, per_host=per_host)
    given = (
        _given(options.file)
        if wanted.model_fields_set - {"context", "name", "cluster"} - spec.COUNT
        else None
    )
    if every and (options.deployment or cluster):
        raise BadInput("--all is of the whole vCenter: leave --name and --cluster out")
    with open_session(ctx, options.context, wanted.context) as session:
        if every:
            deployments.finish(ctx, "status", deployments.list_all(session.vsphere.read_marked()))
            return
        inventories = _inventories(wanted, session)
        ours = [vm for inventory in inventories for vm in inventory.ours(wanted.name)]
        inside = _inside(session, ours) if guests else {}
        others = [] if ours else _others(inventories, session)
    against = Against(wanted, given, counted=bool(wanted.model_fields_set & spec.COUNT))
    found = compare(inventories, against, inside)
    if not ctx.ensure_object(State).json:
        _print_status(found, wanted.name, others)
    there = {"deployments": [one.name for one in others]} if others else {}
    output.finish(ctx, output.Result("status", found.data(against) | there))


def _inventories(wanted: spec.ClusterSpec, session: Session) -> list[Inventory]:
    """Of each cluster that the deployment's VMs are in, where several fit and none is named."""
    try:
        return [lifecycle.read_inventory(wanted, session.vsphere)]
    except Ambiguous as error:
        if error.kind != "cluster" or wanted.cluster is not None:
            raise
    clusters = session.vsphere.clusters_of(wanted.name)
    of_each = [wanted.model_copy(update={"cluster": cluster}) for cluster in clusters]
    return [lifecycle.read_inventory(one, session.vsphere) for one in of_each]


def _others(inventories: Sequence[Inventory], session: Session) -> list[deployments.Listed]:
    """An inventory has every marked VM of the vCenter; without one they are read."""
    marked = inventories[0].vms if inventories else session.vsphere.read_marked()
    return deployments.list_all(marked)


@dataclass(frozen=True)
class Against:
    """The spec to compare with; ``counted`` if it or an option sets the number of VMs.

    ``file`` is None if no file defines the VMs, as in the starter that `gpuvm init` writes.
    """

    wanted: spec.ClusterSpec
    file: Path | None
    counted: bool


@dataclass(frozen=True)
class Found:
    """``missing`` are the names of VMs in the spec that do not exist."""

    seen: tuple[Seen, ...]
    hidden: tuple[UnreadableVM, ...]
    missing: tuple[str, ...]
    copies: tuple[VM, ...]

    def data(self, against: Against) -> dict[str, Any]:
        """Return the data of ``--json``."""
        return {
            "deployment": against.wanted.name,
            "wanted": against.wanted.vms if against.counted else None,
            "vms": [_vm_json(one) for one in self.seen],
            "unreadable": [
                {"vm": vm.name, "host": vm.host, "powered_on": vm.powered_on, "why": vm.why}
                for vm in self.hidden
            ],
            "missing": self.missing,
            "copies": [vm.name for vm in self.copies],
        }


def compare(
    inventories: Sequence[Inventory], against: Against, inside: Mapping[str, Inside]
) -> Found:
    """``inside`` is the result of the guest checks by VM name; an inventory is one cluster's."""
    name = against.wanted.name
    seen: list[Seen] = []
    copies: list[VM] = []
    hidden: dict[int, UnreadableVM] = {}
    for inventory in inventories:
        hidden |= planner.unreadable(name, inventory)
        copies += inventory.copies(name)
        seen += [
            _seen(vm, inventory, against, inside.get(vm.name, Inside()))
            for vm in inventory.ours(name)
        ]
    present = {one.vm.index for one in seen} | hidden.keys()
    return Found(
        tuple(seen),
        tuple(hidden.values()),
        tuple(_missing(present, against)),
        tuple(dict.fromkeys(copies)),
    )


def _given(file: Path | None) -> Path | None:
    return file or (spec.FILE if spec.FILE.exists() else None)


def _missing(present: Collection[int | None], against: Against) -> list[str]:
    """Return the names of VMs in the spec that do not exist."""
    if not against.counted:
        return []
    wanted = against.wanted
    return [wanted.vm_name(i) for i in range(1, wanted.vms + 1) if i not in present]


def _inside(session: Session, vms: Sequence[VM]) -> dict[str, Inside]:
    running = [vm for vm in vms if vm.powered_on and vm.address]
    shared = session.vsphere.others_at(running)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda vm: _check_guest(session, vm, shared.get(vm.moref, {})), running)
    return {vm.name: inside for vm, inside in zip(running, found, strict=True)}


def _check_guest(session: Session, vm: VM, shared: Mapping[str, Sequence[str]]) -> Inside:
    for address, others in shared.items():
        error = SharedAddress(vm.name, address, others)
        return Inside("not asked: its address is not its own", shared=error)
    try:
        with guest.connect(guest.endpoint(vm, session.context), timeout_s=TIMEOUT_S) as shell:
            found = guest.query_gpus(shell)
            idle = guest.idle_state(shell, session.context.guest.work_dir)
    except GpuvmError as error:
        return Inside(f"unknown: {error}")
    text = ", ".join(found.gpu_names) or "no GPU"
    if idle is not None:
        text += f"; shuts down after {how_long(idle.limit_s)} without use"
    return Inside(text, len(found.gpu_names), idle, address=shell.endpoint.address)


def _seen(vm: VM, inventory: Inventory, against: Against, inside: Inside) -> Seen:
    drift = (
        *planner.drift(vm, inventory),
        *_differences_from_spec(vm, against, inventory),
        *_in_the_guest(vm, inside),
        *_idle_shutdown(inside, against),
    )
    return Seen(vm, planner.assigned(vm), inside, drift)


def _differences_from_spec(vm: VM, against: Against, inventory: Inventory) -> Iterator[str]:
    if against.counted and (vm.index or 0) > against.wanted.vms:
        yield f"surplus: the spec has {counted(against.wanted.vms, 'VM')}"
        return
    if (against.counted or against.file) and not vm.powered_on:
        yield "it is powered off"
    others = planner.differences(vm, against.wanted, inventory) if against.file else ()
    if others:
        yield f"created from a different spec than {against.file}: {'; '.join(others)}"


def _in_the_guest(vm: VM, inside: Inside) -> Iterator[str]:
    """The guest's driver may not be able to use all GPUs of the VM."""
    if inside.shared is not None:
        yield str(inside.shared)
    has, sees = len(vm.devices), inside.gpus
    if sees is None or sees == has:
        return
    known = "no GPU" if sees == 0 else counted(sees, "GPU")
    why = ": its driver, or the 64-bit MMIO window" if sees < has else ""
    yield f"the guest sees {known}, its virtual hardware has {has}{why}"


def _idle_shutdown(inside: Inside, against: Against) -> Iterator[str]:
    has = inside.idle
    if has is not None and has.problem is not None:
        yield f"idle shutdown failed: {has.problem}"
    if inside.gpus is None or against.file is None:
        return
    limit = against.wanted.idle_shutdown
    wanted_s = limit.total_seconds() if limit else None
    if wanted_s != (has.limit_s if has else None):
        says = "nothing" if wanted_s is None else how_long(wanted_s)
        yield f"{against.file} says {says} of idle_shutdown: 'gpuvm provision' applies it"


def _print_status(found: Found, deployment: str, others: Sequence[deployments.Listed]) -> None:
    if not found.seen and not found.hidden and not found.missing:
        output.line(f"no VM of '{deployment}' exists: create them with 'gpuvm provision'")
    else:
        rows = sorted([*map(row, found.seen), *map(_hidden_row, found.hidden)])
        rows += [(name, *"-----", "it is missing") for name in found.missing]
        prose = map(Prose, ("GPU IN VCENTER", "IN THE GUEST", "DRIFT"))
        columns = ("VM", "HOST", "POWER", "ADDRESS", *prose)
        output.table(columns, rows)
    if others:
        known = ", ".join(f"{one_line(one.name)} ({len(one.vms)})" for one in others)
        output.line(f"deployments in this vCenter: {known}; --name selects one")
    for vm in found.copies:
        output.line(f"note: {copy_note(vm)}")
    shared = next((one.inside.shared for one in found.seen if one.inside.shared), None)
    if shared is not None and shared.hint:
        output.line(f"note: {shared.hint}")


def row(seen: Seen) -> tuple[str, ...]:
    vm = seen.vm
    return (
        vm.name,
        vm.host,
        vm.power,
        seen.address or "-",
        ", ".join(seen.gpus) or "-",
        seen.inside.text,
        "; ".join(seen.drift) or "none",
    )


def _hidden_row(vm: UnreadableVM) -> tuple[str, ...]:
    return (vm.name, vm.host or "-", vm.power, *"---", vm.why)


def _vm_json(seen: Seen) -> dict[str, Any]:
    vm = seen.vm
    return {
        "vm": vm.name,
        "host": vm.host,
        "powered_on": vm.powered_on,
        "template": vm.template,
        "address": seen.address,
        "accelerator": vm.accelerator,
        "gpus": seen.gpus,
        "in_guest": seen.inside.text,
        "idle_shutdown_s": seen.inside.idle.limit_s if seen.inside.idle else None,
        "drift": seen.drift,
    }
