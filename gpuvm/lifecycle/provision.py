"""provision(): bring each VM from its step of the plan to ready, independently of the others.

    clone -> match_spec (read back, at most one reconfigure) -> power_on -> first_address -> ready

``bring_up`` is the story. A VM that fails before it runs is removed if this call created it. Each
stage handles its own faults, lost answers and deadlines.
"""

import contextlib
from collections import Counter
from dataclasses import replace

from gpuvm.devices import DynamicDevice, PassthroughDevice
from gpuvm.errors import (
    GpuvmError,
    Interrupted,
    NoPermission,
    OutcomeUnknown,
    TaskFailed,
    VSphereError,
)
from gpuvm.events import Events
from gpuvm.lifecycle import gpu_races, lookups, planning
from gpuvm.lifecycle.clone_request import networked
from gpuvm.lifecycle.driver import (
    Call,
    Deadline,
    Driver,
    End,
    Late,
    Read,
    ReadHolders,
    VCenterGone,
)
from gpuvm.lifecycle.guest_ready import first_address, ready
from gpuvm.lifecycle.job import (
    GivenUp,
    Job,
    Stays,
    Work,
    end_of,
    follow_running,
    late_error,
    pause,
    run_task,
)
from gpuvm.lifecycle.result import ApplyResult, Outcome, Until, continue_hint
from gpuvm.lifecycle.teardown import teardown
from gpuvm.ownership import GENERATION_KEY
from gpuvm.planner import Plan, Step
from gpuvm.settings import Context
from gpuvm.vsphere import Task, VSphere

CLONE_PAUSES_S, POWER_ON_PAUSES_S = (2.0,), (1.0, 3.0)
"""Pause before each retry, after a fault between vCenter and a host."""
LOOK_S, LOOK_SELDOM_S = 1.0, 10.0
"""Pause between two checks for running clones: doubled each time, up to the second value."""
CANCEL_S = 30.0
"""How long a cancelled clone may take to end."""


def provision(
    plan: Plan,
    vsphere: VSphere,
    context: Context,
    events: Events,
    *,
    until: Until = "ready",
    keep_failed: bool = False,
) -> ApplyResult:
    """Apply the plan and return the outcome of each VM.

    A VM that fails before it runs is removed if this call created it, unless ``keep_failed``; one
    whose guest is not ready is kept, for inspection or to continue with.
    Raises Interrupted on Ctrl-C, naming the VMs that are left.
    """
    surplus = [step.vm for step in plan.steps if step.action == "remove" and step.vm]
    removed = teardown(surplus, vsphere, events) if surplus else ApplyResult(())
    work = Work(plan, vsphere, context, events, until, keep_failed)
    jobs = [work.begin(step) for step in plan.wanted]  # all, before anything is submitted
    driver = Driver(vsphere, events)
    try:
        outcomes = driver.run({job.name: bring_up(work, job) for job in jobs})
    except KeyboardInterrupt:
        raise _interrupted(work) from None
    done = (_unless_shared(work.jobs[name], outcome) for name, outcome in outcomes.items())
    return ApplyResult((*done, *removed.outcomes))


async def bring_up(work: Work, job: Job) -> Outcome:
    """Bring one VM from its step of the plan to the state ``work.until``.

    Replans it once, on another GPU, if another VM took its GPU first.
    """
    tries: Counter[str] = Counter()
    replanned = False
    while True:
        try:
            await _stages(work, job, tries, may_move=not replanned)
            return _outcome(work, job)
        except GivenUp as given_up:
            again = await _remove(work, job, given_up)
            if again is None:
                strangers = job.vm is not None and job.vm.ownership == "other"
                left = bool(job.moref) and not strangers
                return _outcome(work, job, given_up.error, left=left)
            replanned = replanned or again is not job.step
            work.events.note(f"retrying on {again.host.name}", job.name)
            job = work.begin(again)
        except Stays as stays:
            return _outcome(work, job, stays.error, left=bool(job.moref) or stays.may_come)
        except KeyboardInterrupt:
            await _cancel_task(work, job)
            raise
        except VCenterGone as gone:
            return _outcome(work, job, gone.error, left=bool(job.moref or job.changed))
        finally:
            work.events.progress(job.name, "done", 1.0)


async def _stages(work: Work, job: Job, tries: Counter[str], *, may_move: bool) -> None:
    """Run the stages that the step needs. Raises GivenUp and Stays."""
    if job.step.action == "create":
        await clone(work, job, tries)
    elif job.step.move_to is not None:
        await move(work, job)
    if job.step.action != "keep" and not await match_spec(work, job):
        await power_on(work, job, tries, may_move=may_move)
    if work.until != "powered-on":
        await first_address(work, job)
    if work.until == "ready":
        await ready(work, job)


