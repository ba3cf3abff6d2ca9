"""Which host gets which VM: one per host, packed or spread, around what is held and promised."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gpuvm.accelerators import VGPU, DeviceGroup, DynamicPassthrough, Passthrough
from gpuvm.devices import GPU
from gpuvm.errors import Unplaceable
from gpuvm.fitting import fits
from gpuvm.inventory import Host, Inventory
from gpuvm.planner.capacity import Room
from gpuvm.planner.model import Finding, Step
from gpuvm.spec import ClusterSpec


@dataclass(frozen=True)
class Place:
    host: Host
    gpus: tuple[GPU, ...]


def place(
    spec: ClusterSpec,
    inventory: Inventory,
    missing: int,
    existing: Sequence[Step],
    needed_gib: float,
    why_left_out: Callable[[Host], str | None],
) -> tuple[list[Place], list[Finding]]:
    """A place for each of ``missing`` new VMs, and which hosts were left out and why.

    ``why_left_out`` says what a host lacks beside GPUs and memory.

    ``inventory`` is as it will be when ``existing`` are done. Raises Unplaceable, with the table of
    who holds what.
    """
    rooms, findings = _rooms(spec, inventory, existing, needed_gib, why_left_out)
    ways = {"one-per-host": _one_per_host, "pack": _pack, "spread": _spread}
    places = list(ways[spec.placement](spec, rooms, missing))
    if len(places) < missing:
        raise _unplaceable(spec, inventory, existing, missing, len(places), findings)
    return places, findings


def no_gpu_at_all(inventory: Inventory) -> Unplaceable:
    return Unplaceable(
        f"no host of {inventory.cluster.name} has an NVIDIA GPU that this account can see",
        hint="--accelerator none makes VMs without one",
    )


def _rooms(
    spec: ClusterSpec,
    inventory: Inventory,
    existing: Sequence[Step],
    needed_gib: float,
    why_left_out: Callable[[Host], str | None],
) -> tuple[list[Room], list[Finding]]:
    rooms, findings = [], []
    for host in inventory.hosts:
        room = Room(host, spec, needed_gib)
        room.vms = sum(step.runs_on.name == host.name for step in existing)
        full = spec.placement == "one-per-host" and room.vms >= spec.per_host
        why = host.unusable or room.too_small or room.silent or why_left_out(host)
        if why is None:
            rooms.append(room)
        elif not full:
            findings.append(Finding(f"{host.name} is left out: {why}"))
    return rooms, findings


def _one_per_host(spec: ClusterSpec, rooms: Sequence[Room], missing: int) -> Iterator[Place]:
    """``per_host`` on each: hosts that have some of them first, then empty ones that fit all."""
    begun = [room for room in rooms if 0 < room.vms < spec.per_host]
    empty = sorted((room for room in rooms if not room.vms), key=lambda room: room.borrows)
    for room in (*begun, *empty):
        wanted = min(spec.per_host - room.vms, missing)
        if wanted > 0 and room.capacity(wanted) >= wanted:
            missing -= wanted
            yield from _fill(room, wanted)


def _pack(_: ClusterSpec, rooms: Sequence[Room], missing: int) -> Iterator[Place]:
    """As few hosts as possible, those that have some already first."""
    for room in sorted(rooms, key=lambda room: (-room.vms, room.borrows)):
        taken = list(_fill(room, missing))
        missing -= len(taken)
        yield from taken


def _spread(_: ClusterSpec, rooms: Sequence[Room], missing: int) -> Iterator[Place]:
    """Each VM to the host that has fewest of them."""
    for _number in range(missing):
        for room in sorted(rooms, key=lambda room: (room.vms, room.borrows)):
            gpus = room.take()
            if gpus is not None:
                yield Place(room.host, gpus)
                break


def _fill(room: Room, at_most: int) -> Iterator[Place]:
    for _number in range(at_most):
        gpus = room.take()
        if gpus is None:
            return
        yield Place(room.host, gpus)


def _unplaceable(
    spec: ClusterSpec,
    inventory: Inventory,
    existing: Sequence[Step],
    missing: int,
    fitting: int,
    findings: Sequence[Finding],
) -> Unplaceable:
    reasons = "".join(f"; {finding.text}" for finding in findings)
    room = f"{fitting} host{'' if fitting == 1 else 's'} of {inventory.cluster.name} left"
    if spec.placement != "one-per-host" or spec.per_host > 1:
        room = f"{inventory.cluster.name} has room for {fitting}"
    most = (len(existing) + fitting) // spec.per_host
    return Unplaceable(
        f"{missing} more VM{'s' if missing > 1 else ''} wanted, {room} with {_need(spec)}{reasons}",
        table=[(g.host, g.pci_address, g.name, g.state) for g in inventory.gpus],
        hint=_hint(spec, inventory) or (f"at most --hosts {most} fits now" if most else None),
    )


def _need(spec: ClusterSpec) -> str:
    wanted = spec.accelerator
    if isinstance(wanted, VGPU):
        return f"{wanted.count} vGPU{'s' if wanted.count > 1 else ''} {wanted.profile} left"
    if isinstance(wanted, (Passthrough, DynamicPassthrough)):
        return f"{wanted.count} free GPU{'s' if wanted.count > 1 else ''}"
    if isinstance(wanted, DeviceGroup):
        return f"a free device group {wanted.group}"
    return "room for the VM"


def _hint(spec: ClusterSpec, inventory: Inventory) -> str | None:
    """A name that is nowhere in the cluster is said before how many would fit."""
    if not spec.has_gpu or any(fits(spec, gpu) for gpu in inventory.gpus):
        return None
    if isinstance(spec.accelerator, VGPU):
        offered = sorted({p.name for gpu in inventory.gpus for p in gpu.profiles})
        return "the hosts offer: " + (", ".join(offered) or "no vGPU profile at all")
    return "no GPU of the cluster is of that kind: 'gpuvm gpus' lists them"
