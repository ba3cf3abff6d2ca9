"""Check the outcome of an unanswered call, and whether the VM that was found is gpuvm's own."""

from collections.abc import Collection

from gpuvm.errors import PreflightRefused, VSphereError
from gpuvm.inventory import VM, MoRef
from gpuvm.ownership import GENERATION_KEY, SPEC_KEY
from gpuvm.planner import Step
from gpuvm.vsphere import CloneRequest, Task, VSphere


def clone_may_come(vsphere: VSphere, template: MoRef, known: Collection[MoRef]) -> bool:
    """Return whether a clone of the template is running that is none of the ``known`` tasks.

    ``known`` are the tasks of this command's other VMs; vCenter does not report whose the rest are.
    Call this before looking for the VM: a clone that ends in between is then in the folder.
    """
    return any(task.moref not in known for task in vsphere.running_tasks(template, "clone"))


def find_created(vsphere: VSphere, request: CloneRequest, index: int) -> VM | None:
    """Return the VM of that name in the folder if it carries this creation's mark, else None."""
    found = vsphere.find_in_folder(request.folder, request.name)
    vms = vsphere.read_vms([found]) if found else ()
    return next((vm for vm in vms if is_of_this_call(vm, request, index)), None)


def task_or_power_state(vsphere: VSphere, moref: MoRef, name: str) -> Task | bool:
    """Return the VM's running power-on task, else whether it is powered on."""
    tasks = vsphere.running_tasks(moref, "power on")
    if tasks:
        return tasks[0]
    found = vsphere.read_vms([moref])
    if not found:
        raise VSphereError(f"{name} vanished during its power-on")
    return found[0].powered_on


def is_of_this_call(vm: VM, request: CloneRequest, index: int) -> bool:
    """Return whether the VM has the generation of this call's creation; a copy has it too."""
    expected = request.extra_config.get(GENERATION_KEY)
    return expected is not None and vm.generation == expected and vm.index == index


def check_is_ours(vm: VM, step: Step, request: CloneRequest, *, created: bool) -> None:
    """Check a VM that was just cloned or found by name. Raises PreflightRefused.

    ``created``: it carries this creation's mark.
    """
    if vm.ownership != "ours" or vm.index != step.index:
        raise _not_ours(step.name, created=created)
    if vm.spec_digest != request.extra_config[SPEC_KEY]:
        raise PreflightRefused(
            f"{step.name} was created meanwhile from a different spec",
            hint="'gpuvm plan' shows the current state",
        )


def why_not_removed(now: VM, request: CloneRequest, index: int) -> str | None:
    """Return why gpuvm must not remove the VM, or None if it is off and this call's own.

    ``now`` must be freshly read.
    """
    if not is_of_this_call(now, request, index):
        return "it does not carry the mark of this creation"
    if now.instance_uuid.lower() != request.instance_uuid.lower():
        return "its instance UUID is not the expected one"
    return "it is powered on" if now.powered_on else not_its_own(now)


def not_its_own(vm: VM) -> str | None:
    """Return why destroying the VM would destroy more than gpuvm created, or None."""
    if vm.ownership != "ours":
        return "it does not carry the mark and the instance UUID of a gpuvm VM"
    if vm.hidden:
        return f"{vm.hidden}; its other contents are unknown"
    if vm.template:
        return "it is a VM template now"
    if vm.foreign_disks:
        return f"disks were attached after the clone: {', '.join(vm.foreign_disks)}"
    return None


def _not_ours(name: str, *, created: bool) -> PreflightRefused:
    if created:
        return PreflightRefused(
            f"{name} is not managed by gpuvm: another VM, perhaps a restored one, has its "
            "instance UUID",
            hint=f"find that other VM; {name} is a new clone: remove it by hand",
        )
    return PreflightRefused(
        f"{name} is not managed by gpuvm: a VM of that name exists",
        hint="choose another deployment name: 'name:' in gpuvm.yaml or --name",
    )
