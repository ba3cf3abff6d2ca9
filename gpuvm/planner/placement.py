"""Which host gets which VM: one per host, packed or spread, around what is held and promised."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gpuvm.accelerators import VGPU, DeviceGroup, DynamicPassthrough, Passthrough
from gpuvm.devices import GPU
from gpuvm.errors import Unplaceable
from gpuvm.fitting import fits
from gpuvm.inventory import Host, Inventory
from gpuvm.planner.capacity import HostCapacity
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
    capacities, findings = _capacities(spec, inventory, existing, needed_gib, why_left_out)
    ways = {"one-per-host": _one_per_host, "pack": _pack, "spread": _spread}
    places = list(ways[spec.placement](spec, capacities, missing))
    if len(places) < missing:
        raise _unplaceable(spec, inventory, existing, missing, len(places), findings)
    return places, findings


def no_gpu_at_all(inventory: Inventory) -> Unplaceable:
    return Unplaceable(
        f"no host of {inventory.cluster.name} has an NVIDIA GPU that this account can see",
        hint="--accelerator none makes VMs without one",
    )


def _capacities(
    spec: ClusterSpec,
    inventory: Inventory,
    existing: Sequence[Step],
    needed_gib: float,
    why_left_out: Callable[[Host], str | None],
) -> tuple[list[HostCapacity], list[Finding]]:
    capacities, findings = [], []
    for host in inventory.hosts:
        capacity = HostCapacity(host, spec, needed_gib)
        capacity.vms = sum(step.runs_on.name == host.name for step in existing)
        full = spec.placement == "one-per-host" and capacity.vms >= spec.per_host
        why = host.unusable or capacity.too_small or capacity.no_system_id or why_left_out(host)
        if why is None:
            capacities.append(capacity)
        elif not full:
            findings.append(Finding(f"{host.name} is left out: {why}"))
    return capacities, findings


def _one_per_host(
    spec: ClusterSpec, capacities: Sequence[HostCapacity], missing: int
) -> Iterator[Place]:
    """``per_host`` on each: hosts that have some of them first, then empty ones that fit all."""
    begun = [capacity for capacity in capacities if 0 < capacity.vms < spec.per_host]
    empty = sorted(
        (capacity for capacity in capacities if not capacity.vms),
        key=lambda capacity: capacity.reuses_lent_gpu,
    )
    for capacity in (*begun, *empty):
        wanted = min(spec.per_host - capacity.vms, missing)
        if wanted > 0 and capacity.capacity(wanted) >= wanted:
            missing -= wanted
            yield from _fill(capacity, wanted)


def _pack(_: ClusterSpec, capacities: Sequence[HostCapacity], missing: int) -> Iterator[Place]:
    """Use as few hosts as possible, those that have VMs of ours already first."""
    for capacity in sorted(
        capacities, key=lambda capacity: (-capacity.vms, capacity.reuses_lent_gpu)
    ):
        taken = list(_fill(capacity, missing))
        missing -= len(taken)
        yield from taken


def _spread(_: ClusterSpec, capacities: Sequence[HostCapacity], missing: int) -> Iterator[Place]:
    """Each VM to the host that has fewest of them."""
    for _number in range(missing):
        for capacity in sorted(
            capacities, key=lambda capacity: (capacity.vms, capacity.reuses_lent_gpu)
        ):
            gpus = capacity.allocate()
            if gpus is not None:
                yield Place(capacity.host, gpus)
                break


def _fill(capacity: HostCapacity, at_most: int) -> Iterator[Place]:
    for _number in range(at_most):
        gpus = capacity.allocate()
        if gpus is None:
            return
        yield Place(capacity.host, gpus)


def _unplaceable(
    spec: ClusterSpec,
    inventory: Inventory,
    existing: Sequence[Step],
    missing: int,
    fitting: int,
    findings: Sequence[Finding],
) -> Unplaceable:
    reasons = "".join(f"; {finding.text}" for finding in findings)
    capacity = f"{fitting} host{'' if fitting == 1 else 's'} of {inventory.cluster.name} left"
    if spec.placement != "one-per-host" or spec.per_host > 1:
        capacity = f"{inventory.cluster.name} has room for {fitting}"
    most = (len(existing) + fitting) // spec.per_host
    return Unplaceable(
        f"{missing} more VM{'s' if missing > 1 else ''} wanted, "
        f"{capacity} with {_need(spec)}{reasons}",
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
