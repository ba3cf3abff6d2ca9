"""Placement of new VMs on hosts: one per host, pack or spread."""

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
    """Return a place for each of ``missing`` new VMs, and findings about hosts that are left out.

    ``why_left_out`` returns why a host takes no new VM, GPUs and memory aside. ``inventory`` is the
    one after the steps ``existing``. Raises Unplaceable, with the table of GPUs and their holders.
    """
    capacities, findings = _capacities(spec, inventory, existing, needed_gib, why_left_out)
    policies = {"one-per-host": _one_per_host, "pack": _pack, "spread": _spread}
    places = list(policies[spec.placement](spec, capacities, missing))
    if len(places) < missing:
        raise _unplaceable(spec, inventory, existing, missing, len(places), findings)
    return places, findings


def no_gpu_at_all(inventory: Inventory) -> Unplaceable:
    return Unplaceable(
        f"no host of {inventory.cluster.name} has an NVIDIA GPU that this account can see",
        hint="--accelerator none creates VMs without a GPU",
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
    """Put ``per_host`` on each: first on hosts with some of them, then on hosts that fit all."""
    partly_used = [capacity for capacity in capacities if 0 < capacity.vms < spec.per_host]
    empty = sorted(
        (capacity for capacity in capacities if not capacity.vms),
        key=lambda capacity: capacity.reuses_assigned_gpu,
    )
    for capacity in (*partly_used, *empty):
        needed = min(spec.per_host - capacity.vms, missing)
        if needed > 0 and capacity.capacity(needed) >= needed:
            missing -= needed
            yield from _fill(capacity, needed)


def _pack(_: ClusterSpec, capacities: Sequence[HostCapacity], missing: int) -> Iterator[Place]:
    """Use as few hosts as possible, those with VMs of the deployment first."""
    for capacity in sorted(
        capacities, key=lambda capacity: (-capacity.vms, capacity.reuses_assigned_gpu)
    ):
        placed = list(_fill(capacity, missing))
        missing -= len(placed)
        yield from placed


def _spread(_: ClusterSpec, capacities: Sequence[HostCapacity], missing: int) -> Iterator[Place]:
    """Put each VM on the host with the fewest of them."""
    for _number in range(missing):
        for capacity in sorted(
            capacities, key=lambda capacity: (capacity.vms, capacity.reuses_assigned_gpu)
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
    capacity = f"{inventory.cluster.name} has {fitting} host{'' if fitting == 1 else 's'} left"
    if spec.placement != "one-per-host" or spec.per_host > 1:
        capacity = f"{inventory.cluster.name} has room for {fitting}"
    most = (len(existing) + fitting) // spec.per_host
    return Unplaceable(
        f"{missing} more VM{'s' if missing > 1 else ''} needed, "
        f"{capacity} with {_need(spec)}{reasons}",
        table=[(g.host, g.pci_address, g.name, g.state) for g in inventory.gpus],
        hint=_unknown_kind_hint(spec, inventory)
        or (f"at most --hosts {most} fits now" if most else None),
    )


def _need(spec: ClusterSpec) -> str:
    wanted = spec.accelerator
    if isinstance(wanted, VGPU):
        return f"{wanted.count} free vGPU{'s' if wanted.count > 1 else ''} {wanted.profile}"
    if isinstance(wanted, (Passthrough, DynamicPassthrough)):
        return f"{wanted.count} free GPU{'s' if wanted.count > 1 else ''}"
    if isinstance(wanted, DeviceGroup):
        return f"a free device group {wanted.group}"
    return "enough memory"


def _unknown_kind_hint(spec: ClusterSpec, inventory: Inventory) -> str | None:
    """Return a hint if no GPU of the cluster is of the kind that the spec names, else None."""
    if not spec.has_gpu or any(fits(spec, gpu) for gpu in inventory.gpus):
        return None
    if isinstance(spec.accelerator, VGPU):
        offered = sorted({p.name for gpu in inventory.gpus for p in gpu.profiles})
        return "vGPU profiles of the hosts: " + (", ".join(offered) or "none")
    return "no GPU in the cluster matches: 'gpuvm gpus' lists them"
