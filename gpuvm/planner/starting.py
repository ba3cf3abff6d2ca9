"""Powering on what exists: with its own GPUs, or with others when somebody has taken those."""

from collections.abc import Sequence
from dataclasses import replace

from gpuvm.accelerators import DeviceGroup
from gpuvm.errors import PreflightRefused, Unplaceable
from gpuvm.inventory import (
    GPU,
    VM,
    Device,
    Holder,
    Host,
    Inventory,
    PassthroughDevice,
    VGPUDevice,
    in_group,
)
from gpuvm.planner.drift import wish_of
from gpuvm.planner.model import Plan, Step
from gpuvm.planner.rooms import fixed
from gpuvm.spec import ClusterSpec


def plan_start(vms: Sequence[VM], spec: ClusterSpec, inventory: Inventory) -> Plan:
    """Powers on those of ``vms`` that are off; nothing is made, and nothing else is changed.

    Raises PreflightRefused, and Unplaceable when a GPU that is needed is nowhere free.
    """
    now, steps = inventory, []
    for vm in vms:
        step = _running(vm, now) if vm.powered_on else start_step(vm, now)
        now = _promised(now, step)
        steps.append(step)
    return Plan(
        spec=spec,
        vcenter=inventory.vcenter,
        cluster=inventory.cluster,
        template=None,
        snapshot=None,
        datastore=None,
        network=None,
        cpus=None,
        memory_gib=None,
        mmio_gib=None,
        steps=tuple(steps),
    )


def start_step(vm: VM, inventory: Inventory) -> Step:
    """A fixed device stays on its host; what is bound at power-on may be found on another one."""
    host = _host(vm, inventory)
    if host.unusable and not _movable(vm):
        raise PreflightRefused(f"{vm.name} is on {host.name}: {host.unusable}")
    candidates = [host] if not host.unusable else []
    if _movable(vm) and vm.devices:
        candidates += [h for h in inventory.hosts if h.name != host.name and not h.unusable]
    for candidate in candidates:
        found = _found(vm, candidate)
        if found is not None and _has_memory(vm, candidate) and _offers(vm, candidate):
            gpus, devices = found
            away = candidate if candidate.name != host.name else None
            moves = away is not None and not inventory.cluster.drs_places
            step = Step("power-on", vm.name, vm.index or 0, host, gpus, devices, vm.instance_uuid)
            return replace(step, vm=vm, move_to=away if moves else None)
    raise _nothing_free(vm, host, inventory)


def _running(vm: VM, inventory: Inventory) -> Step:
    host = _host(vm, inventory)
    gpus = tuple(gpu for gpu in host.gpus if vm.has(gpu))
    return Step("keep", vm.name, vm.index or 0, host, gpus, vm.devices, vm.instance_uuid, vm)


def _host(vm: VM, inventory: Inventory) -> Host:
    host = inventory.host(vm.host)
    if host is None:
        raise PreflightRefused(f"{vm.name} is on {vm.host}, which is not in the cluster")
    return host


def _movable(vm: VM) -> bool:
    return not any(isinstance(device, PassthroughDevice) for device in vm.devices)


def _has_memory(vm: VM, host: Host) -> bool:
    return not vm.memory_locked or host.memory_gib - host.reserved_gib >= vm.memory_gib


def _offers(vm: VM, host: Host) -> bool:
    """A vendor device group is known by its name only, which is in the VM's wish."""
    wanted = getattr(wish_of(vm), "accelerator", None)
    return not isinstance(wanted, DeviceGroup) or host.device_group(wanted.group) is not None


def _found(vm: VM, host: Host) -> tuple[tuple[GPU, ...], tuple[Device, ...]] | None:
    """The GPUs on ``host`` for the VM's devices, and the devices as they must be for that."""
    gpus: list[GPU] = []
    devices: list[Device] = []
    for device in vm.devices:
        gpu = next((g for g in host.gpus if _serves(g, device, vm, gpus)), None)
        if gpu is None:
            gpu = next((g for g in host.gpus if _replaces(g, device, gpus)), None)
        if gpu is None:
            return None
        gpus.append(gpu)
        devices.append(fixed(gpu) if isinstance(device, PassthroughDevice) else device)
    return tuple(gpus), tuple(devices)


def _serves(gpu: GPU, device: Device, vm: VM, chosen: Sequence[GPU]) -> bool:
    """The GPU that the device names, or one that fits it; nobody else runs with it."""
    if isinstance(device, VGPUDevice):
        already = chosen.count(gpu)
        apart = in_group(device) and already  # a group has one device of each of its GPUs
        return not apart and gpu.vgpus_left(device.profile, already) > 0
    taken = any(holder.powered_on and holder.vm != vm.name for holder in gpu.holders)
    if taken or gpu in chosen or not gpu.active:
        return False
    if isinstance(device, PassthroughDevice):
        return gpu.pci_address == device.pci_address
    return device.allows(gpu) and not gpu.holders


def _replaces(gpu: GPU, device: Device, chosen: Sequence[GPU]) -> bool:
    """A free GPU of the same host and kind instead of a fixed one that was taken."""
    if not isinstance(device, PassthroughDevice) or not gpu.free or gpu in chosen:
        return False
    return format(gpu.device_id, "x") == device.device_id.lower().removeprefix("0")


def _promised(inventory: Inventory, step: Step) -> Inventory:
    """The inventory as it will be when the step is done, for the steps after it."""
    if step.action == "keep":
        return inventory
    hosts = tuple(
        replace(host, gpus=tuple(_with(gpu, step) for gpu in host.gpus))
        if host.name == step.runs_on.name
        else host
        for host in inventory.hosts
    )
    return replace(inventory, hosts=hosts)


def _with(gpu: GPU, step: Step) -> GPU:
    if gpu not in step.gpus:
        return gpu
    profile = next((d.profile for d in step.devices if isinstance(d, VGPUDevice)), None)
    promised = Holder(step.name, powered_on=True, profile=profile)
    return replace(gpu, holders=(*_without(gpu, step.name).holders, promised))


def _without(gpu: GPU, vm: str) -> GPU:
    return replace(gpu, holders=tuple(holder for holder in gpu.holders if holder.vm != vm))


def _nothing_free(vm: VM, host: Host, inventory: Inventory) -> Unplaceable:
    named = {d.pci_address for d in vm.devices if isinstance(d, PassthroughDevice)}
    others = [_without(gpu, vm.name) for gpu in host.gpus if gpu.pci_address in named]
    held = [gpu for gpu in others if gpu.holders]
    why = "; ".join(f"{gpu.pci_address} on {gpu.host} is {gpu.state}" for gpu in held)
    return Unplaceable(
        f"{vm.name} cannot be powered on: " + (why or "no host has a free GPU and memory for it"),
        table=[(g.host, g.pci_address, g.name, g.state) for g in inventory.gpus],
        hint="stop the holder, or wait: 'gpuvm gpus' shows who holds which GPU",
    )
