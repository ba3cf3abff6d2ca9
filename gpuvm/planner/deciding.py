"""plan(spec, inventory) -> Plan: what is wanted minus what is there. Pure: no clock, no network."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from gpuvm import ownership, selection
from gpuvm.errors import PreflightRefused
from gpuvm.inventory import VM, Inventory
from gpuvm.planner import mmio, rooms
from gpuvm.planner.model import Action, Finding, Plan, Step
from gpuvm.planner.placing import Place, no_gpu_at_all, place
from gpuvm.planner.starting import start_step
from gpuvm.spec import ClusterSpec


def plan(spec: ClusterSpec, inventory: Inventory, *, scale_down: bool = False) -> Plan:
    """Decides which VM goes to which host and GPU.

    Raises NotFound and Ambiguous for names, PreflightRefused and Unplaceable (with the table of
    who holds what) when the wish cannot be met; nothing was touched then.
    """
    selection.check_names(spec, inventory)
    kept, surplus, missing = _compare(spec, inventory, scale_down=scale_down)
    if missing and spec.has_gpu and not inventory.gpus:
        raise no_gpu_at_all(inventory)
    if missing:
        selection.check_device_group(spec, inventory)
    template = selection.template(spec, inventory) if missing else None
    memory_gib = spec.memory_gib or (template.memory_gib if template else None)
    existing = [_existing(spec, inventory, vm) for vm in kept]
    places, findings = place(spec, inventory, len(missing), existing, memory_gib or 0)
    created = [_create(spec, inventory, i, p) for i, p in zip(missing, places, strict=True)]
    _check_names(created, inventory)
    _check_pool(spec, inventory, memory_gib, created)
    steps = sorted([*existing, *created], key=lambda step: step.index)
    hosts = [step.host for step in created]
    return Plan(
        spec=spec,
        vcenter=inventory.vcenter,
        cluster=inventory.cluster,
        template=template,
        snapshot=selection.snapshot(spec, template) if template else None,
        datastore=selection.datastore(spec, inventory, hosts, template, len(created))
        if template
        else None,
        network=selection.network(spec, inventory, hosts),
        cpus=spec.cpus or (template.cpus if template else None),
        memory_gib=memory_gib,
        mmio_gib=mmio.of_plan(spec, steps),
        steps=(*steps, *(_step("remove", vm, inventory) for vm in surplus)),
        findings=(
            *findings,
            *_copies(spec, inventory),
            *_memory_findings(memory_gib, created),
        ),
    )


def replan_lost(
    plan: Plan, lost: Step, inventory: Inventory, promised: Collection[tuple[str, str]]
) -> Step | None:
    """Another place for a VM whose GPU somebody else took first, or None when there is none.

    ``inventory`` was read after the loss; ``promised`` are the (host, PCI address) that other VMs
    of this command are going to by now.
    """
    spec = plan.spec
    taken_hosts = {host for host, _ in promised} if spec.placement == "one-per-host" else set()
    for host in inventory.hosts:
        if host.unusable or (spec.per_host == 1 and host.name in taken_hosts - {lost.host.name}):
            continue
        left = tuple(g for g in host.gpus if (host.name, g.pci_address) not in promised)
        room = rooms.Room(replace(host, gpus=left), spec, plan.memory_gib or 0)
        gpus = room.take()
        if gpus is not None:
            return _create(spec, inventory, lost.index, Place(host, gpus))
    return None


def _compare(
    spec: ClusterSpec, inventory: Inventory, *, scale_down: bool
) -> tuple[list[VM], list[VM], list[int]]:
    """VMs to keep, VMs too many, and the numbers of those that are missing."""
    ours = inventory.ours(spec.name)
    surplus = [vm for vm in ours if (vm.index or 0) > spec.vms]
    if surplus and not scale_down:
        raise PreflightRefused(
            f"{len(ours)} VMs of '{spec.name}' exist, {spec.vms} wanted: "
            f"{_names(surplus)} would be removed",
            hint="say --scale-down if that is what you want",
        )
    kept = [vm for vm in ours if vm not in surplus]
    present = {vm.index for vm in kept}
    return kept, surplus, [i for i in range(1, spec.vms + 1) if i not in present]


def _existing(spec: ClusterSpec, inventory: Inventory, vm: VM) -> Step:
    if vm.spec_digest != spec.digest():
        raise PreflightRefused(
            f"{vm.name} was made from another wish than the one in force now",
            hint=f"'gpuvm teardown' first, or another deployment name than '{spec.name}'",
        )
    return _step("keep", vm, inventory) if vm.powered_on else start_step(vm, inventory)


def _step(action: Action, vm: VM, inventory: Inventory) -> Step:
    host = inventory.host(vm.host)
    if host is None:
        raise PreflightRefused(f"{vm.name} is on {vm.host}, which is not in the cluster")
    gpus = tuple(gpu for gpu in host.gpus if vm.has(gpu))
    return Step(action, vm.name, vm.index or 0, host, gpus, vm.devices, vm.instance_uuid, vm)


def _create(spec: ClusterSpec, inventory: Inventory, index: int, place: Place) -> Step:
    derived = ownership.instance_uuid(inventory.vcenter.instance_uuid, spec.name, index)
    devices = rooms.devices(spec, place.host, place.gpus, inventory.gpus)
    return Step("create", spec.vm_name(index), index, place.host, place.gpus, devices, derived)


def _check_names(created: Sequence[Step], inventory: Inventory) -> None:
    """A name is the lock between two operators, so a taken one is nobody's to work around."""
    for step in created:
        if step.name in inventory.names_in_folder:
            raise PreflightRefused(
                f"a VM named {step.name} exists in the folder and is not ours",
                hint="choose another deployment name: 'name:' in gpuvm.yaml or --name",
            )


def _copies(spec: ClusterSpec, inventory: Inventory) -> list[Finding]:
    return [
        Finding(f"{vm.name} is a copy of one of our VMs; it is left alone")
        for vm in inventory.copies(spec.name)
    ]


def _check_pool(
    spec: ClusterSpec, inventory: Inventory, memory_gib: float | None, created: Sequence[Step]
) -> None:
    """A VM with a GPU reserves all of its memory, in its resource pool too."""
    left = inventory.cluster.unreserved_gib
    wanted = (memory_gib or 0) * len(created)
    if not spec.has_gpu or left is None or wanted <= left:
        return
    raise PreflightRefused(
        f"{len(created)} VMs would reserve {wanted:g} GiB of memory, and the resource pool has "
        f"{left:.0f} GiB unreserved",
        hint="a smaller memory_gib, another resource_pool, or a larger reservation of this one",
    )


def _memory_findings(memory_gib: float | None, steps: Sequence[Step]) -> list[Finding]:
    largest = max(
        (sum(rooms.device_memory_gib(step.devices, step.gpus)) for step in steps), default=0
    )
    if not steps or (memory_gib or 0) >= 1.5 * largest:
        return []
    return [
        Finding(
            f"{memory_gib:g} GiB of memory is little beside {largest} GiB of GPU memory",
            hint=f"memory_gib: {int(1.5 * largest)} or more is the usual advice",
        )
    ]


def _names(vms: Sequence[VM]) -> str:
    return ", ".join(vm.name for vm in vms)
