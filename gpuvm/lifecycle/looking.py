"""A call whose answer never came: what is there now decides, and nothing is submitted blindly."""

from collections.abc import Collection

from gpuvm.errors import GuestError, PreflightRefused, VSphereError
from gpuvm.inventory import MoRef
from gpuvm.lifecycle.machine import Machine
from gpuvm.ownership import GENERATION_KEY, SPEC_KEY
from gpuvm.vsphere import Task, VSphere


def for_clone(vsphere: VSphere, machine: Machine, known: Collection[MoRef]) -> Task | MoRef | None:
    """The clone itself, or a clone task of its template that may be it; None: it never began.

    ``known`` are the tasks that belong to other VMs of this command. Tasks are looked at first: one
    that ends meanwhile has its VM in the folder.
    """
    tasks = vsphere.running_tasks(machine.request.template, "clone")
    for task in tasks:
        if task.moref not in known:
            return task
    return vsphere.find_in_folder(machine.request.folder, machine.name)


def for_power_on(vsphere: VSphere, machine: Machine) -> Task | bool:
    """A task that still works on it, or whether the VM runs now."""
    tasks = vsphere.running_tasks(machine.moref, "power on")
    if tasks:
        return tasks[0]
    found = vsphere.read_vms([machine.moref])
    if not found:
        raise VSphereError(f"{machine.name} vanished while it was powered on")
    return found[0].powered_on


def check_is_ours(machine: Machine) -> None:
    """Of a VM that was just made, or found by its name; raises PreflightRefused.

    ``created`` is set by the mark of this very creation: only that may be removed again.
    """
    vm, wanted = machine.vm, machine.request.extra_config
    if vm is None or GENERATION_KEY not in wanted:
        return
    machine.created = vm.generation == wanted[GENERATION_KEY]
    if vm.ownership != "ours" or vm.index != machine.step.index:
        raise PreflightRefused(
            f"{machine.name} is not ours: " + _why(machine),
            hint="choose another deployment name: 'name:' in gpuvm.yaml or --name",
        )
    if vm.spec_digest != wanted[SPEC_KEY]:
        raise PreflightRefused(
            f"{machine.name} was made meanwhile, from another wish than this one",
            hint="'gpuvm plan' shows what is there now",
        )


def not_customized(machine: Machine, problem: str) -> GuestError:
    return GuestError(
        f"{machine.name}: guest customization failed: {problem}",
        hint="its reasons are in the guest, /var/log/vmware-imc; perl and open-vm-tools are needed",
    )


def _why(machine: Machine) -> str:
    if machine.created:
        return "another VM has the instance UUID that it should have, perhaps a restored one"
    return "a VM of that name exists"