# The stages, in order.


async def clone(work: Work, job: Job, tries: Counter[str]) -> None:
    """Clone the VM; return when it exists, even if the call's answer was lost.

    Retries once after a fault between vCenter and a host. vCenter usually removes the partial VM;
    if it does not, the VM is found by its mark and removed before the retry.
    """
    while True:
        deadline = Deadline(work.limit_s("clone"))
        try:
            with work.events.phase("clone", job.name):
                job.changed = True
                await _clone_once(work, job, deadline)
        except GpuvmError as error:
            await _find_created(work, job)
            pause_s = _pause_before_retry(work, job, error, tries, "clone", CLONE_PAUSES_S)
            if pause_s is None or job.moref:
                raise GivenUp(error, job.step if pause_s is not None else None) from None
            await pause(job, pause_s)
        else:
            return


async def _clone_once(work: Work, job: Job, deadline: Deadline) -> None:
    in_doubt = False
    try:
        try:
            await _start_clone(work, job, deadline)
        except (OutcomeUnknown, TaskFailed) as error:
            if isinstance(error, TaskFailed) and error.fault != "DuplicateName":
                raise
            in_doubt = True
            await _look_for_clone(work, job, error, deadline)
    except Late:
        late = await late_error(work, job, "clone")
        cancelled, in_doubt = job.task, in_doubt and job.task is None
        if cancelled is not None and await _ended_well_after_cancel(work, job, cancelled):
            return
        await _find_created(work, job)
        raise Stays(late, may_come=in_doubt or job.task is not None) from None


async def _start_clone(work: Work, job: Job, deadline: Deadline) -> None:
    made = await run_task(job, "clone", lambda: work.vsphere.start_clone(job.request), deadline)
    job.moref, job.created = made or "", True


async def _look_for_clone(work: Work, job: Job, error: GpuvmError, deadline: Deadline) -> None:
    """Find the VM after a lost answer; submit again at most once, and only if no clone may be it.

    A VM that another gpuvm, or an earlier one that was killed, created is a success.
    """
    resubmitted, pause_s = False, LOOK_S
    work.events.note("no answer: looking for the clone", job.name)
    while True:
        known = {other.task.moref for other in work.jobs.values() if other.task is not None}
        template = job.request.template
        if await Call("running clones", lookups.clone_may_come, work.vsphere, template, known):
            await pause(job, pause_s, deadline)
            pause_s = min(2 * pause_s, LOOK_SELDOM_S)
            continue
        found = await Call("find", work.vsphere.find_in_folder, job.request.folder, job.name)
        if found:
            job.moref = found
            return
        if not isinstance(error, OutcomeUnknown) or resubmitted:
            raise error
        resubmitted, pause_s = True, LOOK_S
        try:
            await _start_clone(work, job, deadline)
        except (OutcomeUnknown, TaskFailed) as again:
            if isinstance(again, TaskFailed) and again.fault != "DuplicateName":
                raise
            error = again
        else:
            return


async def _ended_well_after_cancel(work: Work, job: Job, task: Task) -> bool:
    """Cancel the clone and wait for its end, because it may still create the VM."""
    try:
        await Call("cancel", work.vsphere.cancel, task)
    except VSphereError:
        return False
    try:
        job.moref = await End(task, "clone", Deadline(CANCEL_S)) or ""
    except Late:
        return False
    except VSphereError:
        job.task = None
        return False
    job.task, job.created = None, True
    return True


async def _find_created(work: Work, job: Job) -> None:
    """Find the VM that a failed clone left, if any."""
    if job.moref:
        return
    try:
        found = await Call("find", lookups.find_created, work.vsphere, job.request, job.step.index)
    except GpuvmError:
        return
    if found is not None:
        job.vm, job.moref, job.created = found, found.moref, True


async def move(work: Work, job: Job) -> None:
    """Move a powered-off VM to another host; its disks stay on their datastores."""
    host, pool = job.step.runs_on.moref, work.plan.cluster.resource_pool
    deadline = Deadline(work.limit_s("move"))
    try:
        with work.events.phase("move", job.name):
            job.changed = True
            try:
                await run_task(
                    job, "move", lambda: work.vsphere.start_move(job.moref, host, pool), deadline
                )
            except OutcomeUnknown:
                await follow_running(work, job, "move", "move", deadline)
    except Late:
        raise Stays(await late_error(work, job, "move")) from None
    except GpuvmError as error:
        raise GivenUp(error) from None


