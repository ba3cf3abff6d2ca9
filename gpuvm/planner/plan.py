"""plan(spec, inventory) -> Plan: the difference between the spec and the inventory.

Pure: no clock, no network. All refusals are reported at once (Refusals). Findings are warnings of a
plan that can be applied.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from gpuvm import ownership, selection
from gpuvm.accelerators import DynamicPassthrough, Passthrough
from gpuvm.errors import Ambiguous, GpuvmError, NotFound, PreflightRefused, SeveralRefused
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
from gpuvm.planner.model import Action, Finding, LeftOut, Plan, Step
from gpuvm.planner.placement import Place, no_gpu_at_all, place
from gpuvm.planner.restart import check_shown, start_step
from gpuvm.planner.sameness import differences
from gpuvm.spec import ClusterSpec
from gpuvm.storage import Space, Storage
from gpuvm.storage import check_names as check_datastores
from gpuvm.text import counted, typed_word


class Refusals:
    """Collects what the checks in ``collected()`` blocks raise; ``check()`` raises it."""

    def __init__(self) -> None:
        self._errors: list[GpuvmError] = []

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        try:
            yield
        except GpuvmError as error:
            self._errors.append(error)

    @property
    def unresolved(self) -> set[str]:
        """The fields of the spec that name what does not exist, or several objects."""
        kinds = (e.kind for e in self._errors if isinstance(e, (NotFound, Ambiguous)))
        return {kind.removeprefix("VM ").replace(" ", "_") for kind in kinds}

    def check(self) -> None:
        """Raise a single error as it is, several different ones as SeveralRefused."""
        errors = list({str(error): error for error in self._errors}.values())
        if len(errors) > 1:
            raise SeveralRefused(errors)
        if errors:
            raise errors[0]


def plan(spec: ClusterSpec, inventory: Inventory, *, scale_down: bool = False) -> Plan:
    """Decide which VM goes to which host and GPU, and change nothing.

    Raises NotFound and Ambiguous for names, PreflightRefused and Unplaceable (with the table of
    GPUs and their holders) when the spec cannot be met, SeveralRefused for several of these.
    """
    kept, surplus, missing = _compare(spec, inventory)
    hidden = unreadable(spec.name, inventory)
    missing = [index for index in missing if index not in hidden]
    if missing and spec.has_gpu and not inventory.gpus:
        raise no_gpu_at_all(inventory)  # every other refusal would follow from this one
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
        _check_scale_down(spec, inventory, surplus, scale_down=scale_down)
    present = after_removal(inventory, surplus)
    template = _template(spec, inventory, missing, refusals)
    if not missing:
        with refusals.collected():
            _check_template_name(spec, inventory, kept)
    existing, later = _steps_for_existing(spec, present, kept, refusals)
    size = _size(spec, template)
    created, left_out = _steps_to_create(
        spec, inventory, later, template, missing, existing, size, refusals
    )
    with refusals.collected():
        _check_vm_names_free(spec, missing, inventory)
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
    """Raise PreflightRefused if there are VMs whose configuration vCenter does not show."""
    if hidden:
        raise PreflightRefused(
            "; ".join(f"{vm.name}: {vm.why}" for vm in hidden), hint=UNREADABLE_HINT
        )


def unreadable(deployment: str, inventory: Inventory) -> dict[int, UnreadableVM]:
    """Return by index the unreadable VMs that are probably the deployment's."""
    uuid = inventory.vcenter.instance_uuid
    numbered = ((ownership.index_in(uuid, deployment, vm), vm) for vm in inventory.unreadable)
    return {index: vm for index, vm in numbered if index is not None}


