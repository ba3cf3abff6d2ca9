"""A distributed run whose workers take every step together (``allreduce``): TensorFlow ends all of
them when one is lost. All then go on from the last checkpoint, with the VMs that are there.
"""

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from typing_extensions import override

from gpuvm.errors import GPUsBusy, GpuvmError, GuestError, GuestUnreachable, WorkerDied
from gpuvm.guest import connect, end_all
from gpuvm.runs import worker_links
from gpuvm.runs.averaging import Channel, Header
from gpuvm.runs.contract import BAD_INPUT
from gpuvm.runs.fan_out import Member
from gpuvm.runs.follow import ATTEMPT_S, RETRY_S, Follower
from gpuvm.runs.launch import Launch
from gpuvm.runs.worker_links import ENDED, Hub, Links

PORT_RETRIES = 3


class Lockstep:
    """Follows the programs of ``launch`` to the end of the run."""

    def __init__(self, launch: Launch) -> None:
        self._launch, self._work, self._options = launch, launch.work, launch.options

    def follow(self, followers: Sequence[Follower]) -> GpuvmError | None:
        """Waits until the run has ended; returns the error or None.

        Chooses new ports if one was taken before its use, three times at most.
        """
        work, ports_left, restarts_left = self._work, PORT_RETRIES, self._options.max_restarts
        while (error := self._follow_alive(followers)) is not None:
            lost = [f for f in followers if f.port_lost and not f.stepped]
            if lost and ports_left:
                ports_left -= 1
                work.events.warning("its port is in use now; choosing new ports", lost[0].name)
                self._launch.launch(again=work.resumed)
            elif restarts_left and isinstance(error, WorkerDied) and self._can(error, followers):
                restarts_left -= 1
                if not self._go_on(error, followers):
                    break
            else:
                break
            followers = [
                work.follower(one, from_start=not work.resumed) for one in self._launch.active
            ]
        return error

    def _follow_alive(self, followers: Sequence[Follower]) -> GpuvmError | None:
        """With a sign of life of each program that gives any."""
        work, members = self._work, self._launch.active
        beats = _Beats([member.name for member in members])
        links = Links(
            beats, dict(enumerate(members)), work.settings.python, work.directory, work.events
        )
        try:
            return work.follow(followers, beats.silent)
        finally:
            links.close()

    def _can(self, error: WorkerDied, followers: Sequence[Follower]) -> bool:
        """Whether a program that keeps checkpoints was lost in the middle of its training."""
        if error.cancelled or error.exit_status == BAD_INPUT or self._options.then:
            return False
        keeps_them = self._launch.workload.declaration.contract
        return keeps_them and any(follower.stepped for follower in followers)

    def _go_on(self, error: WorkerDied, followers: Sequence[Follower]) -> bool:
        """Starts all again; False when there is nobody. Waits for a guest that is away."""
        work, record = self._work, self._work.record
        lost_steps = max(follower.lost_steps for follower in followers)
        work.events.warning(f"lost ({error.reason}): all go on from the last checkpoint", error.vm)
        record.add_incident(error.vm, "lost", error.reason, lost_steps=lost_steps)
        begun = time.monotonic()
        work.resumed = True
        while self._launch.active:
            absent = self._absent(begun + self._options.rejoin_s)
            away_s = time.monotonic() - begun
            for name in sorted(absent):
                why = f"away for more than {self._options.rejoin_s:g} s"
                work.events.warning(f"given up: {why}", name)
                record.add_incident(name, "given up", why, seconds=away_s)
            work.guests.given_up |= absent
            if self._launched_again(may_retry=away_s < self._options.rejoin_s):
                if error.vm not in work.guests.given_up:
                    record.add_incident(error.vm, "back", seconds=time.monotonic() - begun)
                return True
        return False

    def _launched_again(self, *, may_retry: bool) -> bool:
        """False when there is nobody, or a guest went away meanwhile."""
        active = self._launch.active
        if not active:
            return False
        self._work.choose_chief(active[0].name)
        try:
            self._launch.launch(again=True)
        except (GuestUnreachable, GPUsBusy) as error:
            if not may_retry:
                raise
            self._work.events.note(f"not yet: {error}")
            return False
        return True

    def _absent(self, end: float) -> set[str]:
        """The names of those that are still away at ``end`` on the monotonic clock; in the others
        nothing of the run is left.
        """
        work, waiting = self._work, self._launch.active

        def is_away(member: Member) -> bool:
            try:
                with connect(member.endpoint, timeout_s=ATTEMPT_S) as guest:
                    end_all(guest, work.settings.python, work.record.run_id)
            except GuestError:
                return True
            return False

        with ThreadPoolExecutor(len(waiting)) as threads:
            while waiting:
                away = list(threads.map(is_away, waiting))
                waiting = [one for one, gone in zip(waiting, away, strict=True) if gone]
                if time.monotonic() > end:
                    break
                if waiting:
                    time.sleep(RETRY_S)
        absent = {member.name for member in waiting}
        work.guests.unreachable &= absent
        return absent


class _Beats(Hub):
    """When each program that has given signs of life gave its last."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._last: dict[str, float] = {}

    def silent(self) -> dict[str, str]:
        """Why a program counts as lost, by VM: also one whose VM cannot be reached any more."""
        now, most = time.monotonic(), worker_links.SILENCE_S
        # A copy, since each worker has a thread
        return {
            name: f"no sign of life for {most:g} s"
            for name, last in tuple(self._last.items())
            if now - last > most
        }

    @override
    def connected(self, worker: int, channel: Channel) -> None:
        self._last[self._names[worker]] = math.inf

    @override
    def received(self, worker: int, header: Header, payload: bytes) -> None:
        """Links takes note of silence."""

    @override
    def lost(self, worker: int, why: str) -> None:
        was_silent = why != ENDED
        self._last[self._names[worker]] = -math.inf if was_silent else time.monotonic()
