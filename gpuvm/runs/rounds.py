"""A distributed run whose workers train in rounds (``averaging``): the loss of one is not the loss of
the run.

A worker that ends or falls silent is missing from the next average. It is started again where it
was, at most ``max_restarts`` times in a run, and joins the others; a guest that has not answered for
``rejoin_s`` is given up, and the others do its share.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from gpuvm.errors import GpuvmError, GuestError
from gpuvm.guest import Guest
from gpuvm.runs import follow
from gpuvm.runs.averaging import Averager
from gpuvm.runs.averaging_links import Links
from gpuvm.runs.fan_out import Member
from gpuvm.runs.follow import Follower, Outcome
from gpuvm.runs.watched import CHECK_EVERY_S, START_SLACK, WatchedRun

BAD_INPUT = 2
"""The exit status of a program whose arguments or data cannot be used (workloads/README.md)."""


@dataclass
class Rounds:
    """``restart`` starts the program of one member again, in its guest."""

    work: WatchedRun
    restart: Callable[[Guest, Member], None]
    max_restarts: int
    rejoin_s: float
    restarts: int = 0
    _given_up: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def follow(self, followers: Sequence[Follower]) -> GpuvmError | None:
        """Waits until the run has ended; returns the error or None."""
        work = self.work
        averager = Averager(len(followers), self._changed)
        links = Links(averager, work.members, work.settings.python, work.directory)
        stop = threading.Event()
        try:
            with ThreadPoolExecutor(len(followers)) as threads:
                futures = {
                    threads.submit(self._keep, worker, follower, averager, stop): worker
                    for worker, follower in enumerate(followers)
                }
                try:
                    return self._wait(futures, followers, averager)
                finally:
                    stop.set()
        finally:
            links.close()

    def _keep(
        self, worker: int, follower: Follower, averager: Averager, stop: threading.Event
    ) -> Outcome:
        """Follows a worker's program, and starts it again when it is lost."""
        work = self.work
        while True:
            outcome = follower.follow(work.settings.python, work.directory, stop)
            if stop.is_set() or not self._may_restart(follower, outcome):
                averager.lost(worker)
                return outcome
            why = _why(outcome)
            work.events.warning(f"{why}: the run goes on without it", follower.name)
            if not self._started_again(follower, stop):
                averager.lost(worker)
                return outcome
            work.events.note(
                f"started again ({self.restarts} of {self.max_restarts})", follower.name
            )
            follower = work.follower(follower.member)

    def _may_restart(self, follower: Follower, outcome: Outcome) -> bool:
        if not outcome.failed or outcome.cancelled or outcome.exit_status == BAD_INPUT:
            return False
        if not follower.started:
            return False
        with self._lock:
            if self.restarts >= self.max_restarts:
                return False
            self.restarts += 1
            return True

    def _started_again(self, follower: Follower, stop: threading.Event) -> bool:
        end = time.monotonic() + self.rejoin_s
        while not stop.is_set() and time.monotonic() < end:
            try:
                with self.work.guests.connection(follower.member, follow.ATTEMPT_S) as guest:
                    self.restart(guest, follower.member)
            except GuestError:
                stop.wait(follow.RETRY_S)
            else:
                return True
        return False