async def match_spec(work: Work, job: Job) -> bool:
    """Read the VM back and repair differences from the spec with at most one reconfigure.

    Returns whether the VM already runs. Refuses a VM that gpuvm does not own.
    """
    looked_up = False
    while True:
        deadline = Deadline(work.limit_s("configure"))
        try:
            with work.events.phase("configure", job.name):
                try:
                    return await _match_spec_once(work, job, deadline)
                except (OutcomeUnknown, TaskFailed) as error:
                    busy = isinstance(error, TaskFailed) and error.fault == "TaskInProgress"
                    if looked_up or not (busy or isinstance(error, OutcomeUnknown)):
                        raise
                    looked_up = True
                    if await follow_running(work, job, "reconfigure", "configure", deadline):
                        return False
        except Late:
            raise Stays(await late_error(work, job, "configure")) from None
        except GpuvmError as error:
            raise GivenUp(error) from None


async def _match_spec_once(work: Work, job: Job, deadline: Deadline) -> bool:
    vm = job.vm = await Read(job.moref)
    if vm is None:
        raise VSphereError(f"{job.name} vanished after its clone")
    if GENERATION_KEY in job.request.extra_config:
        job.created = lookups.is_of_this_call(vm, job.request, job.step.index)
        lookups.check_is_ours(vm, job.step, job.request, created=job.created)
    if vm.powered_on:
        return True
    request = networked(job.request, vm, job.expected)
    task = await Call("reconfigure", work.vsphere.start_repair, vm, request)
    if task is not None:
        job.changed = True
        await end_of(job, task, "configure", deadline)
    return False


async def power_on(work: Work, job: Job, tries: Counter[str], *, may_move: bool) -> None:
    """Power on; retry faults between vCenter and a host, and handle a GPU lost to another VM."""
    looked_up = False
    while True:
        deadline = Deadline(work.limit_s("power_on"))
        try:
            with work.events.phase("power_on", job.name):
                try:
                    await _power_on_once(work, job, deadline)
                except (OutcomeUnknown, TaskFailed) as error:
                    if looked_up or not _may_be_done_already(error):
                        raise
                    looked_up = True
                    await _look_for_power_on(work, job, error, deadline)
            break
        except Late:
            raise Stays(await late_error(work, job, "power_on")) from None
        except GpuvmError as error:
            pause_s = _pause_before_retry(work, job, error, tries, "power_on", POWER_ON_PAUSES_S)
            if pause_s is None:
                raise await _gpu_lost(work, job, error, deadline, may_move=may_move) from None
            await pause(job, pause_s)
    await _read_placement(work, job)


async def _power_on_once(work: Work, job: Job, deadline: Deadline) -> None:
    """Check the GPU's holders first: another VM may have taken it since the plan."""
    holders = await ReadHolders(job.step.runs_on.moref)
    taken = gpu_races.taken(job.step, holders, job.moref)
    if taken is not None:
        raise taken
    job.changed = True
    await _start_power_on(work, job, deadline)


def _may_be_done_already(error: GpuvmError) -> bool:
    """Return whether the error may mean that the VM is on, or that a power-on is running."""
    if isinstance(error, TaskFailed):
        return error.fault in ("InvalidPowerState", "TaskInProgress")
    return isinstance(error, OutcomeUnknown)


async def _start_power_on(work: Work, job: Job, deadline: Deadline) -> None:
    await run_task(job, "power_on", lambda: work.vsphere.start_power_on(job.moref), deadline)


async def _look_for_power_on(work: Work, job: Job, error: GpuvmError, deadline: Deadline) -> None:
    work.events.note("checking the VM's power state", job.name)
    now = await Call("power state", lookups.task_or_power_state, work.vsphere, job.moref, job.name)
    if isinstance(now, Task):
        await End(now, "power_on", deadline)
    elif not now and isinstance(error, OutcomeUnknown):
        await _start_power_on(work, job, deadline)
    elif not now:
        raise error


