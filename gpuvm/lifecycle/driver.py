"""Run the stories of a command on one update stream.

    async def stop(vm):                        # a story: one VM, top to bottom
        task = await Call("power off", vsphere.start_power_off, vm.moref)
        await End(task, "power off", Deadline(60))

    Driver(vsphere, events).run({"gpuvm-01": stop(first), "gpuvm-02": stop(second)})

A story is a coroutine that awaits the small values below. Errors are raised at its ``await``: a
fault, a lost answer (OutcomeUnknown), a deadline (Late), Ctrl-C (KeyboardInterrupt), and the loss
of the vCenter (VCenterGone), which every story receives. Nothing else schedules a story, so the
state of a VM is the position of its coroutine.

Each turn needs one round trip for all reads and one filter for all new tasks, then one wait on the
single ``WaitForUpdatesEx`` stream. docs/decisions/0006-stories-on-a-driver.md: why not asyncio.
"""

import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from gpuvm.errors import GpuvmError, OutcomeUnknown, Unreachable
from gpuvm.events import Events
from gpuvm.inventory import VM, MoRef
from gpuvm.vsphere import (
    Change,
    Diagnosis,
    Holders,
    HostChanged,
    Task,
    TaskEnded,
    TaskProgress,
    UpdateStream,
    VMChanged,
    VSphere,
)

T = TypeVar("T")
Story = Coroutine["Wait[Any]", Any, T]

SOON_S = 1.0
"""How often to check a story's thread while waiting on the stream."""


class Late(Exception):
    """The deadline of an awaited value has passed."""


class VCenterGone(Exception):
    """No more calls are possible; ``error`` is why. A story must end when it receives this."""

    def __init__(self, error: GpuvmError) -> None:
        super().__init__(str(error))
        self.error = error


class Deadline:
    """A time limit in seconds, on the monotonic clock.

    Time that a task spends queued in the vCenter does not count, unless ``counts_queue``.
    """

    def __init__(self, limit_s: float, *, counts_queue: bool = False) -> None:
        self.limit_s = limit_s
        self._counts_queue, self._queued, self._since = counts_queue, False, time.monotonic()

    @property
    def left_s(self) -> float:
        if self._queued:
            return float("inf")
        return self.limit_s - (time.monotonic() - self._since)

    def submitted(self) -> None:
        self._queued = not self._counts_queue

    def running(self) -> None:
        """Start the clock: the task has left the queue."""
        if self._queued:
            self._queued, self._since = False, time.monotonic()

    def ended(self) -> None:
        self._queued = False


class InThread(Generic[T]):
    """Blocking work, such as SSH, on a daemon thread, so that Ctrl-C does not wait for it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._result: list[T] = []
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def result(self) -> T:
        """Wait for the work and return its result. Raises what the work raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _run(self) -> None:
        try:
            self._result.append(self._work())
        except Exception as error:  # noqa: BLE001 - result() raises it
            self._error = error


class Wait(Generic[T]):
    """A value that a story awaits; the await returns a T."""

    def __await__(self) -> Generator["Wait[T]", T, T]:
        return (yield self)


class Call(Wait[T]):
    """One call to the vCenter, or a few related ones; raises what ``make`` raises."""

    def __init__(self, what: str, make: Callable[..., T], *args: object, **options: object) -> None:
        self.what = what
        self._make, self._args, self._options = make, args, options

    def answer(self) -> T:
        return self._make(*self._args, **self._options)


@dataclass(frozen=True)
class Read(Wait[VM | None]):
    """The current state of a VM; None if it does not exist."""

    moref: MoRef


@dataclass(frozen=True)
class ReadHolders(Wait[Holders]):
    """The current holders of the host's GPUs; the answer may include other hosts."""

    host: MoRef


@dataclass(frozen=True)
class Diagnose(Wait[Diagnosis | None]):
    """Read why a VM may have exceeded a deadline; None if it no longer exists."""

    moref: MoRef


@dataclass(frozen=True)
class End(Wait[MoRef | None]):
    """The end of a task: the moref of its result, if any. Raises the task's error, and Late."""

    task: Task
    stage: str
    deadline: Deadline


@dataclass(frozen=True)
class Pause(Wait[None]):
    seconds: float
    deadline: Deadline | None = None


@dataclass(frozen=True)
class NextVMChange(Wait[VMChanged | None]):
    """The next change of a VM; None after ``within_s`` without one, or once ``thread`` is done.

    Raises VSphereError when the VM vanishes, the error of ``task`` if that fails, and Late.
    """

    moref: MoRef
    deadline: Deadline | None = None
    within_s: float = float("inf")
    thread: InThread[Any] | None = None
    task: Task | None = None


@dataclass(frozen=True)
class NextHostChange(Wait[HostChanged]):
    """Like NextVMChange, for a host; the first change is its current state."""

    moref: MoRef
    deadline: Deadline
    task: Task | None = None


