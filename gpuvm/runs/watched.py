"""A run that this process watches: follow it to its end, fetch what it wrote, account for it."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

from gpuvm import results
from gpuvm.errors import CommandFailed, GpuvmError, Interrupted, WorkerDied
from gpuvm.events import Events
from gpuvm.guest import (
    Guest,
    OnProgress,
    TransferProgress,
    cancel,
    collect_project,
    end_all,
    fetch,
    hold,
)
from gpuvm.runs import contract, follow, inputs
from gpuvm.runs.fan_out import Everywhere, Member
from gpuvm.runs.follow import Follower, Outcome, Watch
from gpuvm.settings import GuestSettings
from gpuvm.spec import Distributed
from gpuvm.text import one_line

LIMIT_BYTES = 2 << 30
SHOWN = 5
"""Files that were not fetched are named up to so many."""
LOOK_S = 1.0
GRACE_S = 3.0
"""Grace period after the first failure: it tells the worker that died from its victims."""
START_SLACK = 1.5
"""The program's own start deadline says more, so it comes first."""


def attach(
    record: results.Run,
    members: Sequence[Member],
    *,
    guest: GuestSettings,
    events: Events,
    watch: Watch = Watch(),  # noqa: B008 - has no state
) -> bool:
    """Follow a run that goes on, or has ended, to its end, and fetch what it wrote.

    ``members`` are those of the run that can be reached. Returns and raises as ``run`` does.
    """
    work = WatchedRun(tuple(members), guest, Distributed(), record, events, watch)
    work.launched = work.running = work.resumed = True
    with work.guests, work.accounted_for():
        error = work.follow([work.follower(member) for member in members])
        if error is not None:
            raise error
        work.fetch()
    return not work.left


