"""Races for a GPU: which other VM holds it, and where the VM that lost it can go instead."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from gpuvm.devices import GPU, Device, PassthroughDevice
from gpuvm.errors import GpuvmError, PreflightRefused, TaskFailed
from gpuvm.inventory import Inventory, MoRef
from gpuvm.planner import Plan, Step, replan_lost, without_holder
from gpuvm.vsphere import Holders, VSphere


def taken(step: Step, holders: Holders, own: MoRef) -> PreflightRefused | None:
    """Return the refusal that names the VM running with this step's fixed GPU, or None.

    ``own`` is the moref of the step's VM: another folder may have a VM of the same name.
    """
    for gpu in step.gpus:
        for holder in holders.get((gpu.host, gpu.pci_address), ()):
            runs = holder.certain and holder.powered_on and holder.moref != own
            if runs and _is_fixed(step.devices):
                return _held(step, gpu, holder.vm)
    return None


def may_be_lost(error: GpuvmError) -> bool:
    """Return whether another VM may have taken the GPU; several power-on faults can mean that."""
    if isinstance(error, TaskFailed):
        return error.no_gpu_left
    return isinstance(error, PreflightRefused)


def is_being_taken(vsphere: VSphere, step: Step, own: MoRef, inventory: Inventory) -> bool:
    """Return whether another VM with the step's GPU, powered off in the inventory, is starting.

    A power-on takes the GPU when it begins, but the VM shows as powered on only when it has ended.
    """
    wanted = {(gpu.host, gpu.pci_address) for gpu in step.gpus}
    named = [h for g in inventory.gpus if (g.host, g.pci_address) in wanted for h in g.holders]
    rivals = [h.moref for h in named if not h.powered_on and h.moref not in ("", own)]
    if any(vsphere.running_tasks(rival, "power on") for rival in rivals):
        return True
    return any(vm.powered_on for vm in vsphere.read_vms(rivals)) if rivals else False


def elsewhere(
    plan: Plan,
    step: Step,
    inventory: Inventory,
    reserved: Collection[tuple[str, str]],
    own: MoRef,
) -> Step | None:
    """Return a step on another GPU if the step's own was lost and one is free, else None.

    ``inventory`` is current; ``reserved`` are GPUs (host, PCI address) of the plan's other VMs.
    """
    if holder_of(step, inventory, own) is None and _is_fixed(step.devices):
        return None
    if not _is_fixed(step.devices):
        reserved = {*reserved, *((step.host.name, gpu.pci_address) for gpu in step.gpus)}
    return replan_lost(plan, step, _without(inventory, own), reserved)


def holder_of(step: Step, inventory: Inventory, own: MoRef) -> PreflightRefused | None:
    """Return the refusal that names the other VM running with the step's GPU, or None."""
    mine = {(gpu.host, gpu.pci_address) for gpu in step.gpus}
    for gpu in inventory.gpus:
        for holder in gpu.holders:
            another = holder.powered_on and holder.moref != own
            if (gpu.host, gpu.pci_address) in mine and another:
                return _held(step, gpu, holder.vm)
    return None


def _without(inventory: Inventory, own: MoRef) -> Inventory:
    """Return the inventory without the step's own VM as a holder, because it is about to go."""
    hosts = tuple(
        replace(host, gpus=tuple(without_holder(gpu, own) for gpu in host.gpus))
        for host in inventory.hosts
    )
    return replace(inventory, hosts=hosts)


def _is_fixed(devices: Sequence[Device]) -> bool:
    return any(isinstance(device, PassthroughDevice) for device in devices)


def _held(step: Step, gpu: GPU, holder: str) -> PreflightRefused:
    return PreflightRefused(
        f"{step.name}: GPU {gpu.pci_address} on {gpu.host} is held by {holder}",
        hint="'gpuvm gpus' shows which GPUs are free",
    )
