"""The queue of pictures: each waits for a free worker, and several are made at once.

    queue = Queue(maker)
    job = queue.submit(Wanted(content, style, 1.0, 5.0, size=224, rounds=1))
    queue.cancel(job.number); queue.jobs()

A worker is a VM, or this machine. A grid takes all workers and is not overtaken by what was asked
for later. Nothing here is kept: what was made is in the records of the runs.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from typing_extensions import override

from gpuvm import results, runs
from gpuvm.errors import BadInput, GPUsBusy, GpuvmError, WorkerDied

State = Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]
ENDED: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})
BUSY_S = 10.0
"""A VM whose GPU another run has is tried again after so long."""
KEPT = 20
"""Ended jobs that are still listed."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """A picture, or with ``grid`` so many by so many over the whole range of both weights.

    ``content`` and ``style`` are files here; None is the workload's own sample. ``size`` is the
    longer side in pixels.
    """

    content: Path | None
    style: Path | None
    content_weight: float
    style_weight: float
    size: int
    rounds: int
    grid: int | None = None


@dataclass(frozen=True)
class Job:
    """``note`` says why a queued one waits, or why another one failed."""

    number: int
    wanted: Wanted
    state: State = "queued"
    workers: tuple[str, ...] = ()
    run: results.Run | None = None
    note: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class Maker(Protocol):
    def workers(self) -> Sequence[str]:
        """The names of those that can make a picture; at least one. Raises GpuvmError."""
        ...

    def make(
        self,
        wanted: Wanted,
        workers: Sequence[str],
        watch: runs.Watch,
        begun: Callable[[results.Run], None],
    ) -> None:
        """Makes it; ``begun`` gets its record as soon as there is one.

        Ends soon after ``watch`` says that it is cancelled. Raises GpuvmError.
        """
        ...


class Queue:
    """Thread-safe; ``close`` it."""

    def __init__(self, maker: Maker) -> None:
        self._maker = maker
        self._changed = threading.Condition()
        self._jobs: dict[int, Job] = {}
        self._watches: dict[int, _Watch] = {}
        self._threads: dict[int, threading.Thread] = {}
        self._workers: tuple[str, ...] = ()
        self._resting: dict[str, float] = {}
        self._number, self._closed = 0, False
        self._dispatcher = threading.Thread(target=self._dispatch, daemon=True)
        self._dispatcher.start()

    def submit(self, wanted: Wanted) -> Job:
        """Raises GpuvmError when nobody could make it."""
        workers = tuple(self._maker.workers())
        with self._changed:
            if self._closed:
                raise BadInput("the studio is closing")
            self._workers = workers
            self._number += 1
            job = self._jobs[self._number] = Job(self._number, wanted)
            self._changed.notify_all()
        return job

    def cancel(self, number: int) -> None:
        """Does nothing for one that has ended or is not known."""
        with self._changed:
            job = self._jobs.get(number)
            if job is None or job.ended:
                return
            if job.state == "queued":
                self._set(number, state="cancelled", note="")
            else:
                self._set(number, state="cancelling")
                self._watches[number].cancel.set()

    def jobs(self) -> list[Job]:
        """In the order in which they were asked for."""
        with self._changed:
            return list(self._jobs.values())

    def close(self) -> None:
        """Cancels all of them, and waits until they have ended."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for job in self.jobs():
            self.cancel(job.number)
        self._dispatcher.join()
        for thread in list(self._threads.values()):
            thread.join()

    def _set(self, number: int, **changes: object) -> None:
        self._jobs[number] = replace(self._jobs[number], **changes)  # type: ignore[arg-type]
        self._changed.notify_all()

    def _dispatch(self) -> None:
        with self._changed:
            while not self._closed:
                self._start_what_can()
                self._forget()
                self._changed.wait(BUSY_S if self._resting else None)

    def _start_what_can(self) -> None:
        now = time.monotonic()
        self._resting = {name: end for name, end in self._resting.items() if end > now}
        for job in [job for job in self._jobs.values() if job.state == "queued"]:
            busy = {name for one in self._running() for name in one.workers}
            free = [name for name in self._workers if name not in busy | self._resting.keys()]
            chosen = free if job.wanted.grid else free[:1]
            if not chosen or (job.wanted.grid and len(free) < len(self._workers)):
                return
            self._start(job.number, tuple(chosen))

    def _running(self) -> list[Job]:
        return [one for one in self._jobs.values() if one.state in ("running", "cancelling")]

    def _start(self, number: int, workers: tuple[str, ...]) -> None:
        self._watches[number] = _Watch()
        self._set(number, state="running", workers=workers, note="")
        thread = threading.Thread(target=self._make, args=(number,), daemon=True)
        self._threads[number] = thread
        thread.start()

    def _make(self, number: int) -> None:
        job, watch = self._jobs[number], self._watches[number]

        def begun(run: results.Run) -> None:
            with self._changed:
                self._set(number, run=run)

        try:
            self._maker.make(job.wanted, job.workers, watch, begun)
        except GPUsBusy as error:
            self._back_in_queue(number, error)
        except GpuvmError as error:
            self._end(number, "failed", _text(error))
        except Exception as error:
            logger.exception("picture %d", number)
            self._end(number, "failed", f"{type(error).__name__}: {error}")
        else:
            self._end(number, "succeeded", "")

    def _back_in_queue(self, number: int, error: GPUsBusy) -> None:
        with self._changed:
            if self._watches[number].cancel.is_set():
                self._set(number, state="cancelled", run=None)
            else:
                self._resting[error.vm] = time.monotonic() + BUSY_S
                self._set(number, state="queued", workers=(), run=None, note=str(error))

    def _end(self, number: int, state: State, note: str) -> None:
        with self._changed:
            if state == "failed" and self._watches[number].cancel.is_set():
                state, note = "cancelled", ""
            self._set(number, state=state, note=note)

    def _forget(self) -> None:
        ended = [number for number, job in self._jobs.items() if job.ended]
        for number in ended[:-KEPT]:
            for kept in (self._jobs, self._watches, self._threads):
                kept.pop(number, None)


@dataclass
class _Watch(runs.Watch):
    cancel: threading.Event = field(default_factory=threading.Event)

    @override
    def cancelled(self) -> bool:
        return self.cancel.is_set()


def _text(error: GpuvmError) -> str:
    """With the last line of the program, which has the reason."""
    last = error.tail[-1:] if isinstance(error, WorkerDied) else ()
    return ": ".join((str(error), *last))
