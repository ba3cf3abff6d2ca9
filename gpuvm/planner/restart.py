"""Powering on what exists: with its own GPUs, or with others when somebody has taken those."""

from collections.abc import Sequence
from dataclasses import replace

from gpuvm.accelerators import DeviceGroup
from gpuvm.devices import GPU, Device, PassthroughDevice, VGPUDevice, in_group
from gpuvm.errors import PreflightRefused, Unplaceable
from gpuvm.inventory import UNREADABLE_HINT, VM, Host, Inventory
from gpuvm.planner.allocations import after_step, without_holder
from gpuvm.planner.capacity import fixed, left_gib, reserves_gib
from gpuvm.planner.model import Plan, Step
from gpuvm.spec import ClusterSpec


def plan_start(vms: Sequence[VM], spec: ClusterSpec, inventory: Inventory) -> Plan:
    """Powers on those of ``vms`` that are off; nothing is made, and nothing else is changed.

    Raises PreflightRefused, and Unplaceable when a GPU that is needed is nowhere free.
    """
    now, steps = inventory, []
    for vm in vms:
        step = _running(vm, now) if vm.powered_on else start_step(vm, now)
        now = after_step(now, step)
        steps.append(step)
    return Plan(
        spec=spec,
        vcenter=inventory.vcenter,
        cluster=inventory.cluster,
        template=None,
        snapshot=None,
        network=None,
        cpus=None,
        memory_gib=None,
        steps=tuple(steps),
        starts_only=True,
    )


def start_step(vm: VM, inventory: Inventory) -> Step:
    """A fixed device stays on its host; what is bound at power-on may be found on another one."""
    check_shown(vm)
    if vm.template:
        raise PreflightRefused(
            f"{vm.name} is a VM template now and cannot be powered on",
            hint="convert it to a virtual machine in vCenter, or choose another deployment name",
        )
    host = _host(vm, inventory)
    if host.unusable and not _may_change_host(vm):
        raise PreflightRefused(f"{vm.name} is on {host.name}: {host.unusable}")
    lost = _lost_disks(vm, host, inventory)
    if lost and not _may_change_host(vm):
        raise PreflightRefused(f"{vm.name} is on {host.name}, and its disks: {lost}")
    candidates = [host] if not host.unusable and not lost else []
    if _may_change_host(vm) and vm.devices:
        candidates += [
            h for h in inventory.hosts if h.name != host.name and _may_go(vm, h, inventory)
        ]
    for candidate in candidates:
        found = _gpus_on(vm, candidate)
        if found is not None and _has_memory(vm, candidate) and _offers(vm, candidate):
            gpus, devices = found
            away = candidate if candidate.name != host.name else None
            moves = away is not None and not inventory.cluster.drs_places
            step = Step("power-on", vm.name, vm.index or 0, host, gpus, devices, vm.instance_uuid)
            return replace(step, vm=vm, move_to=away if moves else None)
    raise _nothing_free(vm, host, inventory)


def check_shown(vm: VM) -> None:
    """Raises PreflightRefused for a VM of which too little is to be seen to do anything with it."""
    if vm.hidden:
        raise PreflightRefused(f"{vm.name}: {vm.hidden}", hint=UNREADABLE_HINT)


def _running(vm: VM, inventory: Inventory) -> Step:
    host = _host(vm, inventory)
    gpus = tuple(gpu for gpu in host.gpus if vm.has(gpu))
    return Step("keep", vm.name, vm.index or 0, host, gpus, vm.devices, vm.instance_uuid, vm)


def _host(vm: VM, inventory: Inventory) -> Host:
    host = inventory.host(vm.host)
    if host is None:
        raise PreflightRefused(f"{vm.name} is on {vm.host}, which is not in the cluster")
    return host


def _may_change_host(vm: VM) -> bool:
    return not any(isinstance(device, PassthroughDevice) for device in vm.devices)


def _may_go(vm: VM, host: Host, inventory: Inventory) -> bool:
    """Only the VM is moved, its disks stay where they are; maintenance of a datastore is no bar."""
    reaches = set(vm.datastores) <= set(host.datastores)
    return not host.unusable and reaches and not _lost_disks(vm, host, inventory)


