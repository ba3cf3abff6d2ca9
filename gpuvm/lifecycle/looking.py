"""Looking first: what became of a call without an answer, and whose the VM is that was found."""

from collections.abc import Collection

from gpuvm.errors import PreflightRefused, VSphereError
from gpuvm.inventory import VM, Inventory, MoRef
from gpuvm.lifecycle.machine import Machine
from gpuvm.ownership import GENERATION_KEY, SPEC_KEY
from gpuvm.vsphere import Task, VSphere


def clone_may_come(vsphere: VSphere, machine: Machine, known: Collection[MoRef]) -> bool:
    """Whether a clone of its template is under way that may be the VM's own.

    ``known`` are the tasks that belong to other VMs of this command; whose the others are, vCenter
    does not tell. Ask before looking for the VM: one that ends meanwhile is in the folder then.
    """
    tasks = vsphere.running_tasks(machine.request.template, "clone")
    return any(task.moref not in known for task in tasks)


def made(vsphere: VSphere, machine: Machine) -> VM | None:
    """The VM of that name in the folder, if it carries the mark of this very creation."""
    found = vsphere.find_in_folder(machine.request.folder, machine.name)
    vms = vsphere.read_vms([found]) if found else ()
    return next((vm for vm in vms if _is_of_this_call(vm, machine)), None)


def for_power_on(vsphere: VSphere, machine: Machine) -> Task | bool:
    """A task that still works on it, or whether the VM runs now."""
    tasks = vsphere.running_tasks(machine.moref, "power on")
    if tasks:
        return tasks[0]
    found = vsphere.read_vms([machine.moref])
    if not found:
        raise VSphereError(f"{machine.name} vanished while it was powered on")
    return found[0].powered_on


def is_being_taken(vsphere: VSphere, machine: Machine, inventory: Inventory) -> bool:
    """Whether another VM that names the step's GPU, and is off in the inventory, starts now.

    A GPU is taken when a power-on begins, and seen to be held only when it has ended.
    """
    wanted = {(gpu.host, gpu.pci_address) for gpu in machine.step.gpus}
    named = [h for g in inventory.gpus if (g.host, g.pci_address) in wanted for h in g.holders]
    rivals = [h.moref for h in named if not h.powered_on and h.moref not in ("", machine.moref)]
    if any(vsphere.running_tasks(rival, "power on") for rival in rivals):
        return True
    return any(vm.powered_on for vm in vsphere.read_vms(rivals)) if rivals else False


def check_is_ours(machine: Machine) -> None:
    """Of a VM that was just made, or found by its name; raises PreflightRefused.

    ``created`` is set by the mark of this very creation: only that may be removed again.
    """
    vm, wanted = machine.vm, machine.request.extra_config
    if vm is None or GENERATION_KEY not in wanted:
        return
    machine.created = _is_of_this_call(vm, machine)
    if vm.ownership != "ours" or vm.index != machine.step.index:
        raise _not_ours(machine)
    if vm.spec_digest != wanted[SPEC_KEY]:
        raise PreflightRefused(
            f"{machine.name} was created meanwhile from a different spec",
            hint="'gpuvm plan' shows what is there now",
        )


def why_not_removed(machine: Machine, now: VM) -> str | None:
    """``now`` was read just before; None when it is off, and ours beyond doubt."""
    if not _is_of_this_call(now, machine):
        return "it does not carry the mark of this creation"
    if now.instance_uuid.lower() != machine.request.instance_uuid.lower():
        return "its instance UUID is not the one that it should have"
    return "it is powered on" if now.powered_on else not_its_own(now)


def not_its_own(vm: VM) -> str | None:
    """Why destroying the VM would destroy more than gpuvm made; None when it would not."""
    if vm.ownership != "ours":
        return "it does not carry the mark and the instance UUID of one of our VMs"
    if vm.hidden:
        return f"{vm.hidden}; what else it contains is unknown"
    if vm.template:
        return "it is a VM template now"
    if vm.foreign_disks:
        return f"disks that it was not cloned with are attached: {', '.join(vm.foreign_disks)}"
    return None


def _is_of_this_call(vm: VM, machine: Machine) -> bool:
    """The generation is new for each creation, and nobody copied it while this call worked."""
    wanted = machine.request.extra_config.get(GENERATION_KEY)
    return wanted is not None and vm.generation == wanted and vm.index == machine.step.index


def _not_ours(machine: Machine) -> PreflightRefused:
    if machine.created:
        return PreflightRefused(
            f"{machine.name} is not ours: another VM has the instance UUID that it should have, "
            "perhaps a restored one",
            hint=f"look for that other VM; {machine.name} is a new clone: remove it by hand",
        )
    return PreflightRefused(
        f"{machine.name} is not ours: a VM of that name exists",
        hint="choose another deployment name: 'name:' in gpuvm.yaml or --name",
    )
