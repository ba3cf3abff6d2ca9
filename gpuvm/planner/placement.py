"""Placement of new VMs on hosts: one per host, pack or spread."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gpuvm.accelerators import VGPU, DeviceGroup, DynamicPassthrough, Passthrough
from gpuvm.devices import GPU
from gpuvm.errors import Unplaceable
from gpuvm.fitting import fits
from gpuvm.inventory import Host, Inventory
from gpuvm.planner.capacity import HostCapacity
from gpuvm.planner.model import Finding, LeftOut, Step
from gpuvm.spec import ClusterSpec
from gpuvm.text import counted, typed_word

SHOWN_HOSTS = 8


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
    why_left_out: Callable[[Host], LeftOut | None],
) -> tuple[list[Place], list[Finding]]:
    """Return a place for each of ``missing`` new VMs, and findings about hosts that are left out.

    ``why_left_out`` returns why a host takes no new VM, GPUs and memory aside. ``inventory`` is the
    one after the steps ``existing``. Raises Unplaceable, with the table of GPUs and their holders.
    """
    capacities, left_out = _capacities(spec, inventory, existing, needed_gib, why_left_out)
    policies = {"one-per-host": _one_per_host, "pack": _pack, "spread": _spread}
    places = list(policies[spec.placement](spec, capacities, missing))
    if len(places) < missing:
        raise _unplaceable(spec, inventory, existing, missing, len(places), left_out)
    return places, _findings(left_out)


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
    why_left_out: Callable[[Host], LeftOut | None],
) -> tuple[list[HostCapacity], dict[LeftOut, list[str]]]:
    capacities: list[HostCapacity] = []
    left_out: dict[LeftOut, list[str]] = {}
    for host in inventory.hosts:
        capacity = HostCapacity(host, spec, needed_gib)
        capacity.vms = sum(step.runs_on.name == host.name for step in existing)
        full = spec.placement == "one-per-host" and capacity.vms >= spec.per_host
        why = _why(host, capacity) or why_left_out(host)
        if why is None:
            capacities.append(capacity)
        elif not full:
            left_out.setdefault(why, []).append(host.name)
    return capacities, left_out


def _why(host: Host, capacity: HostCapacity) -> LeftOut | None:
    if host.unusable:
        return LeftOut(host.unusable, host.remedy)
    if capacity.too_small:
        return LeftOut(capacity.too_small, "a lower memory_gib, or free memory on the hosts")
    if capacity.no_system_id:
        return LeftOut(capacity.no_system_id, "'gpuvm doctor' says what is missing")
    return None


def _findings(left_out: Mapping[LeftOut, Sequence[str]]) -> list[Finding]:
    """Hosts of one kind are left out for one reason."""
    by_reason: dict[str, list[str]] = {}
    for reason, hosts in left_out.items():
        by_reason.setdefault(reason.why, []).extend(hosts)
    return [_finding(why, hosts) for why, hosts in by_reason.items()]


def _finding(why: str, hosts: Sequence[str]) -> Finding:
    more = f" and {len(hosts) - SHOWN_HOSTS} more" if len(hosts) > SHOWN_HOSTS else ""
    verb = "is" if len(hosts) == 1 else "are"
    return Finding(f"{', '.join(hosts[:SHOWN_HOSTS])}{more} {verb} left out: {why}")


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
        in_order = sorted(capacities, key=lambda one: (one.vms, one.reuses_assigned_gpu))
        found = ((one, one.allocate()) for one in in_order)
        place = next((Place(one.host, gpus) for one, gpus in found if gpus is not None), None)
        if place is None:
            return
        yield place


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
    left_out: Mapping[LeftOut, Sequence[str]],
) -> Unplaceable:
    reasons = "".join(f"; {finding.text}" for finding in _findings(left_out))
    capacity = f"{inventory.cluster.name} has {counted(fitting, 'host')} left"
    if spec.placement != "one-per-host" or spec.per_host > 1:
        capacity = f"{inventory.cluster.name} has room for {fitting}"
    return Unplaceable(
        f"{counted(missing, 'more VM')} needed, {capacity} with {_need(spec)}{reasons}",
        table=[
            (gpu.host, gpu.pci_address, gpu.name, _state(gpu, left_out))
            for gpu in (inventory.gpus if spec.has_gpu else ())
        ],
        hint=_hint(spec, inventory, len(existing), missing, fitting, left_out)
        or _remedies(left_out)
        or "ask for less: 'gpuvm gpus' lists what there is",
    )


def _state(gpu: GPU, left_out: Mapping[LeftOut, Sequence[str]]) -> str:
    is_out = any(gpu.host in hosts for hosts in left_out.values())
    return f"{gpu.state}, but its host is left out" if is_out else gpu.state


def _need(spec: ClusterSpec) -> str:
    wanted = spec.accelerator
    if isinstance(wanted, VGPU):
        return f"{counted(wanted.count, 'free vGPU')} {wanted.profile}"
    if isinstance(wanted, (Passthrough, DynamicPassthrough)):
        return counted(wanted.count, "free GPU")
    if isinstance(wanted, DeviceGroup):
        return f"a free device group {wanted.group}"
    return "enough memory"


def _hint(
    spec: ClusterSpec,
    inventory: Inventory,
    existing: int,
    missing: int,
    fitting: int,
    left_out: Mapping[LeftOut, Sequence[str]],
) -> str | None:
    """What to do, from what keeps the VMs out: kind, state, how many on one host, how many at all.

    A name that is nowhere in the cluster is said before how many would fit.
    """
    usable = [host for host in inventory.hosts if not host.unusable]
    shapes = {host.name: [g for g in host.gpus if fits(spec, g)] for host in usable}
    found = [gpu for gpus in shapes.values() for gpu in gpus]
    free = {name: sum(gpu.free for gpu in gpus) for name, gpus in shapes.items()}
    whole = isinstance(spec.accelerator, (Passthrough, DynamicPassthrough))
    told = None
    if spec.has_gpu and not any(fits(spec, gpu) for gpu in inventory.gpus):
        told = _not_of_the_cluster(spec, inventory)
    elif whole and found and not any(free.values()):
        out = {host for hosts in left_out.values() for host in hosts}
        elsewhere = any(gpu.free and gpu.host in out for gpu in inventory.gpus)
        told = _none_is_free(found, _remedies(left_out) if elsewhere else "")
    elif whole and any(free.values()):
        told = _not_on_one_host(spec, max(free.values()), sum(free.values()), missing)
    most = (existing + fitting) // spec.per_host
    return told or (f"at most --hosts {most} fits now" if most else None)


def _remedies(left_out: Mapping[LeftOut, Sequence[str]]) -> str:
    """For what leaves out the most hosts, and the second most."""
    weights: Counter[str] = Counter()
    for reason, hosts in left_out.items():
        weights[reason.remedy] += len(hosts)
    return "; or ".join(remedy for remedy, _ in weights.most_common(2))


def _not_of_the_cluster(spec: ClusterSpec, inventory: Inventory) -> str:
    if not isinstance(spec.accelerator, VGPU):
        return "no GPU in the cluster matches: 'gpuvm gpus' lists them"
    offered = _profiles(inventory.gpus)
    if offered:
        return f"vGPU profiles of the hosts: {offered}"
    return "vGPU profiles of the hosts: none; --accelerator passthrough gives whole GPUs"


def _none_is_free(found: Sequence[GPU], remedies: str) -> str:
    """Of whole GPUs of the right kind; ``remedies`` are for hosts left out where some are free."""
    offered = _profiles(found)
    if offered:
        return f"their hosts share these GPUs: --accelerator vgpu:PROFILE, which is {offered}"
    idle = [g for g in found if g.capable and not any(holder.blocks for holder in g.holders)]
    waiting = next((gpu for gpu in idle if gpu.reboot_pending), None)
    off = next((gpu for gpu in idle if not gpu.active), None)
    if waiting is not None:
        return f"'gpuvm passthrough enable {typed_word(waiting.host)} --reboot'"
    if off is not None:
        return (
            f"'gpuvm passthrough enable {typed_word(off.host)}', with --reboot where it needs one"
        )
    return remedies or "stop a holder, or wait: the table says who holds which GPU"


def _not_on_one_host(spec: ClusterSpec, most: int, free: int, missing: int) -> str | None:
    """Free GPUs that are there, and not where the VMs would have to be."""
    count = getattr(spec.accelerator, "count", 1)
    if most < count:
        return (
            f"a VM's GPUs are all of its host, and the most that is free on one is {most}: "
            f"accelerator.count: {most}"
        )
    together = spec.per_host * count
    if spec.placement == "one-per-host" and most < together and free >= missing * count:
        return (
            f"{counted(spec.per_host, 'VM')} on each host would need "
            f"{counted(together, 'free GPU')} there, and the most that is free on one is {most}: "
            "--placement spread takes them wherever they are"
        )
    return None


def _profiles(gpus: Sequence[GPU]) -> str:
    return ", ".join(sorted({profile.name for gpu in gpus for profile in gpu.profiles}))
