"""What became of an unanswered call, and whether the VM that was found is ours."""

from collections.abc import Collection

from gpuvm.errors import PreflightRefused, VSphereError
from gpuvm.inventory import VM, MoRef
from gpuvm.ownership import GENERATION_KEY, SPEC_KEY
from gpuvm.planner import Step
from gpuvm.vsphere import CloneRequest, Task, VSphere


def clone_may_come(vsphere: VSphere, template: MoRef, known: Collection[MoRef]) -> bool:
    """Whether a clone of the template is running that is none of the ``known`` tasks.

    ``known`` are those of other VMs of this command; whose the others are, vCenter does not say.
    Ask before looking for the VM: a clone that ends meanwhile is in the folder then.
    """
    return any(task.moref not in known for task in vsphere.running_tasks(template, "clone"))


def find_created(vsphere: VSphere, request: CloneRequest, index: int) -> VM | None:
    """The VM of that name in the folder, if it carries the mark of this very creation."""
    found = vsphere.find_in_folder(request.folder, request.name)
    vms = vsphere.read_vms([found]) if found else ()
    return next((vm for vm in vms if is_of_this_call(vm, request, index)), None)


def task_or_power_state(vsphere: VSphere, moref: MoRef, name: str) -> Task | bool:
    """The power-on that still works on the VM, else whether it is powered on."""
    tasks = vsphere.running_tasks(moref, "power on")
    if tasks:
        return tasks[0]
    found = vsphere.read_vms([moref])
    if not found:
        raise VSphereError(f"{name} vanished while it was powered on")
    return found[0].powered_on


def is_of_this_call(vm: VM, request: CloneRequest, index: int) -> bool:
    """The generation is new for each creation, and nobody copied it while this call worked."""
    expected = request.extra_config.get(GENERATION_KEY)
    return expected is not None and vm.generation == expected and vm.index == index


def check_is_ours(vm: VM, step: Step, request: CloneRequest, *, created: bool) -> None:
    """Check a VM that was just cloned or found by name. Raises PreflightRefused.

    ``created``: it carries the mark of this very creation.
    """
    if vm.ownership != "ours" or vm.index != step.index:
        raise _not_ours(step.name, created=created)
    if vm.spec_digest != request.extra_config[SPEC_KEY]:
        raise PreflightRefused(
            f"{step.name} was created meanwhile from a different spec",
            hint="'gpuvm plan' shows what is there now",
        )


def why_not_removed(now: VM, request: CloneRequest, index: int) -> str | None:
    """``now`` was read just before; None when it is off, and ours beyond doubt."""
    if not is_of_this_call(now, request, index):
        return "it does not carry the mark of this creation"
    if now.instance_uuid.lower() != request.instance_uuid.lower():
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


def _not_ours(name: str, *, created: bool) -> PreflightRefused:
    if created:
        return PreflightRefused(
            f"{name} is not ours: another VM has the instance UUID that it should have, "
            "perhaps a restored one",
            hint=f"look for that other VM; {name} is a new clone: remove it by hand",
        )
    return PreflightRefused(
        f"{name} is not ours: a VM of that name exists",
        hint="choose another deployment name: 'name:' in gpuvm.yaml or --name",
    )
