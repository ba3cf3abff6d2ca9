"""Powering on existing VMs: with their own GPUs, or with others if those are in use."""

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
from gpuvm.text import typed_word


def plan_start(vms: Sequence[VM], spec: ClusterSpec, inventory: Inventory) -> Plan:
    """Plan to power on those of ``vms`` that are off, and nothing else.

    Raises PreflightRefused, and Unplaceable if a needed GPU is free on no host.
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
    """Return the power-on step; only a VM without fixed devices can move to another host."""
    check_shown(vm)
    if vm.template:
        raise PreflightRefused(
            f"{vm.name} is a VM template now and cannot be powered on",
            hint="convert it to a virtual machine in vCenter, or choose another deployment name",
        )
    host = _host(vm, inventory)
    if host.unusable and not _may_change_host(vm):
        raise PreflightRefused(f"{vm.name} is on {host.name}: {host.unusable}", hint=host.remedy)
    unreachable = _unreachable_disks(vm, host, inventory)
    if unreachable and not _may_change_host(vm):
        raise PreflightRefused(
            f"{host.name} cannot access the disks of {vm.name}: {unreachable}",
            hint=f"give {host.name} access to the datastore again",
        )
    candidates = [host] if not host.unusable and not unreachable else []
    if _may_change_host(vm) and vm.devices:
        candidates += [
            h for h in inventory.hosts if h.name != host.name and _can_move_to(h, vm, inventory)
        ]
    for candidate in candidates:
        found = _gpus_on(vm, candidate)
        if found is not None and _has_memory(vm, candidate) and _has_device_group(vm, candidate):
            gpus, devices = found
            moves = candidate.name != host.name and not inventory.cluster.drs_places
            step = Step("power-on", vm.name, vm.index or 0, host, gpus, devices, vm.instance_uuid)
            return replace(step, vm=vm, move_to=candidate if moves else None)
    raise _no_gpu_free(vm, host, inventory)


def check_shown(vm: VM) -> None:
    """Raise PreflightRefused if vCenter does not show enough of the VM."""
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


def _can_move_to(host: Host, vm: VM, inventory: Inventory) -> bool:
    """The disks are not moved, so a datastore in maintenance mode does not matter."""
    reaches = set(vm.datastores) <= set(host.datastores)
    return not host.unusable and reaches and not _unreachable_disks(vm, host, inventory)


def _unreachable_disks(vm: VM, host: Host, inventory: Inventory) -> str:
    """Return which of the VM's datastores the host cannot write to, and why; usually empty."""
    problems = (
        f"{store.name}: {dict(store.host_problems)[host.moref]}"
        for store in inventory.datastores
        if store.moref in vm.datastores and host.moref in dict(store.host_problems)
    )
    return "; ".join(problems)


def _has_memory(vm: VM, host: Host) -> bool:
    return reserves_gib(vm) <= left_gib(host)


def _has_device_group(vm: VM, host: Host) -> bool:
    """Whether the host offers the VM's device group, whose name is only in the creation spec."""
    used = getattr(ClusterSpec.from_creation_spec(vm.creation_spec), "accelerator", None)
    return not isinstance(used, DeviceGroup) or host.device_group(used.group) is not None


def _gpus_on(vm: VM, host: Host) -> tuple[tuple[GPU, ...], tuple[Device, ...]] | None:
    """Return GPUs on ``host`` for the VM's devices, and the devices changed to match; or None."""
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
    """Build a fixed device again if the systemId is known, because that may have changed."""
    if not isinstance(device, PassthroughDevice):
        return device
    same = gpu.pci_address == device.pci_address
    return device if same and not gpu.system_id else fixed(gpu)


def _gpu_for(gpu: GPU, device: Device, vm: VM, chosen: Sequence[GPU]) -> bool:
    """Whether the device can use the GPU, and no other running VM does."""
    if isinstance(device, VGPUDevice):
        already = chosen.count(gpu)
        same_group = in_group(device) and already  # a group has one device of each of its GPUs
        return not same_group and gpu.vgpus_left(device.profile, already) > 0
    others = [holder for holder in gpu.holders if holder.moref != vm.moref]
    if any(holder.powered_on for holder in others) or gpu in chosen or not gpu.active:
        return False
    if isinstance(device, PassthroughDevice):
        return gpu.pci_address == device.pci_address
    return device.allows(gpu) and not any(holder.blocks for holder in others)


def _substitute_for(gpu: GPU, device: Device, chosen: Sequence[GPU]) -> bool:
    """Whether the GPU is free and of the same model as the device's own, which is in use."""
    if not isinstance(device, PassthroughDevice) or not gpu.free or gpu in chosen:
        return False
    if gpu.system_id == "":  # its host was queried and returned none
        return False
    return format(gpu.device_id, "x") == device.device_id.lower().removeprefix("0")


def _no_gpu_free(vm: VM, host: Host, inventory: Inventory) -> Unplaceable:
    named = {d.pci_address for d in vm.devices if isinstance(d, PassthroughDevice)}
    others = [without_holder(gpu, vm.moref) for gpu in host.gpus if gpu.pci_address in named]
    held = [gpu for gpu in others if not gpu.free]
    why = "; ".join(f"{gpu.pci_address} on {gpu.host} is {gpu.state}" for gpu in held)
    return Unplaceable(
        f"{vm.name} cannot be powered on: "
        + (why or "no host has the free GPUs and memory that it needs"),
        table=[(g.host, g.pci_address, g.name, g.state) for g in inventory.gpus],
        hint=_no_gpu_hint(held) + _free_elsewhere(held, inventory),
    )


def _no_gpu_hint(held: Sequence[GPU]) -> str:
    """Suggest enabling passthrough if it is disabled: such a GPU has no holder to wait for."""
    for gpu in held:
        blocked = any(holder.blocks for holder in gpu.holders)
        if not blocked and not gpu.profiles and gpu.capable and gpu.enabled != gpu.active:
            return f"'gpuvm passthrough enable {typed_word(gpu.host)} --reboot'"
        if not blocked and not gpu.profiles and gpu.capable and not gpu.active:
            enable = f"'gpuvm passthrough enable {typed_word(gpu.host)}'"
            return f"{enable}, with --reboot if the host needs one"
    return "stop the VM that holds it, or wait: 'gpuvm gpus' lists the holders"


def _free_elsewhere(held: Sequence[GPU], inventory: Inventory) -> str:
    """A VM with a fixed device stays on its host: another one can have a GPU of another host."""
    here, models = {gpu.host for gpu in held}, {(gpu.vendor_id, gpu.device_id) for gpu in held}
    hosts = [
        host.name
        for host in inventory.hosts
        if not host.unusable
        and host.name not in here
        and any(gpu.free and (gpu.vendor_id, gpu.device_id) in models for gpu in host.gpus)
    ]
    if not hosts:
        return ""
    return (
        f"; one is free on {', '.join(hosts[:4])}: 'gpuvm provision --name NAME' creates VMs there"
    )