def _lost_disks(vm: VM, host: Host, inventory: Inventory) -> str:
    """Which of the VM's datastores the host cannot write to, and why; empty as a rule."""
    troubles = (
        f"{store.name}: {dict(store.troubles)[host.moref]}"
        for store in inventory.datastores
        if store.moref in vm.datastores and host.moref in dict(store.troubles)
    )
    return "; ".join(troubles)


def _has_memory(vm: VM, host: Host) -> bool:
    return reserves_gib(vm) <= left_gib(host)


def _offers(vm: VM, host: Host) -> bool:
    """A vendor device group is known by its name only, which is in the VM's creation spec."""
    wanted = getattr(ClusterSpec.from_creation_spec(vm.creation_spec), "accelerator", None)
    return not isinstance(wanted, DeviceGroup) or host.device_group(wanted.group) is not None


def _gpus_on(vm: VM, host: Host) -> tuple[tuple[GPU, ...], tuple[Device, ...]] | None:
    """The GPUs on ``host`` for the VM's devices, and the devices as they must be for that."""
    gpus: list[GPU] = []
    devices: list[Device] = []
    for device in vm.devices:
        gpu = next((g for g in host.gpus if _gpu_for(g, device, vm, gpus)), None)
        if gpu is None:
            gpu = next((g for g in host.gpus if _substitute_for(g, device, gpus)), None)
        if gpu is None:
            return None
        gpus.append(gpu)
        devices.append(_device(device, gpu))
    return tuple(gpus), tuple(devices)


def _device(device: Device, gpu: GPU) -> Device:
    """A fixed device is built again if the systemId is known, because that may have changed."""
    if not isinstance(device, PassthroughDevice):
        return device
    same = gpu.pci_address == device.pci_address
    return device if same and not gpu.system_id else fixed(gpu)


def _gpu_for(gpu: GPU, device: Device, vm: VM, chosen: Sequence[GPU]) -> bool:
    """The GPU that the device names, or one that fits it; nobody else runs with it."""
    if isinstance(device, VGPUDevice):
        already = chosen.count(gpu)
        apart = in_group(device) and already  # a group has one device of each of its GPUs
        return not apart and gpu.vgpus_left(device.profile, already) > 0
    others = [holder for holder in gpu.holders if holder.moref != vm.moref]
    if any(holder.powered_on for holder in others) or gpu in chosen or not gpu.active:
        return False
    if isinstance(device, PassthroughDevice):
        return gpu.pci_address == device.pci_address
    return device.allows(gpu) and not any(holder.keeps for holder in others)


def _substitute_for(gpu: GPU, device: Device, chosen: Sequence[GPU]) -> bool:
    """A free GPU of the same host and kind instead of a fixed one that was taken."""
    if not isinstance(device, PassthroughDevice) or not gpu.free or gpu in chosen:
        return False
    if gpu.system_id == "":  # its host was asked and did not tell
        return False
    return format(gpu.device_id, "x") == device.device_id.lower().removeprefix("0")


def _nothing_free(vm: VM, host: Host, inventory: Inventory) -> Unplaceable:
    named = {d.pci_address for d in vm.devices if isinstance(d, PassthroughDevice)}
    others = [without_holder(gpu, vm.moref) for gpu in host.gpus if gpu.pci_address in named]
    held = [gpu for gpu in others if not gpu.free]
    why = "; ".join(f"{gpu.pci_address} on {gpu.host} is {gpu.state}" for gpu in held)
    return Unplaceable(
        f"{vm.name} cannot be powered on: " + (why or "no host has a free GPU and memory for it"),
        table=[(g.host, g.pci_address, g.name, g.state) for g in inventory.gpus],
        hint=_hint(held),
    )


def _hint(held: Sequence[GPU]) -> str:
    """Follows the reason: passthrough that is off has no holder, and waiting does not help."""
    for gpu in held:
        kept = any(holder.keeps for holder in gpu.holders)
        if not kept and not gpu.profiles and gpu.capable and gpu.enabled != gpu.active:
            return f"gpuvm passthrough enable {gpu.host} --reboot"
        if not kept and not gpu.profiles and gpu.capable and not gpu.active:
            return f"gpuvm passthrough enable {gpu.host}, with --reboot where it needs one"
    return "stop the holder, or wait: 'gpuvm gpus' shows who holds which GPU"