def replan_lost(
    plan: Plan, lost: Step, inventory: Inventory, reserved: Collection[tuple[str, str]]
) -> Step | None:
    """Return a step on another GPU for a VM whose GPU is now in use by another VM, or None.

    ``inventory`` was read after that was found; ``reserved`` are the GPUs (host, PCI address) of
    the plan's other VMs.
    """
    spec = plan.spec
    taken_hosts = {host for host, _ in reserved} if spec.placement == "one-per-host" else set()
    needed_gib = _Size(plan.cpus, plan.memory_gib).needed_gib(spec)
    why_left_out = _why_left_out(spec, inventory, plan.template, plan.cpus)
    for host in inventory.hosts:
        if (
            host.unusable
            or why_left_out(host)
            or (spec.per_host == 1 and host.name in taken_hosts - {lost.host.name})
        ):
            continue
        left = tuple(g for g in host.gpus if (host.name, g.pci_address) not in reserved)
        available = capacity.HostCapacity(replace(host, gpus=left), spec, needed_gib)
        gpus = available.allocate()
        if gpus is not None:
            firmware = plan.template.firmware if plan.template else ""
            step = _create(spec, inventory, lost.index, Place(host, gpus), firmware)
            return _with_datastore(step, lost.datastore, Storage(spec, inventory, plan.template))
    return None


def _with_datastore(step: Step, planned: Datastore | None, storage: Storage) -> Step | None:
    """Keep the planned datastore if the new host can use it, else choose one; None without one."""
    if planned is None or storage.usable(planned, step.host):
        return replace(step, datastore=planned)
    try:
        return replace(step, datastore=storage.choose([step.host])[step.host.name])
    except GpuvmError:
        return None


@dataclass(frozen=True)
class _Size:
    """CPUs and memory of each new VM: from the spec, else from the template, else None."""

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
    """Return the VMs to keep, the VMs to remove, and the indices of the missing ones."""
    existing = inventory.ours(spec.name)
    surplus = [vm for vm in existing if (vm.index or 0) > spec.vms]
    kept = [vm for vm in existing if vm not in surplus]
    present = {vm.index for vm in kept}
    return kept, surplus, [i for i in range(1, spec.vms + 1) if i not in present]


def _check_scale_down(
    spec: ClusterSpec, inventory: Inventory, surplus: Sequence[VM], *, scale_down: bool
) -> None:
    if surplus and not scale_down:
        raise PreflightRefused(
            f"'{spec.name}' has {counted(len(inventory.ours(spec.name)), 'VM')} and the spec asks "
            f"for {spec.vms}: {', '.join(vm.name for vm in surplus)} would be removed",
            hint="add --scale-down to remove them",
        )


def _template(
    spec: ClusterSpec, inventory: Inventory, missing: Sequence[int], refusals: Refusals
) -> VMTemplate | None:
    """Return None if no VM is to be created, or if no template fits (which is a refusal)."""
    if not missing:
        return None
    template = None
    with refusals.collected():
        template = selection.template(spec, inventory)
        selection.snapshot(spec, template)
    return template


def _check_template_name(spec: ClusterSpec, inventory: Inventory, kept: Sequence[VM]) -> None:
    """Raises NotFound or Ambiguous: a VM that seems to differ may only seem so.

    A VM that matches the spec does not need its template any more.
    """
    if spec.template and any(not vm.hidden and differences(vm, spec, inventory) for vm in kept):
        known = inventory.templates
        selection.choose("VM template", spec.template, known, (), inventory.cluster)


def _steps_for_existing(
    spec: ClusterSpec, inventory: Inventory, kept: Sequence[VM], refusals: Refusals
) -> tuple[list[Step], Inventory]:
    """Return a step for each existing VM, and the inventory after these steps."""
    steps, later = [], inventory
    for vm in kept:
        with refusals.collected():
            step = _step_for_existing(spec, later, vm, refusals.unresolved)
            later = after_step(later, step)
            steps.append(_with_window(spec, step, inventory, vm.firmware))
    return steps, later


