"""The queue of pictures, with makers that a test ends when it likes."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab_runs import wait_for

from gpuvm import results, runs
from gpuvm.errors import GPUsBusy, GpuvmError, PreflightRefused, RunError
from gpuvm.studio import jobs
from gpuvm.studio.jobs import Queue, Wanted

ONE = Wanted(None, None, 1.0, 5.0, size=64, rounds=1)
GRID = Wanted(None, None, 1.0, 5.0, size=64, rounds=1, grid=3)


class Maker:
    """Makes a picture until the test ends it, or it is cancelled."""

    def __init__(self, *names: str) -> None:
        self.names, self.ended = list(names), threading.Event()
        self.made: list[tuple[Wanted, tuple[str, ...]]] = []
        self.errors: list[GpuvmError] = []

    def workers(self) -> Sequence[str]:
        if not self.names:
            raise PreflightRefused("no VM of 'gpuvm' exists")
        return self.names

    def make(
        self,
        wanted: Wanted,
        workers: Sequence[str],
        watch: runs.Watch,
        begun: Callable[[results.Run], None],
    ) -> None:
        self.made.append((wanted, tuple(workers)))
        if self.errors:
            raise self.errors.pop()
        while not self.ended.wait(0.01):
            if watch.cancelled():
                raise RunError("ended")


@contextmanager
def queue_of(maker: Maker) -> Iterator[Queue]:
    queue = Queue(maker)
    try:
        yield queue
    finally:
        queue.close()


def states(queue: Queue) -> list[str]:
    return [job.state for job in queue.jobs()]


def test_as_many_at_once_as_there_are_workers_and_the_others_wait() -> None:
    maker = Maker("vm-1", "vm-2")
    with queue_of(maker) as queue:
        for _ in range(3):
            queue.submit(ONE)
        wait_for(lambda: states(queue) == ["running", "running", "queued"], "two at once")
        assert {job.workers for job in queue.jobs()} == {("vm-1",), ("vm-2",), ()}
        maker.ended.set()
        wait_for(lambda: states(queue) == ["succeeded"] * 3, "all of them")


def test_a_grid_takes_all_workers_and_is_not_overtaken() -> None:
    maker = Maker("vm-1", "vm-2")
    with queue_of(maker) as queue:
        first = queue.submit(ONE)
        queue.submit(GRID)
        queue.submit(ONE)
        wait_for(lambda: states(queue) == ["running", "queued", "queued"], "one worker is free")
        queue.cancel(first.number)
        wait_for(lambda: states(queue) == ["cancelled", "running", "queued"], "the grid")
        assert queue.jobs()[1].workers == ("vm-1", "vm-2")


def test_cancel() -> None:
    with queue_of(Maker("vm-1")) as queue:
        first, second = queue.submit(ONE), queue.submit(ONE)
        wait_for(lambda: states(queue) == ["running", "queued"], "the first")
        queue.cancel(second.number)
        assert states(queue)[1] == "cancelled"
        queue.cancel(first.number)
        wait_for(lambda: states(queue) == ["cancelled"] * 2, "both")
        queue.cancel(first.number)
        queue.cancel(99)
        assert states(queue) == ["cancelled"] * 2


def test_a_busy_vm_is_left_to_rest_and_the_picture_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "BUSY_S", 0.05)
    maker = Maker("vm-1", "vm-2")
    maker.errors = [GPUsBusy("vm-1", "captioning-1", "")]
    maker.ended.set()
    with queue_of(maker) as queue:
        queue.submit(ONE)
        wait_for(lambda: states(queue) == ["succeeded"], "another VM, or a second time")
    assert len(maker.made) == 2


def test_a_failure_has_its_reason_and_does_not_stop_the_queue() -> None:
    maker = Maker("vm-1")
    maker.errors = [RunError("the disk is full")]
    maker.ended.set()
    with queue_of(maker) as queue:
        failed = queue.submit(ONE)
        wait_for(lambda: states(queue) == ["failed"], "the failure")
        assert queue.jobs()[0].note == "the disk is full"
        assert failed.note == "", "what was handed out is not changed"
        queue.submit(ONE)
        wait_for(lambda: states(queue) == ["failed", "succeeded"], "the next one")


def test_nobody_to_make_it() -> None:
    with queue_of(Maker()) as queue:
        with pytest.raises(PreflightRefused, match="no VM"):
            queue.submit(ONE)
        assert queue.jobs() == []


def test_closing_cancels_everything() -> None:
    maker = Maker("vm-1")
    queue = Queue(maker)
    queue.submit(ONE)
    queue.submit(ONE)
    wait_for(lambda: states(queue) == ["running", "queued"], "the first")
    queue.close()
    assert states(queue) == ["cancelled"] * 2
    with pytest.raises(GpuvmError, match="closing"):
        queue.submit(ONE)


def test_old_jobs_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "KEPT", 2)
    maker = Maker("vm-1")
    maker.ended.set()
    with queue_of(maker) as queue:
        for _ in range(5):
            queue.submit(Wanted(Path("a.png"), None, 1, 5, 64, 1))

        def last_two() -> bool:
            return [job.number for job in queue.jobs() if job.ended] == [4, 5]

        wait_for(last_two, "the last two")
