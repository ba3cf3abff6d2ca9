"""plan(spec, inventory) -> Plan: what is wanted minus what is there. Pure: no clock, no network.

Everything that stands in the way is reported at once (Refusals); findings are what a plan says
beside its steps, and do not stand in the way.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from gpuvm import ownership, selection
from gpuvm.accelerators import DynamicPassthrough, Passthrough
from gpuvm.errors import GpuvmError, PreflightRefused, SeveralRefused
from gpuvm.inventory import (
    UNREADABLE_HINT,
    VM,
    Datastore,
    Host,
    Inventory,
    UnreadableVM,
    VMTemplate,
)
from gpuvm.planner import capacity, mmio
from gpuvm.planner.allocations import after_removal, after_step
from gpuvm.planner.capacity import device_memory_gib
from gpuvm.planner.model import Action, Finding, Plan, Step
from gpuvm.planner.placement import Place, no_gpu_at_all, place
from gpuvm.planner.restart import check_shown, start_step
from gpuvm.planner.sameness import differences
from gpuvm.spec import ClusterSpec
from gpuvm.storage import Space, Storage
from gpuvm.storage import check_names as check_datastores


class Refusals:
    """Checks run in ``collected()`` blocks of their own; ``check()`` says what they refused."""

    def __init__(self) -> None:
        self._errors: list[GpuvmError] = []

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        try:
            yield
        except GpuvmError as error:
            self._errors.append(error)

    def check(self) -> None:
        """Raises the only one as it is, several as SeveralRefused."""
        once = list({str(error): error for error in self._errors}.values())
        if len(once) > 1:
            raise SeveralRefused(once)
        if once:
            raise once[0]


def plan(spec: ClusterSpec, inventory: Inventory, *, scale_down: bool = False) -> Plan:
    """Decides which VM goes to which host and GPU.

    Raises NotFound and Ambiguous for names, PreflightRefused and Unplaceable (with the table of
    who holds what) when the spec cannot be met, SeveralRefused when several things are in the way;
    nothing was touched then.
    """
    kept, surplus, missing = _compare(spec, inventory)
    hidden = unreadable(spec.name, inventory)
    missing = [index for index in missing if index not in hidden]
    if missing and spec.has_gpu and not inventory.gpus:
        raise no_gpu_at_all(inventory)  # other refusals would be noise
    refusals = Refusals()
    with refusals.collected():
        check_readable(list(hidden.values()))
    with refusals.collected():
        mmio.check(spec)
    with refusals.collected():
        check_datastores(spec, inventory)
    with refusals.collected():
        selection.check_names(spec, inventory)
    with refusals.collected():
        _check_shrinking(spec, inventory, surplus, scale_down=scale_down)
    present = after_removal(inventory, surplus)
    template = _template(spec, inventory, missing, refusals)
    existing, later = _steps_for_existing(spec, present, kept, refusals)
    size = _size(spec, template)
    created, left_out = _steps_to_create(
        spec, inventory, later, template, missing, existing, size, refusals
    )
    with refusals.collected():
        _check_names(spec, missing, inventory)
    with refusals.collected():
        _check_pool(spec, inventory, size, len(missing))
    created = _with_datastores(spec, inventory, template, created, refusals)
    refusals.check()
    steps = sorted([*existing, *created], key=lambda step: step.index)
    return Plan(
        spec=spec,
        vcenter=inventory.vcenter,
        cluster=inventory.cluster,
        template=template,
        snapshot=selection.snapshot(spec, template) if template else None,
        network=selection.network(spec, inventory, [step.host for step in created]),
        cpus=size.cpus,
        memory_gib=size.memory_gib,
        steps=(*steps, *(_step("remove", vm, inventory) for vm in surplus)),
        findings=(
            *left_out,
            *findings(spec, inventory, template, size.memory_gib, created),
            *_datastore_findings(spec, template, created),
        ),
        storage_policy=selection.storage_policy(spec, inventory),
    )


def check_readable(hidden: Sequence[UnreadableVM]) -> None:
    """Raises PreflightRefused for VMs of which nobody can tell what is to be done with them."""
    if hidden:
        raise PreflightRefused(
            "; ".join(f"{vm.name}: {vm.why}" for vm in hidden), hint=UNREADABLE_HINT
        )


def unreadable(deployment: str, inventory: Inventory) -> dict[int, UnreadableVM]:
    """By index: VMs that seem to be the deployment's own, and of which vCenter shows no more."""
    uuid = inventory.vcenter.instance_uuid
    numbered = ((ownership.index_in(uuid, deployment, vm), vm) for vm in inventory.unreadable)
    return {index: vm for index, vm in numbered if index is not None}