@dataclass
class WatchedRun:
    """``members`` are its VMs, the chief first when it is distributed."""

    members: tuple[Member, ...]
    settings: GuestSettings
    distribution: Distributed
    record: results.Run
    events: Events
    watch: Watch = field(default_factory=Watch)
    launched: bool = False
    """Something has been started at some time."""
    running: bool = False
    """It may still run."""
    queued: bool = False
    """It may still be in a queue."""
    resumed: bool = False
    """It goes on from where an earlier process of ours, or an earlier run, has left it."""
    patterns: Sequence[str] = ()
    """Globs of what is fetched; everything without any."""
    limit_bytes: int | None = LIMIT_BYTES
    """Of each guest's output, in all; what exceeds it is named instead."""
    fetched: bool = False
    left: bool = False
    """It goes on without its operator."""

    def __post_init__(self) -> None:
        self.guests = Everywhere(self.members, self.events)

    @property
    def distributed(self) -> bool:
        return self.record.manifest.distributed

    @property
    def directory(self) -> str:
        """The run's folder in every guest."""
        return f"{self.settings.work_dir}/{self.record.run_id}"

    @contextmanager
    def accounted_for(self) -> Iterator[None]:
        """However the block ends, the record says how, and nothing runs on unless it is to."""
        try:
            yield
        except KeyboardInterrupt:
            if self.running and self._leave_running():
                self.left = True
            else:
                with self.record.finishing("interrupted", "interrupted"):
                    self.clean_up(cancelled=True)
                raise Interrupted(
                    "interrupted; the workload was ended in every guest",
                    hint=_continue_hint(self.record),
                ) from None
        except BaseException as error:
            cancelled = isinstance(error, WorkerDied) and error.cancelled
            with self.record.finishing("cancelled" if cancelled else "failed", str(error)):
                self.clean_up(cancelled=False)
            raise
        if self.left:
            self.record.close()
        else:
            self.record.finish("succeeded")

    def _leave_running(self) -> bool:
        try:
            return self.watch.leave_running()
        except KeyboardInterrupt:
            return False

    def follower(self, member: Member, *, from_start: bool = False) -> Follower:
        folder = self.record.vm_dir(member.name)
        resume = not from_start
        return Follower(member, self.guests, folder, self.events, self.watch, resume=resume)

    def follow(self, followers: Sequence[Follower]) -> GpuvmError | None:
        """Why it failed, or None; the programs have ended by then."""
        stop = threading.Event()
        with ThreadPoolExecutor(len(followers)) as threads:
            futures = {threads.submit(self._follow_one, f, stop): f for f in followers}
            try:
                return self._wait(futures)
            finally:
                stop.set()  # the threads end at the next sign of life, or when there is none

    def _follow_one(self, follower: Follower, stop: threading.Event) -> Outcome:
        self.events.start("train", follower.name)
        begun = time.monotonic()
        outcome = follower.follow(self.settings.python, self.directory, stop)
        seconds = time.monotonic() - begun
        self.events.end("train", seconds, follower.name, ok=not outcome.failed)
        return outcome

    def _wait(self, futures: "Mapping[Future[Outcome], Follower]") -> GpuvmError | None:
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=LOOK_S, return_when=FIRST_COMPLETED)
            if not self.distributed:
                continue
            failed = [futures[one] for one in done if one.result().failed]
            if failed:
                clear = any(follower.port_lost for follower in failed)
                wait(waiting, timeout=0 if clear else GRACE_S)
                return self._died(futures)
            start_s = self.distribution.start_s * START_SLACK
            late = [futures[one] for one in waiting if futures[one].overdue(start_s)]
            if late:
                self._end()
                return follow.not_started(late, start_s)
        return follow.sum_up([(futures[one], one.result()) for one in futures])

    def _died(self, futures: "Mapping[Future[Outcome], Follower]") -> GpuvmError:
        """Ends the others too, and so finds out which guests do not answer any more."""
        endings = [(futures[one], one.result()) for one in futures if one.done()]
        ended = {follower.name for follower, _ in endings}
        self._end()
        lost = self.guests.lost - ended
        silent = [follower for follower in futures.values() if follower.name in lost]
        return follow.cause(endings, silent)

    def _end(self, *, cancelled: bool = False) -> None:
        """End the run in every guest that can be reached."""
        python, work, run_id = self.settings.python, self.settings.work_dir, self.record.run_id
        if cancelled or self.queued:
            self.guests.quietly(lambda one: cancel(one, python, work, run_id))
        else:
            self.guests.quietly(lambda one: end_all(one, python, run_id))
        self.running = False

    def fetch(self) -> None:
        """What the program may have left running ends before its files are read."""
        python, work, run_id = self.settings.python, self.settings.work_dir, self.record.run_id
        shuts_down = self.record.manifest.then == "shutdown"

        def end_and_fetch(guest: Guest) -> None:
            with hold(guest, python, work, run_id) if shuts_down else nullcontext():
                end_all(guest, python, run_id)
                self.fetch_from(guest)

        self.guests.each("fetch", end_and_fetch)
        self.fetched = True
        self._check_contract()

    def clean_up(self, *, cancelled: bool) -> None:
        """After an error or Ctrl-C, whatever of it is still to be done."""
        if self.running:
            self._end(cancelled=cancelled)
        if self.launched and not self.fetched:
            self.guests.quietly(self.fetch_from)
        if not self.launched:
            self.guests.quietly(self._remove)

    def fetch_from(self, guest: Guest) -> None:
        python, patterns, limit = self.settings.python, self.patterns, self.limit_bytes
        not_collected: CommandFailed | None = None
        if self.record.manifest.project:
            try:
                collect_project(guest, python, self.directory)
            except CommandFailed as error:  # such as a full disk: the logs come all the same
                not_collected = error
        fetched = fetch(
            guest,
            f"{self.directory}/out",
            self.record.vm_dir(guest.name),
            patterns=patterns,
            limit_bytes=limit,
            python=python,
            on_progress=self.reporter(guest, "fetch", "fetching"),
        )
        if fetched.left:
            size = sum(one.size for one in fetched.left)
            names = ", ".join(one_line(one.name) for one in fetched.left[:SHOWN])
            more = f" and {len(fetched.left) - SHOWN} more" if len(fetched.left) > SHOWN else ""
            self.events.warning(
                f"{names}{more}: {size / 1e9:.2f} GB left there; "
                f"'gpuvm fetch {self.record.run_id} --fetch-limit none' fetches them",
                guest.name,
            )
        if not_collected is not None:
            raise not_collected

    def _remove(self, guest: Guest) -> None:
        """What was sent for a run that never began."""
        guest.run(["rm", "-rf", "--", self.directory], timeout_s=600, what="clean up")

    def reporter(self, guest: Guest, phase: str, doing: str) -> OnProgress:
        """What shows how far a transfer is."""

        def report(progress: TransferProgress) -> None:
            self.events.progress(guest.name, phase, progress.fraction, f"{doing}: {progress}")

        return report

    def _check_contract(self) -> None:
        if not self.record.manifest.contract:
            return
        said = contract.complaint(
            self.record.manifest.workload,
            {member.name: self.record.vm_dir(member.name) for member in self.members},
            chief=self.members[0].name if self.distributed else None,
            resumed=self.resumed,
        )
        if said:
            self.events.warning(said)


def _continue_hint(record: results.Run) -> str:
    kept = f"its records are in {record.dir}"
    if inputs.possible(record):
        return f"{kept}; --resume {record.run_id} resumes from its last checkpoint"
    return f"{kept}; there is no checkpoint to resume from yet"
