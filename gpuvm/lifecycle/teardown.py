"""teardown(): power off VMs, destroy them, forget their host keys; a missing VM is a success."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpuvm import guest
from gpuvm.errors import (
    DeadlinePassed,
    GpuvmError,
    Interrupted,
    OutcomeUnknown,
    PreflightRefused,
    VSphereError,
)
from gpuvm.events import Events
from gpuvm.inventory import UNREADABLE_HINT, VM, UnreadableVM
from gpuvm.lifecycle import lookups
from gpuvm.lifecycle.driver import Call, Deadline, Driver, End, Late, Read, Story, VCenterGone
from gpuvm.lifecycle.result import ApplyResult, Outcome, unreadable_outcome
from gpuvm.vsphere import CloneInFlight, Task, VSphere

DEADLINE_S = 600.0
LOOKS = 2
"""How often to check the outcome of one operation on a VM before its error is final."""
CLONE_S = 1800.0
UNNAMED_CLONE_S = 120.0
"""For a clone whose future name vCenter does not report: it may belong to another deployment."""
CONTINUE_HINT = "run 'gpuvm teardown' again to continue"


def teardown(
    vms: Sequence[VM],
    vsphere: VSphere,
    events: Events,
    *,
    unreadable: Sequence[UnreadableVM] = (),
    with_disks: bool = False,
    with_templates: bool = False,
) -> ApplyResult:
    """Remove gpuvm's own VMs, all at the same time; ignore others.

    A VM with disks that were attached after the clone is kept unless ``with_disks``, one that is a
    template now unless ``with_templates``, and an ``unreadable`` one always.

    Raises Interrupted on Ctrl-C, naming the VMs that are left.
    """
    ours = [vm for vm in vms if vm.ownership == "ours"]
    removing = _Removing(vsphere, events, with_disks, with_templates)
    refused = {vm.moref: why for vm in ours if (why := removing.why_left(vm))}
    driver = Driver(vsphere, events)
    stories = {vm.name: remove(removing, vm) for vm in ours if vm.moref not in refused}
    done: dict[str, Outcome] = {}
    if stories:
        try:
            with events.phase("teardown"):
                done = driver.run(stories)
        except KeyboardInterrupt:
            removed = {name for name, one in driver.results.items() if one.state == "removed"}
            left = [vm.name for vm in ours if vm.name not in removed]
            raise Interrupted(
                "interrupted; these VMs may be left: " + ", ".join(left),
                left=left,
                hint=CONTINUE_HINT,
            ) from None
    outcomes = [
        _left(vm, refused[vm.moref]) if vm.moref in refused else done[vm.name] for vm in ours
    ]
    return ApplyResult((*outcomes, *map(unreadable_outcome, unreadable)))


def why_left(vm: VM, *, with_disks: bool, with_templates: bool) -> PreflightRefused | None:
    """Return why the VM must not be destroyed, or None."""
    seen = replace(
        vm,
        template=vm.template and not with_templates,
        foreign_disks=() if with_disks else vm.foreign_disks,
    )
    why = lookups.not_its_own(seen)
    return PreflightRefused(f"{vm.name} is not removed: {why}", hint=_hint(seen)) if why else None


def _hint(vm: VM) -> str | None:
    if vm.ownership != "ours":
        return None
    if vm.hidden:
        return UNREADABLE_HINT
    if vm.template:
        return "'gpuvm teardown --with-templates' destroys it too"
    return "detach them, or 'gpuvm teardown --with-disks' destroys them with the VM"


@dataclass(frozen=True)
class _Removing:
    vsphere: VSphere
    events: Events
    with_disks: bool
    with_templates: bool

    def why_left(self, vm: VM) -> PreflightRefused | None:
        return why_left(vm, with_disks=self.with_disks, with_templates=self.with_templates)


async def remove(work: _Removing, vm: VM) -> Outcome:
    """Power off one VM, read it again and destroy it; another client may do part of this."""
    deadline, looks = Deadline(DEADLINE_S, counts_queue=True), Counter[str]()
    powered_on = vm.powered_on
    try:
        while True:
            operation = "power off" if powered_on else "destroy"
            try:
                if powered_on:
                    await _run_task(work, vm, operation, deadline)
                    powered_on = False
                    continue
                return await _destroy(work, vm, deadline)
            except VSphereError as error:
                looks[operation] += 1
                state = await _look(work, vm, deadline) if looks[operation] <= LOOKS else ""
                if state == "gone":
                    return _removed(work, vm)
                if not _may_continue(state, error, powered_on=powered_on):
                    return _left(vm, error)
                powered_on = state == "on"
    except Late:
        return _left(vm, DeadlinePassed(f"{vm.name}: not removed after {DEADLINE_S:g} s"))
    except VCenterGone as gone:
        return _left(vm, gone.error)


async def _destroy(work: _Removing, vm: VM, deadline: Deadline) -> Outcome:
    """Read the VM again, because a disk may have been attached meanwhile, and destroy it."""
    now = await Read(vm.moref)
    if now is not None:
        why = work.why_left(now)
        if why is not None:
            return _left(vm, why)
        await _run_task(work, vm, "destroy", deadline)
    return _removed(work, vm)


def _may_continue(state: str, error: VSphereError, *, powered_on: bool) -> bool:
    """Return whether the power state changed in spite of the error, or only the answer was lost."""
    if isinstance(error, OutcomeUnknown):
        return state in ("on", "off")
    return state == ("off" if powered_on else "on")


async def _run_task(work: _Removing, vm: VM, operation: str, deadline: Deadline) -> None:
    start = work.vsphere.start_power_off if operation == "power off" else work.vsphere.start_destroy
    work.events.progress(vm.name, operation, 0.0)
    task = await Call(operation, start, vm.moref)
    await End(task, operation, deadline)


async def _look(work: _Removing, vm: VM, deadline: Deadline) -> str:
    """Return ``gone``, ``on`` or ``off``, or an empty string if unknown.

    Waits for a running task first, so that the state is the one after the task.
    """
    try:
        task = await Call("running tasks", _running, work.vsphere, vm)
        if task is not None:
            await End(task, task.operation, deadline)
        now = await Read(vm.moref)
    except VSphereError:
        return ""
    if now is None:
        return "gone"
    if now.ownership != "ours":
        return ""
    return "on" if now.powered_on else "off"


def _running(vsphere: VSphere, vm: VM) -> Task | None:
    for operation in ("destroy", "power off"):
        for task in vsphere.running_tasks(vm.moref, operation):
            return task
    return None


def _removed(work: _Removing, vm: VM) -> Outcome:
    guest.forget_host_keys(vm.instance_uuid)
    work.events.progress(vm.name, "removed", 1.0)
    return Outcome(vm.name, vm.host, "removed", changed=True, gpus=vm.pci_addresses)


def _left(vm: VM, error: GpuvmError) -> Outcome:
    gpus = vm.pci_addresses
    return Outcome(vm.name, vm.host, "failed", changed=False, gpus=gpus, error=error, left=True)


# Running clones: one that a killed gpuvm started becomes a VM later, which teardown would miss.


def clones_in_flight(vsphere: VSphere, deployment: str) -> list[CloneInFlight]:
    """Return this account's running clones that will be, or may be, VMs of the deployment."""
    ours = re.compile(re.escape(deployment) + r"-\d+")
    running = vsphere.clones_in_flight()
    return [one for one in running if one.name is None or ours.fullmatch(one.name)]


def await_clones(clones: Sequence[CloneInFlight], vsphere: VSphere, events: Events) -> None:
    """Wait until the clones have ended, well or not. Raises Interrupted on Ctrl-C."""
    names = ", ".join(one.name or "a clone that may be gpuvm's" for one in clones)
    events.note(f"waiting for running clones: {names}")
    stories: dict[str, Story[None]] = {
        one.name or one.task.moref: _await_clone(one, events) for one in clones
    }
    try:
        Driver(vsphere, events).run(stories)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; still being cloned: {names}",
            left=[one.name for one in clones if one.name],
            hint=CONTINUE_HINT,
        ) from None


async def _await_clone(one: CloneInFlight, events: Events) -> None:
    key, limit_s = one.name or one.task.moref, CLONE_S if one.name else UNNAMED_CLONE_S
    try:
        await End(one.task, "clone", Deadline(limit_s, counts_queue=True))
    except Late:
        events.warning(f"{key} is still being cloned: run 'gpuvm teardown' again later")
        return
    except VSphereError:
        pass
    events.progress(key, "done", 1.0)
