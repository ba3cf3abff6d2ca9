"""A distributed run whose workers train in rounds (``averaging``): it survives the loss of any.

A worker that ends or falls silent is missing from the next average. It is started again where it
was, at most ``max_restarts`` times in a run, and joins the others; a guest that is away for longer
than ``rejoin_s`` is given up, and the others do its share.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from typing_extensions import override

from gpuvm.errors import GPUsBusy, GpuvmError, GuestError
from gpuvm.guest import Guest, end_all
from gpuvm.runs import follow
from gpuvm.runs.averaging import Averager, Observer
from gpuvm.runs.contract import BAD_INPUT
from gpuvm.runs.fan_out import QUICK_S, Member
from gpuvm.runs.follow import Follower, Outcome
from gpuvm.runs.watched import CHECK_EVERY_S, GRACE_S, START_SLACK, WatchedRun
from gpuvm.runs.worker_links import Links


@dataclass(frozen=True)
class Restarts:
    """``start`` starts a member's program again, in its guest; at most ``most`` times in all.

    ``rejoin_s`` is how long a guest may be away.
    """

    start: Callable[[Guest, Member], None] | None = None
    most: int = 0
    rejoin_s: float = 120.0


class Rounds(Observer):
    """Follows the programs of ``work`` to the end of the run."""

    def __init__(self, work: WatchedRun, restarts: Restarts) -> None:
        self.work, self.restarts = work, restarts
        # By their positions in the run: where it is attached to, not all VMs may be there.
        names = [vm.name for vm in work.record.manifest.vms]
        self._workers = {names.index(one.name): _Worker(one) for one in work.members}
        self._averager = Averager(self._workers, self)
        self._lock, self._starting = threading.Lock(), threading.Lock()
        self._ending = False
        self._used = 0

    def follow(self, followers: Sequence[Follower]) -> GpuvmError | None:
        """Waits until the run has ended; returns the error or None."""
        work = self.work
        members = {number: worker.member for number, worker in self._workers.items()}
        links = Links(self._averager, members, work.settings.python, work.directory, work.events)
        try:
            with ThreadPoolExecutor(len(followers)) as threads:
                futures = {
                    threads.submit(self._keep, number, follower): self._workers[number]
                    for number, follower in zip(self._workers, followers, strict=True)
                }
                try:
                    error = self._wait(futures)
                finally:
                    with self._starting:
                        self._ending = True
                    for worker in self._workers.values():
                        worker.stop.set()
        finally:
            links.close()
        if error is None:
            self._leave_behind(futures)
        return error

    @override
    def joined(self, worker: int) -> None:
        one = self._workers[worker]
        if self._ending:
            return
        away_s = time.monotonic() - (one.away_since or time.monotonic())
        one.away_since, one.has_joined = None, True
        self.work.events.note(f"back after {away_s:.0f} s", one.name)
        self.work.record.add_incident(one.name, "back", seconds=away_s)

    @override
    def lost(self, worker: int, steps: int, why: str) -> None:
        one = self._workers[worker]
        if self._ending:
            return
        one.away_since = time.monotonic()
        self.work.events.warning(f"lost ({why}): the others go on without it", one.name)
        self.work.record.add_incident(one.name, "lost", why, lost_steps=steps)

    def _keep(self, number: int, follower: Follower) -> Outcome:
        """Follows a worker's program, and starts it again when it has ended before its time."""
        worker = self._workers[number]
        while True:
            worker.follower = follower
            outcome = self.work.follow_one(follower, worker.stop)
            if not outcome.failed:
                return outcome
            if not self._restarted(number, outcome):
                self._averager.lost(number, follow.why(outcome))
                return outcome
            follower = self.work.follower(worker.member)

    def _restarted(self, number: int, outcome: Outcome) -> bool:
        start, worker, said = self.restarts.start, self._workers[number], set[str]()
        if start is None or worker.stop.is_set() or self._is_fatal(worker, outcome):
            return False
        if outcome.cancelled or self._ending or not self._may_restart(worker):
            return False
        self.work.events.note(
            f"starting it again ({follow.why(outcome)}; "
            f"{self._used} of {self.restarts.most} restarts)",
            worker.name,
        )
        end = time.monotonic() + self.restarts.rejoin_s
        while not worker.stop.is_set() and time.monotonic() < end:
            try:
                with self.work.guests.connection(worker.member, follow.ATTEMPT_S) as guest:
                    end_all(
                        guest,
                        self.work.settings.python,
                        self.work.record.run_id,
                        worker=number,
                    )
                    with self._starting:
                        if self._ending:
                            return False
                        start(guest, worker.member)
            except (GuestError, GPUsBusy) as error:
                if str(error) not in said:
                    said.add(str(error))
                    self.work.events.note(f"not yet: {error}", worker.name)
                worker.stop.wait(follow.RETRY_S)
            else:
                return True
        return False

    def _may_restart(self, worker: "_Worker") -> bool:
        """Not one that failed again before it could take part."""
        with self._lock:
            if self._used >= self.restarts.most or not worker.has_joined:
                return False
            self._used += 1
            worker.has_joined, worker.restarted = False, True
            return True

    def _is_fatal(self, worker: "_Worker", outcome: Outcome) -> bool:
        """Whether all others will end so too, or cannot begin."""
        if outcome.exit_status == BAD_INPUT:
            return True
        return not worker.restarted and not worker.follower.started

    def _wait(self, futures: "Mapping[Future[Outcome], _Worker]") -> GpuvmError | None:
        work, waiting, start_s = self.work, set(futures), self.work.distribution.start_s
        while waiting:
            _, waiting = wait(waiting, timeout=CHECK_EVERY_S, return_when=FIRST_COMPLETED)
            if waiting and work.running and work.watch.cancelled():
                self._end_run(cancelled=True)
            ended = [(futures[one], one.result()) for one in futures if one.done()]
            if waiting and any(self._is_fatal(*ending) for ending in ended if ending[1].failed):
                wait(waiting, timeout=GRACE_S)
                return self._failure(futures)
            late = [
                futures[one].follower
                for one in waiting
                if not futures[one].restarted
                and futures[one].follower.overdue(start_s * START_SLACK)
            ]
            if late:
                self._end_run()
                return follow.not_started(late, start_s)
            all_away = all(futures[one].away_since is not None for one in waiting)
            if all_away and any(not outcome.failed for _, outcome in ended):
                break
            self._give_up([futures[one] for one in waiting])
        return self._failure(futures) if not self._succeeded(futures) else None

    def _give_up(self, waiting: "Sequence[_Worker]") -> None:
        """Those that are away too long, unless nobody is there: then it may be this machine."""
        now = time.monotonic()
        for worker in waiting:
            away_since = worker.away_since
            if away_since is None or not self._averager.members or worker.stop.is_set():
                continue
            if now - away_since > self.restarts.rejoin_s:
                why = f"away for more than {self.restarts.rejoin_s:g} s"
                self.work.events.warning(f"given up: {why}", worker.name)
                away_s = now - away_since
                self.work.record.add_incident(worker.name, "given up", why, seconds=away_s)
                worker.stop.set()

    @staticmethod
    def _succeeded(futures: "Mapping[Future[Outcome], _Worker]") -> bool:
        return any(one.done() and not one.result().failed for one in futures)

    def _failure(self, futures: "Mapping[Future[Outcome], _Worker]") -> GpuvmError:
        endings = {futures[one].follower: one.result() for one in futures if one.done()}
        self._end_run()
        return self.work.failure(endings, [worker.follower for worker in self._workers.values()])

    def _end_run(self, *, cancelled: bool = False) -> None:
        """Nothing is started after it."""
        with self._starting:
            self._ending = True
        self.work.end_run(cancelled=cancelled)

    def _leave_behind(self, futures: "Mapping[Future[Outcome], _Worker]") -> None:
        """After a success: names who wrote the results, and those that had no part in it."""
        work = self.work
        left = {futures[one].name for one in futures if not one.done() or one.result().failed}
        work.guests.given_up |= left
        work.choose_chief(self._workers[self._averager.chief].name)
        run_id, python = work.record.run_id, work.settings.python
        for name in sorted(left):
            work.events.warning("the run has ended without it", name)

        def end_and_fetch(guest: Guest) -> None:
            end_all(guest, python, run_id)
            work.fetch_from(guest)

        if left:
            work.guests.best_effort(end_and_fetch, only=left, timeout_s=QUICK_S)


class _Worker:
    """``away_since``: it is not among those that train. ``has_joined``: it has been, since it was
    last started.
    """

    def __init__(self, member: Member) -> None:
        self.member, self.stop = member, threading.Event()
        self.away_since: float | None = None
        self.has_joined, self.restarted = True, False
        self.follower: Follower

    @property
    def name(self) -> str:
        return self.member.name