def _step_for_existing(
    spec: ClusterSpec, inventory: Inventory, vm: VM, unresolved: Collection[str]
) -> Step:
    check_shown(vm)
    found = differences(vm, spec, inventory, unresolved=unresolved)
    if found:
        raise PreflightRefused(
            f"{vm.name} was created from a different spec: {'; '.join(found)}",
            hint="give the spec that it was created from, or another deployment name than "
            f"'{spec.name}'; only after 'gpuvm teardown' is it created anew",
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
    """Return steps that create the missing VMs, and findings about hosts that are left out."""
    if not missing:
        return [], ()
    with refusals.collected():
        selection.check_device_group(spec, inventory)
        why_left_out = _why_left_out(spec, inventory, template, size.cpus)
        places, left_out = place(
            spec, later, len(missing), existing, size.needed_gib(spec), why_left_out
        )
        return [
            _create(spec, inventory, index, one, template.firmware if template else "")
            for index, one in zip(missing, places, strict=True)
        ], left_out
    return [], ()


def _why_left_out(
    spec: ClusterSpec, inventory: Inventory, template: VMTemplate | None, cpus: int | None
) -> Callable[[Host], LeftOut | None]:
    """Return a function that says why a host takes no new VM, GPUs and memory aside."""
    storage = Storage(spec, inventory, template)

    def why(host: Host) -> LeftOut | None:
        if too_few := capacity.too_few_cpus(host, cpus):
            return LeftOut(too_few, "cpus: at most a host's logical ones")
        if template is not None and (too_new := selection.too_new_for(template, host)):
            return LeftOut(too_new, "a template with older virtual hardware, or a newer ESXi")
        if no_datastore := storage.why_left_out(host):
            return LeftOut(no_datastore, "--datastore names another, or make one usable there")
        return None

    return why


def _step(action: Action, vm: VM, inventory: Inventory) -> Step:
    host = inventory.host(vm.host)
    if host is None:
        raise PreflightRefused(f"{vm.name} is on {vm.host}, which is not in the cluster")
    gpus = tuple(gpu for gpu in host.gpus if vm.has(gpu))
    return Step(action, vm.name, vm.index or 0, host, gpus, vm.devices, vm.instance_uuid, vm)


def _create(
    spec: ClusterSpec, inventory: Inventory, index: int, place: Place, firmware: str
) -> Step:
    derived = ownership.instance_uuid(inventory.vcenter.instance_uuid, spec.name, index)
    devices = capacity.devices(spec, place.host, place.gpus, inventory.gpus)
    mmio.check_size(spec, devices, place.gpus, inventory.gpus)
    step = Step("create", spec.vm_name(index), index, place.host, place.gpus, devices, derived)
    return _with_window(spec, step, inventory, firmware)


def _with_window(spec: ClusterSpec, step: Step, inventory: Inventory, firmware: str) -> Step:
    window = mmio.window_gib(spec, step.devices, step.gpus, inventory.gpus, firmware)
    return replace(step, mmio_gib=window)


def _check_vm_names_free(spec: ClusterSpec, missing: Sequence[int], inventory: Inventory) -> None:
    """Refuse names that exist: a name in a folder is unique, which locks out a second operator."""
    for index in missing:
        name = spec.vm_name(index)
        if name in inventory.names_in_folder:
            raise PreflightRefused(
                f"{name} is not managed by gpuvm: a VM of that name exists in the folder",
                hint="choose another deployment name: 'name:' in gpuvm.yaml or --name",
            )


def _check_pool(spec: ClusterSpec, inventory: Inventory, size: _Size, clones: int) -> None:
    """A VM with a GPU reserves all of its memory, also from its resource pool."""
    left, wanted = inventory.cluster.unreserved_gib, size.needed_gib(spec) * clones
    if not spec.has_gpu or left is None or wanted <= left:
        return
    raise PreflightRefused(
        f"{counted(clones, 'VM')} would reserve {wanted:.1f} GiB of memory including overhead, "
        f"and the resource pool has {left:.1f} GiB unreserved",
        hint="use a smaller memory_gib or another resource_pool, or raise the pool's reservation",
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
    """Return the steps with their datastores, which depend on the hosts."""
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
    """Yield what the plan warns about; ``memory_gib`` is the memory of each new VM."""
    yield from _template_host_findings(template, inventory)
    for vm in inventory.copies(spec.name):
        yield Finding(ownership.copy_note(vm))
    yield from map(_assigned_gpu_finding, _steps_with_assigned_gpus(created))
    yield from _possible_holder_findings(created)
    if isinstance(spec.accelerator, (Passthrough, DynamicPassthrough)):
        yield from _partial_hgx_findings(created)
    if any(step.gpus for step in created):
        yield from map(Finding, inventory.notes)
    largest = max((sum(device_memory_gib(s.devices, s.gpus)) for s in created), default=0)
    if created and (memory_gib or 0) < 1.5 * largest:
        yield Finding(
            f"{memory_gib:g} GiB of memory is low for {largest} GiB of GPU memory",
            hint=f"memory_gib: {int(1.5 * largest)} or more is recommended",
        )


def _template_host_findings(template: VMTemplate | None, inventory: Inventory) -> Iterator[Finding]:
    for host in inventory.hosts:
        if template is not None and host.moref == template.host and host.in_maintenance_mode:
            yield Finding(
                f"{template.name} is registered on {host.name}, which is in maintenance mode",
                hint="clones read its disks through that host: do not reboot it until they exist",
            )


def datastore_findings(space: Space, store: Datastore) -> Iterator[Finding]:
    """Warn if the free space is unknown, or too small for thin disks once they are full."""
    if store.hidden:
        yield Finding(f"datastore {store.name}: {store.hidden}; it may be too small: {space}")
        return
    if space.gib + space.growth_gib <= store.free_gib or not space.growth_gib:
        return
    yield Finding(
        f"the thin disks of {counted(space.clones, 'new VM')} take {space.disks_gib:.0f} GiB now "
        f"and can grow to {space.disks_gib + space.growth_gib:.0f} GiB; datastore {store.name} has "
        f"{store.free_gib:.0f} GiB free",
        hint="a VM stops when it writes to a full datastore: monitor its free space, or choose "
        "another one with --datastore",
    )


def _partial_hgx_findings(created: Sequence[Step]) -> Iterator[Finding]:
    """Warn about VMs with several GPUs of an HGX board: gpuvm does not pass through NVSwitches."""
    affected: dict[str, list[Step]] = {}
    for step in created:
        switched = {gpu.pci_address for gpu in step.host.switched_gpus}
        if len([gpu for gpu in step.gpus if gpu.pci_address in switched]) > 1:
            affected.setdefault(step.host.name, []).append(step)
    for host, steps in affected.items():
        switches = counted(len(steps[0].host.nvswitches), "NVSwitch", "NVSwitches")
        yield Finding(
            f"{', '.join(step.name for step in steps)}: {len(steps[0].gpus)} GPUs of the HGX board "
            f"of {host} without its {switches}: CUDA fails there "
            "with error 802, system not yet initialized",
            hint="use one GPU per VM (count: 1), or a vendor device group of the host: "
            "'gpuvm gpus' lists them",
        )


def _possible_holder_findings(created: Sequence[Step]) -> Iterator[Finding]:
    for step in created:
        for name in dict.fromkeys(h.vm for gpu in step.gpus for h in gpu.possible_holders):
            yield Finding(
                f"{step.name} gets a GPU that {name} may hold",
                hint="no other GPU is free; if this one is in use, power-on fails",
            )


def _steps_with_assigned_gpus(created: Sequence[Step]) -> list[tuple[Step, str]]:
    """Return steps whose GPU is assigned to a powered-off VM of gpuvm too, with that VM's name."""
    return [
        (step, holder.vm)
        for step in created
        for gpu in step.gpus
        for holder in gpu.holders
        if holder.ours and not holder.powered_on
    ]


def _assigned_gpu_finding(found: tuple[Step, str]) -> Finding:
    step, other = found
    return Finding(
        f"{step.name} gets a GPU that is also assigned to {other}, which is powered off",
        hint=f"'gpuvm start {typed_word(other)}' then uses another free GPU of that host, or names "
        "the holder",
    )
