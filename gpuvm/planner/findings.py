"""What a plan says beside its steps: nothing of it stands in the way."""

from collections.abc import Iterator, Sequence

from gpuvm.accelerators import DynamicPassthrough, Passthrough
from gpuvm.inventory import Datastore, Inventory, VMTemplate
from gpuvm.planner.model import Finding, Step
from gpuvm.planner.rooms import device_memory_gib
from gpuvm.spec import ClusterSpec
from gpuvm.storage import Space


def findings(
    spec: ClusterSpec,
    inventory: Inventory,
    template: VMTemplate | None,
    memory_gib: float | None,
    created: Sequence[Step],
) -> Iterator[Finding]:
    """``memory_gib`` is each new VM's."""
    yield from _of_the_source(template, inventory)
    for vm in inventory.copies(spec.name):
        yield Finding(f"{vm.copy_of_ours}; it is left alone")
    yield from map(_lent, _borrowers(created))
    yield from _doubts(created)
    if isinstance(spec.accelerator, (Passthrough, DynamicPassthrough)):
        yield from _parts_of_boards(created)
    if any(step.gpus for step in created):
        yield from map(Finding, inventory.notes)
    largest = max((sum(device_memory_gib(s.devices, s.gpus)) for s in created), default=0)
    if created and (memory_gib or 0) < 1.5 * largest:
        yield Finding(
            f"{memory_gib:g} GiB of memory is little beside {largest} GiB of GPU memory",
            hint=f"memory_gib: {int(1.5 * largest)} or more is the usual advice",
        )


def _of_the_source(template: VMTemplate | None, inventory: Inventory) -> Iterator[Finding]:
    for host in inventory.hosts:
        if template is not None and host.moref == template.host and host.in_maintenance_mode:
            yield Finding(
                f"{template.name} is registered on {host.name}, which is in maintenance mode",
                hint="clones read its disks through that host: do not reboot it meanwhile",
            )


def of_the_store(space: Space, store: Datastore) -> Iterator[Finding]:
    """Room that could not be looked at; and thin disks that fit as they are, and not if filled."""
    if store.hidden:
        yield Finding(
            f"datastore {store.name}: {store.hidden}; whether it has room is not known: {space}"
        )
        return
    if space.gib + space.growth_gib <= store.free_gib or not space.growth_gib:
        return
    yield Finding(
        f"the thin disks of {space.clones} new VMs take {space.disks_gib:.0f} GiB now and can grow "
        f"to {space.disks_gib + space.growth_gib:.0f} GiB; datastore {store.name} has "
        f"{store.free_gib:.0f} GiB free",
        hint="a VM stops when it writes to a full datastore: watch its free space, or take "
        "another one with --datastore",
    )


def _parts_of_boards(created: Sequence[Step]) -> Iterator[Finding]:
    """Several GPUs of an HGX board, without the switches that gpuvm gives to nobody."""
    parts: dict[str, list[Step]] = {}
    for step in created:
        behind = {gpu.pci_address for gpu in step.host.switched_gpus}
        if len([gpu for gpu in step.gpus if gpu.pci_address in behind]) > 1:
            parts.setdefault(step.host.name, []).append(step)
    for host, steps in parts.items():
        yield Finding(
            f"{', '.join(step.name for step in steps)}: {len(steps[0].gpus)} GPUs of the HGX board "
            f"of {host} without its {len(steps[0].host.nvswitches)} NVSwitches: CUDA answers there "
            "with error 802, system not yet initialized",
            hint="one GPU for each VM (count: 1), or a vendor device group of the host, which "
            "'gpuvm gpus' lists",
        )


def _doubts(created: Sequence[Step]) -> Iterator[Finding]:
    for step in created:
        for name in dict.fromkeys(h.vm for gpu in step.gpus for h in gpu.suspects):
            yield Finding(
                f"{step.name} gets a GPU that {name} may hold",
                hint="no other is free; if it is taken, powering on says so",
            )


def _borrowers(created: Sequence[Step]) -> list[tuple[Step, str]]:
    """Steps whose GPU a stopped VM of ours still names, and that VM."""
    return [
        (step, holder.vm)
        for step in created
        for gpu in step.gpus
        for holder in gpu.holders
        if holder.ours and not holder.powered_on
    ]


def _lent(borrowed: tuple[Step, str]) -> Finding:
    step, lender = borrowed
    return Finding(
        f"{step.name} gets a GPU that {lender}, which is powered off, has lent",
        hint=f"'gpuvm start {lender}' then takes another free one of that host, or says who has it",
    )
