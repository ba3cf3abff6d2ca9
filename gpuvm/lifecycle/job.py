"""What the stories of provisioning share: the state of a VM, and how a stage ends."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gpuvm import guest
from gpuvm.errors import DeadlinePassed, GpuvmError, SharedAddress
from gpuvm.events import Events
from gpuvm.guest import Awaited
from gpuvm.inventory import VM, MoRef
from gpuvm.lifecycle import deadlines
from gpuvm.lifecycle.clone_request import awaited, clone_request
from gpuvm.lifecycle.deadlines import Stage
from gpuvm.lifecycle.driver import Call, Deadline, Diagnose, End, Pause
from gpuvm.lifecycle.result import Until
from gpuvm.planner import Plan, Step
from gpuvm.settings import Context
from gpuvm.vsphere import CloneRequest, Task, VSphere


@dataclass
class Job:
    """The state of one VM while its story runs.

    ``created``: this call created the VM; its clone task or the VM's mark proves it. ``task`` is
    this call's task that has not ended. ``goes_to`` is the step to run after the VM's removal.
    ``shared`` is set by the story of another VM that turns out to have this one's address.
    """

    step: Step
    request: CloneRequest
    expected: Awaited
    vm: VM | None = None
    moref: MoRef = ""
    task: Task | None = None
    created: bool = False
    changed: bool = False
    pausing: bool = False
    goes_to: Step | None = None
    seen: "Seen | None" = None
    shared: SharedAddress | None = None
    ready: guest.Ready | None = None

    @property
    def name(self) -> str:
        return self.step.name


@dataclass(frozen=True)
class Seen:
    """What the guest reports; ``since`` (monotonic clock) is when its addresses last changed."""

    addresses: tuple[str, ...]
    host_keys: tuple[str, ...]
    since: float


@dataclass
class Work:
    """What the stories of one command share; ``jobs`` are the VMs' current jobs, by name."""

    plan: Plan
    vsphere: VSphere
    context: Context
    events: Events
    until: Until
    keep_failed: bool
    clock: Callable[[], float] = time.monotonic
    jobs: dict[str, Job] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.public_key = guest.ensure_key_pair(self.context)

    def begin(self, step: Step) -> Job:
        request = clone_request(self.plan, step, self.context, self.public_key)
        job = Job(step, request, awaited(self.plan.spec, step, self.context), step.vm)
        job.moref = step.vm.moref if step.vm else ""
        self.jobs[step.name] = job
        return job

    def limit_s(self, stage: Stage | str) -> float:
        """Return the deadline of a stage in seconds; ``ready`` has its own, inside the check."""
        limits = self.plan.spec.deadlines
        match stage:
            case "address":
                return limits.address_s
            case "power_on" | "remove":
                return limits.power_on_s
        return limits.clone_s


class GivenUp(Exception):
    """Give up the VM because of ``error``; after its removal, try ``to`` if there is one."""

    def __init__(self, error: GpuvmError, to: Step | None = None) -> None:
        super().__init__(str(error))
        self.error, self.to = error, to


class Stays(Exception):
    """Keep the failed VM for inspection; ``may_come``: it may still appear later."""

    def __init__(self, error: GpuvmError, *, may_come: bool = False) -> None:
        super().__init__(str(error))
        self.error, self.may_come = error, may_come


async def run_task(
    job: Job, stage: str, start: Callable[[], Task], deadline: Deadline
) -> MoRef | None:
    return await end_of(job, await Call(stage, start), stage, deadline)


async def end_of(job: Job, task: Task, stage: str, deadline: Deadline) -> MoRef | None:
    """Wait for the task; ``job.task`` stays set if it may still run: on Late and on Ctrl-C."""
    job.task = task
    try:
        result = await End(task, stage, deadline)
    except GpuvmError:
        job.task = None
        raise
    job.task = None
    return result


async def follow_running(
    work: Work, job: Job, operation: str, stage: str, deadline: Deadline
) -> bool:
    """After a lost answer, wait for a running task of that kind; return whether there was one."""
    work.events.note("no answer: checking the VM's recent tasks", job.name)
    tasks = await Call(f"running {operation}", work.vsphere.running_tasks, job.moref, operation)
    if tasks:
        await End(tasks[0], stage, deadline)
    return bool(tasks)


async def pause(job: Job, seconds: float, deadline: Deadline | None = None) -> None:
    job.pausing = True
    await Pause(seconds, deadline)
    job.pausing = False


async def late_error(work: Work, job: Job, stage: Stage) -> DeadlinePassed:
    now = None
    if job.moref:
        with contextlib.suppress(GpuvmError):
            now = await Diagnose(job.moref)
    return deadlines.late(job.name, stage, work.limit_s(stage), job.expected, now)