def replan_lost(
    plan: Plan, lost: Step, inventory: Inventory, promised: Collection[tuple[str, str]]
) -> Step | None:
    """Another place for a VM whose GPU somebody else took first, or None when there is none.

    ``inventory`` was read after the loss; ``promised`` are the (host, PCI address) that other VMs
    of this command are going to by now.
    """
    spec = plan.spec
    taken_hosts = {host for host, _ in promised} if spec.placement == "one-per-host" else set()
    needed_gib = _Size(plan.cpus, plan.memory_gib).needed_gib(spec)
    why_left_out = _why_left_out(spec, inventory, plan.template)
    for host in inventory.hosts:
        if (
            host.unusable
            or why_left_out(host)
            or (spec.per_host == 1 and host.name in taken_hosts - {lost.host.name})
        ):
            continue
        left = tuple(g for g in host.gpus if (host.name, g.pci_address) not in promised)
        room = capacity.HostCapacity(replace(host, gpus=left), spec, needed_gib)
        gpus = room.allocate()
        if gpus is not None:
            firmware = plan.template.firmware if plan.template else ""
            step = _create(spec, inventory, lost.index, Place(host, gpus), firmware)
            return _with_datastore(step, lost.datastore, Storage(spec, inventory, plan.template))
    return None


def _with_datastore(step: Step, before: Datastore | None, storage: Storage) -> Step | None:
    """On the datastore that it was to be on, where its new host has that one too."""
    if before is None or storage.usable(before, step.host):
        return replace(step, datastore=before)
    try:
        return replace(step, datastore=storage.choose([step.host])[step.host.name])
    except GpuvmError:
        return None


@dataclass(frozen=True)
class _Size:
    """CPUs and memory of each new VM: the spec's, else the template's, else None."""

    cpus: int | None
    memory_gib: float | None

    def needed_gib(self, spec: ClusterSpec) -> float:
        return capacity.needed_gib(self.memory_gib or 0, self.cpus or 0, reserved=spec.has_gpu)


def _size(spec: ClusterSpec, template: VMTemplate | None) -> _Size:
    return _Size(
        spec.cpus or (template.cpus if template else None),
        spec.memory_gib or (template.memory_gib if template else None),
    )


def _compare(spec: ClusterSpec, inventory: Inventory) -> tuple[list[VM], list[VM], list[int]]:
    """VMs to keep, VMs too many, and the numbers of those that are missing."""
    ours = inventory.ours(spec.name)
    surplus = [vm for vm in ours if (vm.index or 0) > spec.vms]
    kept = [vm for vm in ours if vm not in surplus]
    present = {vm.index for vm in kept}
    return kept, surplus, [i for i in range(1, spec.vms + 1) if i not in present]


def _check_shrinking(
    spec: ClusterSpec, inventory: Inventory, surplus: Sequence[VM], *, scale_down: bool
) -> None:
    if surplus and not scale_down:
        raise PreflightRefused(
            f"{len(inventory.ours(spec.name))} VMs of '{spec.name}' exist, {spec.vms} wanted: "
            f"{', '.join(vm.name for vm in surplus)} would be removed",
            hint="add --scale-down to remove them",
        )


def _template(
    spec: ClusterSpec, inventory: Inventory, missing: Sequence[int], refusals: Refusals
) -> VMTemplate | None:
    """None when no VM is to be made, or when there is no fitting one and that is a refusal."""
    if not missing:
        return None
    template = None
    with refusals.collected():
        template = selection.template(spec, inventory)
        selection.snapshot(spec, template)
    return template