async def _gpu_lost(
    work: Work, job: Job, error: GpuvmError, deadline: Deadline, *, may_move: bool
) -> GivenUp:
    """Return GivenUp with a step on a free GPU if another VM took this one, else its holder."""
    while gpu_races.may_be_lost(error):
        own, step = job.moref, job.step
        try:
            inventory = await Call("inventory", planning.read_again, work.plan, work.vsphere)
            if await Call("rivals", gpu_races.is_being_taken, work.vsphere, step, own, inventory):
                await pause(job, LOOK_S, deadline)
                continue
        except GpuvmError:
            break
        except Late:
            raise Stays(await late_error(work, job, "power_on")) from None
        if job.created and may_move:
            others = [j.goes_to or j.step for j in work.jobs.values() if j is not job]
            allotted = {(s.runs_on.name, gpu.pci_address) for s in others for gpu in s.gpus}
            job.goes_to = gpu_races.elsewhere(work.plan, step, inventory, allotted, own)
        return GivenUp(gpu_races.holder_of(step, inventory, own) or error, job.goes_to)
    return GivenUp(error)


async def _read_placement(work: Work, job: Job) -> None:
    """Read the VM again if vCenter chose its host or GPU at power-on."""
    fixed = any(isinstance(device, PassthroughDevice) for device in job.step.devices)
    dynamic = any(isinstance(device, DynamicDevice) for device in job.step.devices)
    if not dynamic and (fixed or not work.plan.cluster.drs_places):
        return
    with contextlib.suppress(GpuvmError):
        job.vm = await Read(job.moref) or job.vm


# Failures.


async def _remove(work: Work, job: Job, given_up: GivenUp) -> Step | None:
    """Remove the VM if this call created it; return the step to continue with, if any.

    Reads the VM again right before, because its name or moref may now mean another VM.
    """
    if not (job.created and job.moref) or (work.keep_failed and given_up.to is None):
        return None
    deadline = Deadline(work.limit_s("remove"))
    try:
        now = await Read(job.moref)
        why_not = lookups.why_not_removed(now, job.request, job.step.index) if now else None
        if now is not None and why_not is not None:
            work.events.warning(f"{job.name} is not removed: {why_not}", job.name)
            job.vm = now
            return None
        if now is not None:
            await _destroy(work, job, deadline)
    except VCenterGone as gone:
        work.events.warning(f"{job.name} may still exist: {gone}", job.name)
        return None
    except (Late, GpuvmError):
        return None
    job.moref = ""
    return given_up.to


async def _destroy(work: Work, job: Job, deadline: Deadline) -> None:
    try:
        await run_task(job, "remove", lambda: work.vsphere.start_destroy(job.moref), deadline)
    except OutcomeUnknown:
        if await follow_running(work, job, "destroy", "remove", deadline):
            return
        if await Read(job.moref) is not None:
            raise


def _pause_before_retry(
    work: Work,
    job: Job,
    error: GpuvmError,
    tries: Counter[str],
    stage: str,
    pauses_s: tuple[float, ...],
) -> float | None:
    """Return the pause before a retry, or None; only faults between vCenter and a host retry."""
    left = pauses_s[tries[stage] :]
    if not left or not isinstance(error, TaskFailed) or not error.transient:
        return None
    tries[stage] += 1
    work.events.note(f"retrying in {left[0]:g} s: {error}", job.name)
    return left[0]


async def _cancel_task(work: Work, job: Job) -> None:
    """Cancel the running task on Ctrl-C; the error names the VMs that exist."""
    task = job.task
    if task is not None:
        try:
            await Call("cancel", work.vsphere.cancel, task)
        except NoPermission as error:
            work.events.warning(f"{job.name}: its {task.operation} continues: {error}", job.name)
        except (GpuvmError, VCenterGone):
            return


def _interrupted(work: Work) -> Interrupted:
    left = [job.name for job in work.jobs.values() if job.moref or job.task or job.pausing]
    return Interrupted(
        "interrupted; these VMs exist or were being created: " + (", ".join(left) or "none"),
        left=left,
        hint=continue_hint(work.plan),
    )


def _unless_shared(job: Job, outcome: Outcome) -> Outcome:
    """A VM was ready, and then another one reported its address."""
    if job.shared is None or outcome.error is not None:
        return outcome
    return replace(outcome, state="failed", error=job.shared, left=True)


def _outcome(
    work: Work, job: Job, error: GpuvmError | None = None, *, left: bool = False
) -> Outcome:
    given = tuple(filter(None, job.vm.pci_addresses)) if job.vm else ()
    return Outcome(
        name=job.name,
        host=job.vm.host if job.vm and job.vm.host else job.step.host.name,
        state="failed" if error else work.until,
        changed=job.changed,
        address=job.vm.address if job.vm else None,
        gpus=given or tuple(gpu.pci_address for gpu in job.step.gpus),
        error=error,
        left=left,
        warnings=job.ready.warnings if job.ready else (),
    )