@dataclass
class _Running:
    """A story that has not ended. ``since`` is when its wait began; ``missed`` is a change that
    arrived during another wait. ``followed`` are the objects that the stream watches for it.
    """

    name: str
    story: Story[Any]
    wait: Wait[Any] | None = None
    since: float = 0.0
    missed: VMChanged | HostChanged | None = None
    followed: tuple[object, ...] = ()


class Driver:
    """Runs stories; ``results`` are their return values, ``errors`` what they raised, by name."""

    def __init__(self, vsphere: VSphere, events: Events) -> None:
        self.vsphere, self.events = vsphere, events
        self.results: dict[str, Any] = {}
        self.errors: dict[str, GpuvmError] = {}
        self._running: dict[str, _Running] = {}
        self._stream: UpdateStream | None = None
        self._gone: VCenterGone | None = None
        self._interrupting = False

    def run(self, stories: Mapping[str, Story[T]]) -> dict[str, T]:
        """Run all stories to their end and return their results, in their order.

        After all have ended, raises the first error that a story raised, or KeyboardInterrupt if
        the run was interrupted; every story receives the interrupt first and can clean up.
        """
        self._running = {name: _Running(name, story) for name, story in stories.items()}
        with ExitStack() as opened:
            self._opened = opened
            try:
                for one in list(self._running.values()):
                    self._resume(one)
                self._loop()
            except KeyboardInterrupt:
                self._interrupting = True
                self._raise_in(list(self._running.values()), KeyboardInterrupt)
                self._loop()
                self._raise_first_error()
                raise
            finally:
                for one in self._running.values():
                    one.story.close()
        self._raise_first_error()
        return {name: self.results[name] for name in stories}

    def run_one(self, name: str, story: Story[T]) -> T:
        return self.run({name: story})[name]

    def _raise_first_error(self) -> None:
        for error in self.errors.values():
            raise error

    def _loop(self) -> None:
        try:
            while self._running:
                self._answer()
                if not self._running:
                    return
                self._deliver(self._next_changes())
                self._tick()
        except GpuvmError as error:  # from the stream or a shared read: it concerns every story
            self._gone = VCenterGone(error)
            self._loop()

    def _next_changes(self) -> Sequence[Change]:
        """Wait for changes, at most until the next due time; poll threads every SOON_S."""
        wait_s = max(0.0, min((self._due_s(one) for one in self._running.values()), default=0.0))
        if self._stream is not None and self._stream.follows_any and self._gone is None:
            return self._stream.next_changes(wait_s)
        threads = [t for one in self._running.values() if (t := _thread(one)) and not t.done]
        if threads:
            threads[0].wait(min(wait_s, SOON_S))
        else:
            time.sleep(min(wait_s, SOON_S))
        return ()

    def _due_s(self, one: _Running) -> float:
        wait, passed_s = one.wait, time.monotonic() - one.since
        deadline = getattr(wait, "deadline", None)
        due = [deadline.left_s] if deadline is not None else []
        if isinstance(wait, Pause):
            due.append(wait.seconds - passed_s)
        if isinstance(wait, NextVMChange):
            due.append(wait.within_s - passed_s)
            due += [SOON_S] if wait.thread is not None else []
        return min(due, default=float("inf"))

    # Changes from the stream.

    def _deliver(self, changes: Sequence[Change]) -> None:
        for change in changes:
            one = self._running.get(change.key)
            if one is None:
                continue
            wait = one.wait
            if isinstance(change, TaskProgress):
                if isinstance(wait, End):
                    self.events.progress(one.name, wait.stage, change.fraction)
                    if change.running:
                        wait.deadline.running()
            elif isinstance(change, TaskEnded):
                self._task_ended(one, change)
            elif isinstance(wait, (NextVMChange, NextHostChange)):
                self._resume(one, change)
            else:
                one.missed = change

    def _task_ended(self, one: _Running, change: TaskEnded) -> None:
        one.followed = tuple(f for f in one.followed if not isinstance(f, Task))
        if not isinstance(one.wait, (End, NextVMChange, NextHostChange)):
            return
        if change.error is not None:
            self._resume(one, error=change.error)
        elif isinstance(one.wait, End):
            self._resume(one, change.result)

    def _tick(self) -> None:
        """Resume the stories whose pause, deadline or thread has ended."""
        for one in list(self._running.values()):
            wait, passed_s = one.wait, time.monotonic() - one.since
            deadline = getattr(wait, "deadline", None)
            thread = _thread(one)
            if isinstance(wait, Pause) and passed_s >= wait.seconds:
                self._resume(one)
            elif deadline is not None and deadline.left_s <= 0:
                self._unfollow(one)
                self._resume(one, error=Late())
            elif isinstance(wait, NextVMChange) and (
                passed_s >= wait.within_s or (thread is not None and thread.done)
            ):
                self._resume(one)

    # Calls and reads.

    def _answer(self) -> None:
        """Answer reads, batched, and calls until every story waits for a change or the clock."""
        while True:
            if self._gone is not None:
                without_thread = [one for one in self._running.values() if _thread(one) is None]
                self._raise_in(without_thread, self._gone)
            for one in list(self._running.values()):
                if one.missed and isinstance(one.wait, (NextVMChange, NextHostChange)):
                    change, one.missed = one.missed, None
                    self._resume(one, change)
            if not (self._answer_reads() or self._answer_calls()):
                break
        self._follow()

    def _answer_reads(self) -> bool:
        """Answer all stories that await the same kind of read with one round trip."""
        if reads := self._waiting(Read):
            self._share(reads, self._read_vms)
        elif holders := self._waiting(ReadHolders):
            self._share(holders, self._read_holders)
        elif diagnoses := self._waiting(Diagnose):
            self._share(diagnoses, self._diagnose)
        else:
            return False
        return True

    def _read_vms(self, reads: Sequence[_Running]) -> list[VM | None]:
        morefs = [one.wait.moref for one in reads if isinstance(one.wait, Read)]
        found = {vm.moref: vm for vm in self.vsphere.read_vms(morefs)}
        return [found.get(moref) for moref in morefs]

    def _read_holders(self, reads: Sequence[_Running]) -> list[Holders]:
        hosts = {one.wait.host for one in reads if isinstance(one.wait, ReadHolders)}
        return [self.vsphere.read_holders(sorted(hosts))] * len(reads)

    def _diagnose(self, reads: Sequence[_Running]) -> list[Diagnosis | None]:
        morefs = [one.wait.moref for one in reads if isinstance(one.wait, Diagnose)]
        found = {now.moref: now for now in self.vsphere.read_diagnosis(morefs)}
        return [found.get(moref) for moref in morefs]

    def _share(
        self, reads: Sequence[_Running], read: Callable[[Sequence[_Running]], Sequence[Any]]
    ) -> None:
        try:
            answers = read(reads)
        except Unreachable:
            raise
        except GpuvmError as error:
            self._raise_in(reads, error)
            return
        for one, answer in zip(reads, answers, strict=True):
            self._resume(one, answer)

    def _answer_calls(self) -> bool:
        calls = self._waiting(Call)
        for one in calls:
            assert isinstance(one.wait, Call)  # noqa: S101 - _waiting(Call) returns only these
            try:
                answer = one.wait.answer()
            except GpuvmError as error:
                if isinstance(error, Unreachable) and not isinstance(error, OutcomeUnknown):
                    raise
                self._resume(one, error=error)
            else:
                self._resume(one, answer)
        return bool(calls)

    def _waiting(self, kind: type[Wait[Any]]) -> list[_Running]:
        return [one for one in self._running.values() if isinstance(one.wait, kind)]

    def _follow(self) -> None:
        """Add the objects that stories wait for to the stream: one filter for each kind."""
        if self._gone is not None:
            return
        tasks = {
            one.name: task
            for one in self._running.values()
            if (task := getattr(one.wait, "task", None)) is not None and task not in one.followed
        }
        vms, hosts = self._not_followed(NextVMChange), self._not_followed(NextHostChange)
        if not (tasks or vms or hosts):
            return
        if self._stream is None:
            self._stream = self._opened.enter_context(self.vsphere.update_stream())
        if tasks:
            self._stream.follow_tasks(tasks)
        if vms:
            self._stream.follow_vms(vms)
        for name, moref in hosts.items():
            self._stream.follow_host(name, moref)
        for name, what in (*tasks.items(), *vms.items(), *hosts.items()):
            self._running[name].followed += (what,)

    def _not_followed(self, kind: type[NextVMChange] | type[NextHostChange]) -> dict[str, MoRef]:
        return {
            one.name: one.wait.moref
            for one in self._running.values()
            if isinstance(one.wait, kind) and one.wait.moref not in one.followed
        }

    # Stories.

    def _resume(
        self, one: _Running, answer: object = None, *, error: BaseException | None = None
    ) -> None:
        if isinstance(one.wait, End):
            one.wait.deadline.ended()
        try:
            one.wait = one.story.send(answer) if error is None else one.story.throw(error)
            one.since = time.monotonic()
            if isinstance(one.wait, End):
                one.wait.deadline.submitted()
        except StopIteration as end:
            self.results[one.name] = end.value
            self._finish(one)
        except GpuvmError as raised:
            self.errors[one.name] = raised
            self._finish(one)
        except VCenterGone as gone:
            self.errors[one.name] = gone.error
            self._finish(one)
        except KeyboardInterrupt:
            self._finish(one)
            if not self._interrupting:
                raise

    def _raise_in(
        self, stories: Iterable[_Running], error: BaseException | type[BaseException]
    ) -> None:
        for one in list(stories):
            if one.name in self._running:
                self._resume(one, error=error() if isinstance(error, type) else error)

    def _finish(self, one: _Running) -> None:
        self._running.pop(one.name, None)
        self._unfollow(one)

    def _unfollow(self, one: _Running) -> None:
        if one.followed and self._stream is not None:
            self._stream.unfollow(one.name)
        one.followed, one.missed = (), None


def _thread(one: _Running) -> InThread[Any] | None:
    return one.wait.thread if isinstance(one.wait, NextVMChange) else None