def _steps_for_existing(
    spec: ClusterSpec, inventory: Inventory, kept: Sequence[VM], refusals: Refusals
) -> tuple[list[Step], Inventory]:
    """A step for each VM that is there, and the inventory as it will be when they are done."""
    steps, later = [], inventory
    for vm in kept:
        with refusals.collected():
            step = _step_for_existing(spec, later, vm)
            later = after_step(later, step)
            steps.append(_with_window(spec, step, inventory, vm.firmware))
    return steps, later


def _step_for_existing(spec: ClusterSpec, inventory: Inventory, vm: VM) -> Step:
    check_shown(vm)
    others = differences(vm, spec, inventory)
    if others:
        raise PreflightRefused(
            f"{vm.name} was created from a different spec: {'; '.join(others)}",
            hint=f"'gpuvm teardown' first, or another deployment name than '{spec.name}'",
        )
    return _step("keep", vm, inventory) if vm.powered_on else start_step(vm, inventory)


def _steps_to_create(
    spec: ClusterSpec,
    inventory: Inventory,
    later: Inventory,
    template: VMTemplate | None,
    missing: Sequence[int],
    existing: Sequence[Step],
    size: _Size,
    refusals: Refusals,
) -> tuple[list[Step], Sequence[Finding]]:
    """Steps for the VMs that are missing, and what is to be said of hosts that were left out."""
    if not missing:
        return [], ()
    with refusals.collected():
        selection.check_device_group(spec, inventory)
        why_left_out = _why_left_out(spec, inventory, template)
        places, left_out = place(
            spec, later, len(missing), existing, size.needed_gib(spec), why_left_out
        )
        return [
            _create(spec, inventory, index, where, template.firmware if template else "")
            for index, where in zip(missing, places, strict=True)
        ], left_out
    return [], ()


def _why_left_out(
    spec: ClusterSpec, inventory: Inventory, template: VMTemplate | None
) -> Callable[[Host], str | None]:
    """What keeps new VMs off a host, beside GPUs and memory."""
    storage = Storage(spec, inventory, template)

    def why(host: Host) -> str | None:
        too_new = selection.too_new_for(template, host) if template is not None else None
        return too_new or storage.why_left_out(host)

    return why


def _step(action: Action, vm: VM, inventory: Inventory) -> Step:
    host = inventory.host(vm.host)
    if host is None:
        raise PreflightRefused(f"{vm.name} is on {vm.host}, which is not in the cluster")
    gpus = tuple(gpu for gpu in host.gpus if vm.has(gpu))
    return Step(action, vm.name, vm.index or 0, host, gpus, vm.devices, vm.instance_uuid, vm)


def _create(
    spec: ClusterSpec, inventory: Inventory, index: int, where: Place, firmware: str
) -> Step:
    derived = ownership.instance_uuid(inventory.vcenter.instance_uuid, spec.name, index)
    devices = capacity.devices(spec, where.host, where.gpus, inventory.gpus)
    step = Step("create", spec.vm_name(index), index, where.host, where.gpus, devices, derived)
    return _with_window(spec, step, inventory, firmware)


def _with_window(spec: ClusterSpec, step: Step, inventory: Inventory, firmware: str) -> Step:
    window = mmio.window_gib(spec, step.devices, step.gpus, inventory.gpus, firmware)
    return replace(step, mmio_gib=window)


def _check_names(spec: ClusterSpec, missing: Sequence[int], inventory: Inventory) -> None:
    """A name is the lock between two operators, so a taken one is nobody's to work around."""
    for index in missing:
        name = spec.vm_name(index)
        if name in inventory.names_in_folder:
            raise PreflightRefused(
                f"a VM named {name} exists in the folder and is not ours",
                hint="choose another deployment name: 'name:' in gpuvm.yaml or --name",
            )


def _check_pool(spec: ClusterSpec, inventory: Inventory, size: _Size, clones: int) -> None:
    """A VM with a GPU reserves all of its memory, in its resource pool too."""
    left, wanted = inventory.cluster.unreserved_gib, size.needed_gib(spec) * clones
    if not spec.has_gpu or left is None or wanted <= left:
        return
    raise PreflightRefused(
        f"{clones} VMs would reserve {wanted:.1f} GiB of memory, overhead included, and the "
        f"resource pool has {left:.1f} GiB unreserved",
        hint="a smaller memory_gib, another resource_pool, or a larger reservation of this one",
    )


