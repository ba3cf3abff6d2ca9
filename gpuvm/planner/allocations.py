"""The inventory after steps of the plan: what they allocate and what they free."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from gpuvm.devices import GPU, Holder, VGPUDevice
from gpuvm.inventory import VM, Host, Inventory, MoRef
from gpuvm.planner.capacity import reserves_gib
from gpuvm.planner.model import Step


def after_step(inventory: Inventory, step: Step) -> Inventory:
    """Return the inventory after ``step``."""
    if step.action != "power-on" or step.vm is None:
        return inventory
    reserved_gib = reserves_gib(step.vm)
    hosts = tuple(
        _running(host, step, reserved_gib) if host.name == step.runs_on.name else host
        for host in inventory.hosts
    )
    return replace(inventory, hosts=hosts)


def after_removal(inventory: Inventory, vms: Collection[VM]) -> Inventory:
    """Return the inventory without ``vms``."""
    removed = {vm.moref: vm for vm in vms}
    hosts = tuple(_without(host, removed) for host in inventory.hosts)
    return replace(inventory, hosts=hosts)


def without_holder(gpu: GPU, vm: MoRef) -> GPU:
    """Return the GPU without this VM among its holders."""
    return replace(gpu, holders=tuple(holder for holder in gpu.holders if holder.moref != vm))


def _running(host: Host, step: Step, memory_gib: float) -> Host:
    gpus = tuple(_held_by(gpu, step) for gpu in host.gpus)
    return replace(host, gpus=gpus, reserved_gib=host.reserved_gib + memory_gib)


def _without(host: Host, removed: Mapping[MoRef, VM]) -> Host:
    running = [vm for vm in removed.values() if vm.host == host.name and vm.powered_on]
    gpus = tuple(
        replace(gpu, holders=tuple(h for h in gpu.holders if h.moref not in removed))
        for gpu in host.gpus
    )
    freed_gib = sum(map(reserves_gib, running))
    return replace(host, gpus=gpus, reserved_gib=max(0.0, host.reserved_gib - freed_gib))


def _held_by(gpu: GPU, step: Step) -> GPU:
    shares = sum(one.pci_address == gpu.pci_address for one in step.gpus)
    if not shares or step.vm is None:
        return gpu
    profile = next((d.profile for d in step.devices if isinstance(d, VGPUDevice)), None)
    holder = Holder(step.name, True, profile, moref=step.vm.moref, shares=shares, ours=True)
    return replace(gpu, holders=(*without_holder(gpu, step.vm.moref).holders, holder))
