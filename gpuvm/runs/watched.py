"""A run that this process watches: follow it to its end, fetch its output, finish its record."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

from gpuvm import results
from gpuvm.errors import (
    CommandFailed,
    GpuvmError,
    GuestError,
    GuestUnreachable,
    Interrupted,
    WorkerDied,
)
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
from gpuvm.runs.fan_out import CONNECT_S, QUICK_S, FanOut, Member
from gpuvm.runs.follow import Follower, Outcome, Watch
from gpuvm.settings import GuestSettings
from gpuvm.spec import Distributed
from gpuvm.text import one_line

LIMIT_BYTES = 2 << 30
MAX_NAMED = 5
"""How many skipped files a warning names."""
CHECK_EVERY_S = 1.0
GRACE_S = 3.0
"""Grace period after the first failure, to tell its cause from its consequences."""
START_SLACK = 1.5
"""The program's own start deadline comes first, since its message is better."""


@dataclass
class WatchedRun:
    """``members`` are its VMs; the first is the chief of a distributed run."""

    members: tuple[Member, ...]
    settings: GuestSettings
    distribution: Distributed
    record: results.Run
    events: Events
    watch: Watch = field(default_factory=Watch)
    launched: bool = False
    """It has been launched."""
    running: bool = False
    """It may still be running."""
    queued: bool = False
    """It may be in a queue."""
    resumed: bool = False
    """It continues an earlier run, or is followed again."""
    patterns: Sequence[str] = ()
    """Globs of the files to fetch; empty for all."""
    live: Sequence[str] = ()
    """Globs of the files to fetch at each checkpoint too."""
    limit_bytes: int | None = LIMIT_BYTES
    """The most bytes to fetch from each guest; further files are named in a warning."""
    fetched: bool = False
    detached: bool = False
    """It keeps running after this process."""

    def __post_init__(self) -> None:
        self.guests = FanOut(self.members, self.events)

    @property
    def distributed(self) -> bool:
        return self.record.manifest.distributed

    @property
    def directory(self) -> str:
        """The run's folder in every guest."""
        return f"{self.settings.work_dir}/{self.record.run_id}"

    @property
    def chief(self) -> str:
        """Its name: the member that writes the results of a distributed run."""
        roles = {vm.name: vm.role for vm in self.record.manifest.vms}
        return next((m.name for m in self.members if roles.get(m.name) == "chief"), "")

    def choose_chief(self, name: str) -> None:
        """The one that was the chief may have been lost."""
        changed = [
            vm.model_copy(update={"role": "chief" if vm.name == name else "worker"})
            for vm in self.record.manifest.vms
        ]
        if name != self.chief:
            self.record.update_vms(changed)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Records how the block ends, and ends the run unless it is detached."""
        try:
            yield
        except KeyboardInterrupt:
            if self.running and self._leave_running():
                self.detached = True
                if self.record.manifest.strategy == "local-sgd":
                    self.events.warning(
                        "nobody averages its weights until it is attached to again: its workers "
                        "wait for five minutes, and end then"
                    )
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
        if self.detached:
            self.record.close()
        else:
            self.record.finish("succeeded")

    def _leave_running(self) -> bool:
        try:
            return self.watch.leave_running()
        except KeyboardInterrupt:
            return False

    def follower(
        self, member: Member, *, from_start: bool = False, started: bool = False
    ) -> Follower:
        """Of one member's program; ``from_start`` forgets what is here of it."""
        folder = self.record.vm_dir(member.name)
        resume = not from_start
        return Follower(
            member,
            self.guests,
            folder,
            self.events,
            self.watch,
            resume=resume,
            started=started,
            at_checkpoint=self._fetch_live if self.live else None,
        )

    def _fetch_live(self, guest: Guest) -> None:
        """Fetches what the program has to show so far; what fails now is fetched at the end."""
        out, here, python = (
            f"{self.directory}/out",
            self.record.vm_dir(guest.name),
            self.settings.python,
        )
        try:
            fetch(guest, out, here, patterns=self.live, limit_bytes=self.limit_bytes, python=python)
        except GuestUnreachable:
            raise
        except GuestError as error:
            self.events.note(f"not shown yet: {error}", guest.name)

    def follow(
        self,
        followers: Sequence[Follower],
        silent: Callable[[], Mapping[str, str]] = dict,
    ) -> GpuvmError | None:
        """Waits until the programs have ended; returns the error or None.

        ``silent`` returns those that give no sign of life, and why they count as lost, by VM.
        """
        stop = threading.Event()
        with ThreadPoolExecutor(len(followers)) as threads:
            futures = {threads.submit(self.follow_one, f, stop): f for f in followers}
            try:
                return self._wait(futures, silent)
            finally:
                stop.set()  # the threads end at the next heartbeat or timeout

    def follow_one(self, follower: Follower, stop: threading.Event) -> Outcome:
        self.events.start("train", follower.name)
        begun = time.monotonic()
        outcome = follower.follow(self.settings.python, self.directory, stop)
        seconds = time.monotonic() - begun
        self.events.end("train", seconds, follower.name, ok=not outcome.failed)
        return outcome

    def _wait(
        self,
        futures: "Mapping[Future[Outcome], Follower]",
        silent: Callable[[], Mapping[str, str]],
    ) -> GpuvmError | None:
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=CHECK_EVERY_S, return_when=FIRST_COMPLETED)
            if waiting and self.running and self.watch.cancelled():
                self.end_run(cancelled=True)
            if not self.distributed:
                continue
            failed = [futures[one] for one in done if one.result().failed]
            if failed:
                cause_known = any(follower.port_lost for follower in failed)
                wait(waiting, timeout=0 if cause_known else GRACE_S)
                return self._failure(futures)
            why = silent()
            lost = next((futures[one] for one in waiting if futures[one].name in why), None)
            if lost is not None:
                self.end_run(timeout_s=QUICK_S)
                return WorkerDied(lost.name, None, lost.tail(), how=f"gave {why[lost.name]}")
            start_s = self.distribution.start_s * START_SLACK
            late = [futures[one] for one in waiting if futures[one].overdue(start_s)]
            if late:
                self.end_run()
                return follow.not_started(late, start_s)
        return follow.overall_error([(futures[one], one.result()) for one in futures])

    def _failure(self, futures: "Mapping[Future[Outcome], Follower]") -> GpuvmError:
        endings = {futures[one]: one.result() for one in futures if one.done()}
        self.end_run()
        return self.failure(endings, list(futures.values()))

    def failure(
        self, endings: Mapping[Follower, Outcome], followers: Sequence[Follower]
    ) -> GpuvmError:
        """The cause, once all workers have been ended, which shows which are unreachable."""
        names = self.guests.unreachable - {follower.name for follower in endings}
        unreachable = [follower for follower in followers if follower.name in names]
        return follow.cause_of_failure(list(endings.items()), unreachable)

    def end_run(self, *, cancelled: bool = False, timeout_s: float = CONNECT_S) -> None:
        """End the run in every reachable guest."""
        python, work, run_id = self.settings.python, self.settings.work_dir, self.record.run_id

        def end(guest: Guest) -> None:
            if cancelled or self.queued:
                cancel(guest, python, work, run_id)
            else:
                end_all(guest, python, run_id)

        self.guests.best_effort(end, timeout_s=timeout_s)
        self.running = False

    def fetch(self) -> None:
        """Ends remaining processes of the run, then fetches its output."""
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
        """Ends and fetches the run after an error or Ctrl-C, as far as it was launched."""
        if self.running:
            self.end_run(cancelled=cancelled)
        if self.launched and not self.fetched:
            self.guests.best_effort(self.fetch_from)
        if not self.launched:
            self.guests.best_effort(self._remove_folder)

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
        if fetched.skipped:
            size = sum(one.size for one in fetched.skipped)
            names = ", ".join(one_line(one.name) for one in fetched.skipped[:MAX_NAMED])
            more = (
                f" and {len(fetched.skipped) - MAX_NAMED} more"
                if len(fetched.skipped) > MAX_NAMED
                else ""
            )
            self.events.warning(
                f"{names}{more}: {size / 1e9:.2f} GB not fetched; "
                f"'gpuvm fetch {self.record.run_id} --fetch-limit none' fetches them",
                guest.name,
            )
        if not_collected is not None:
            raise not_collected

    def _remove_folder(self, guest: Guest) -> None:
        """Removes the files of a run that was not launched."""
        guest.run(["rm", "-rf", "--", self.directory], timeout_s=600, what="clean up")

    def reporter(self, guest: Guest, phase: str, doing: str) -> OnProgress:
        """Returns a callback that reports the progress of a transfer."""

        def report(progress: TransferProgress) -> None:
            self.events.progress(guest.name, phase, progress.fraction, f"{doing}: {progress}")

        return report

    def _check_contract(self) -> None:
        if not self.record.manifest.contract:
            return
        warning = contract.missing_records(
            self.record.manifest.workload,
            {
                member.name: self.record.vm_dir(member.name)
                for member in self.members
                if member.name not in self.guests.given_up
            },
            chief=self.chief if self.distributed else None,
            resumed=self.resumed,
        )
        if warning:
            self.events.warning(warning)


def _continue_hint(record: results.Run) -> str:
    where = f"its records are in {record.place}"
    if inputs.has_checkpoints(record):
        return f"{where}; --resume {record.run_id} resumes from its last checkpoint"
    return f"{where}; there is no checkpoint to resume from yet"