def _datastore_findings(
    spec: ClusterSpec, template: VMTemplate | None, created: Sequence[Step]
) -> Iterator[Finding]:
    stores = dict.fromkeys(step.datastore for step in created)
    for store in stores:
        if template is not None and store is not None:
            clones = sum(step.datastore == store for step in created)
            yield from datastore_findings(Space.of(spec, template, clones), store)


def _with_datastores(
    spec: ClusterSpec,
    inventory: Inventory,
    template: VMTemplate | None,
    created: Sequence[Step],
    refusals: Refusals,
) -> list[Step]:
    """The steps with their datastores, which are known once the VMs are placed."""
    hosts = [step.host for step in created]
    with refusals.collected():
        selection.network(spec, inventory, hosts)
    if template is not None and hosts:
        with refusals.collected():
            selection.check_template_network(spec, template, inventory, hosts)
    storage = Storage(spec, inventory, template)
    if template is None or not created or storage.misnamed:
        return list(created)
    with refusals.collected():
        chosen = storage.choose(hosts)
        return [replace(step, datastore=chosen[step.host.name]) for step in created]
    return list(created)


def findings(
    spec: ClusterSpec,
    inventory: Inventory,
    template: VMTemplate | None,
    memory_gib: float | None,
    created: Sequence[Step],
) -> Iterator[Finding]:
    """``memory_gib`` is each new VM's."""
    yield from _template_host_findings(template, inventory)
    for vm in inventory.copies(spec.name):
        yield Finding(f"{vm.copy_of_ours}; it is left alone")
    yield from map(_lent_gpu_finding, _steps_with_lent_gpus(created))
    yield from _doubtful_gpu_findings(created)
    if isinstance(spec.accelerator, (Passthrough, DynamicPassthrough)):
        yield from _partial_hgx_findings(created)
    if any(step.gpus for step in created):
        yield from map(Finding, inventory.notes)
    largest = max((sum(device_memory_gib(s.devices, s.gpus)) for s in created), default=0)
    if created and (memory_gib or 0) < 1.5 * largest:
        yield Finding(
            f"{memory_gib:g} GiB of memory is little beside {largest} GiB of GPU memory",
            hint=f"memory_gib: {int(1.5 * largest)} or more is the usual advice",
        )


def _template_host_findings(template: VMTemplate | None, inventory: Inventory) -> Iterator[Finding]:
    for host in inventory.hosts:
        if template is not None and host.moref == template.host and host.in_maintenance_mode:
            yield Finding(
                f"{template.name} is registered on {host.name}, which is in maintenance mode",
                hint="clones read its disks through that host: do not reboot it meanwhile",
            )


def datastore_findings(space: Space, store: Datastore) -> Iterator[Finding]:
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


def _partial_hgx_findings(created: Sequence[Step]) -> Iterator[Finding]:
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


def _doubtful_gpu_findings(created: Sequence[Step]) -> Iterator[Finding]:
    for step in created:
        for name in dict.fromkeys(h.vm for gpu in step.gpus for h in gpu.suspects):
            yield Finding(
                f"{step.name} gets a GPU that {name} may hold",
                hint="no other is free; if it is taken, powering on says so",
            )


def _steps_with_lent_gpus(created: Sequence[Step]) -> list[tuple[Step, str]]:
    """Steps whose GPU a stopped VM of ours still names, and that VM."""
    return [
        (step, holder.vm)
        for step in created
        for gpu in step.gpus
        for holder in gpu.holders
        if holder.ours and not holder.powered_on
    ]


def _lent_gpu_finding(borrowed: tuple[Step, str]) -> Finding:
    step, lender = borrowed
    return Finding(
        f"{step.name} gets a GPU that is also assigned to {lender}, which is powered off",
        hint=f"'gpuvm start {lender}' then takes another free one of that host, or says who has it",
    )
