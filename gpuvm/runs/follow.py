"""Follows one guest's program live; a broken connection is taken up again where it broke.

What comes is kept in the run's folder at once, so that a run can be looked at while it goes and
something is left even if the guest is lost. At the end of a distributed run, ``cause`` says which
worker died by itself and which only lost a peer.
"""

import json
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuvm.errors import GpuvmError, GuestError, GuestUnreachable, PartlyDone, RunError, WorkerDied
from gpuvm.events import Events
from gpuvm.guest import Exited, Output, follow
from gpuvm.guest.processes import STDERR, STDOUT
from gpuvm.runs.fan_out import Everywhere, Member

TIMINGS = "out/timings.jsonl"
FILES = (TIMINGS, STDOUT, STDERR)
TAIL_LINES = 12
LONGEST_LINE = 1 << 20
"""Bytes of a line; a longer one comes in pieces, so that it needs no more memory."""
CHUNK = 1 << 16
ATTEMPT_S, AGAIN_S = 5.0, 0.5
RECONNECT_S = 300.0
"""How long a guest may be unreachable while its program runs."""

_PORT_LOST = ("could not start grpc server", "address already in use")


@dataclass(frozen=True)
class Progress:
    """``loss`` and ``examples_per_second`` are those of the last logged step."""

    vm: str
    phase: str
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    examples_per_second: float | None = None
    text: str | None = None


class Watch:
    """Who watches a run; every method is called from several threads. This one ignores it all."""

    def step(self, progress: Progress) -> None:
        """A program that keeps the contract wrote a record."""

    def output(self, vm: str, stderr: bool, line: str) -> None:
        """A line of a program's output, as it came: it may hold control characters."""

    def leave_running(self) -> bool:
        """After Ctrl-C: whether the run is to go on without its operator."""
        return False


@dataclass(frozen=True)
class Outcome:
    """``at`` is when it ended, on this machine's monotonic clock: guests' clocks may differ.

    ``exit_status`` is None when it vanished, and ``error`` then says more if it is known.
    """

    exit_status: int | None
    at: float
    error: GuestError | None = None
    rebooted: bool = False
    cancelled: bool = False
    disk_full: bool = False

    @property
    def failed(self) -> bool:
        return self.exit_status != 0


class Follower:
    """What has been seen of one program so far; ``follow`` is for a thread of its own."""

    def __init__(
        self,
        member: Member,
        guests: Everywhere,
        local: Path,
        events: Events,
        watch: Watch,
        *,
        resume: bool = False,
    ) -> None:
        """``resume``: go on from what is here already instead of from the beginning."""
        self.member, self._guests = member, guests
        self._local, self._events, self._watch = local, events, watch
        self.started = self.stepped = self.port_lost = False
        self._lost = False
        self._phase = "starting"
        self._phases_open = 0
        self._heard = self._last_record = time.monotonic()
        self._offsets = dict.fromkeys(FILES, 0)
        self._rest = dict.fromkeys(FILES, b"")
        self._tails: dict[str, deque[str]] = {
            name: deque(maxlen=TAIL_LINES) for name in (STDOUT, STDERR)
        }
        for name in FILES:
            if resume:
                self._offsets[name] = _whole_lines(self._copy(name))
            else:
                self._copy(name).unlink(missing_ok=True)

    @property
    def name(self) -> str:
        return self.member.name

    def follow(self, python: str, directory: str, stop: threading.Event) -> Outcome:
        """Until the program ends, is lost for too long, or ``stop`` is set and nothing comes."""
        while True:
            try:
                return self._follow(python, directory, stop)
            except GuestUnreachable as error:
                silent_s = time.monotonic() - self._heard
                if stop.is_set() or silent_s > RECONNECT_S:
                    return Outcome(None, self._heard, error)
                if not self._lost:
                    self._events.note("connection lost, trying again", self.name)
                self._lost = True
                stop.wait(AGAIN_S)
            except GuestError as error:
                return Outcome(None, self._heard, error)

    def tail(self) -> list[str]:
        """The last lines of standard error, or of standard output when there are none."""
        for name in (STDERR, STDOUT):
            rest = self._rest[name].decode(errors="replace")
            lines = [*self._tails[name], *([rest] if rest.strip() else [])]
            if lines:
                return lines[-TAIL_LINES:]
        return []

    def overdue(self, start_s: float) -> bool:
        """No start record within ``start_s``; preparing data is a phase and does not count."""
        silent_s = time.monotonic() - self._last_record
        return not self.started and not self._phases_open and silent_s > start_s

    def _follow(self, python: str, directory: str, stop: threading.Event) -> Outcome:
        with self._guests.connection(self.member, ATTEMPT_S) as guest:
            for seen in follow(guest, python, directory, self._offsets):
                self._heard, self._lost = time.monotonic(), False
                if isinstance(seen, Exited):
                    ended = self._heard - seen.age_s
                    return Outcome(
                        seen.exit_status,
                        ended,
                        rebooted=seen.rebooted,
                        cancelled=seen.cancelled,
                        disk_full=seen.disk_full,
                    )
                if isinstance(seen, Output):
                    self._take(seen)
                elif seen.queued:
                    self._last_record = self._heard
                if stop.is_set():
                    break
        return Outcome(None, self._heard)

    def _take(self, news: Output) -> None:
        self._offsets[news.file] = news.offset
        with self._copy(news.file).open("ab") as copy:
            copy.write(news.data)
        lines, self._rest[news.file] = split_lines(self._rest[news.file] + news.data)
        for line in lines:
            text = line.decode(errors="replace")
            if news.file == TIMINGS:
                self._record(text)
                continue
            self._watch.output(self.name, news.file == STDERR, text)
            if text.strip():
                self._tails[news.file].append(text)
                self.port_lost |= any(said in text.lower() for said in _PORT_LOST)

    def _copy(self, name: str) -> Path:
        self._local.mkdir(parents=True, exist_ok=True)
        return self._local / Path(name).name

    def _record(self, line: str) -> None:
        try:
            record = json.loads(line)
            event = record["event"]
        except (ValueError, KeyError, TypeError):
            return  # the report names the line
        self._last_record = time.monotonic()
        if event == "start":
            self.started = True
        elif event == "phase":
            self._enter_or_leave(record)
        elif event == "step":
            self.started = self.stepped = True
            self._watch.step(_progress(self.name, record, self._phase))
        elif event == "score":
            text = f"{record.get('name')} {_number(record.get('value')) or 0:.3f}"
            self._watch.step(Progress(self.name, self._phase, text=text))

    def _enter_or_leave(self, record: dict[str, Any]) -> None:
        if record.get("state") != "start":
            self._phases_open = max(0, self._phases_open - 1)
            return
        self._phases_open += 1
        self._phase = str(record.get("name"))
        self._watch.step(Progress(self.name, self._phase))


def split_lines(data: bytes) -> tuple[list[bytes], bytes]:
    """Whole lines, and what follows them."""
    *lines, rest = data.split(b"\n")
    return ([*lines, rest], b"") if len(rest) > LONGEST_LINE else (lines, rest)


def _whole_lines(file: Path) -> int:
    """How many bytes of whole lines the file has; what follows them is cut off."""
    if not file.exists():
        return 0
    with file.open("rb+") as copy:
        size = copy.seek(0, os.SEEK_END)
        while size:
            begin = copy.seek(max(0, size - CHUNK))
            found = copy.read(size - begin).rfind(b"\n")
            if found >= 0:
                size = begin + found + 1
                break
            size = begin
        copy.truncate(size)
    return size


def _progress(vm: str, record: dict[str, Any], phase: str) -> Progress:
    """Read a step record, which may be a user's own: what is not a number is left out."""
    step, steps = _number(record.get("step")), _number(record.get("steps"))
    return Progress(
        vm=vm,
        phase=str(record.get("phase", phase)),
        step=None if step is None else int(step),
        steps=None if steps is None else int(steps),
        loss=_number(record.get("loss")),
        examples_per_second=_number(record.get("examples_per_second")),
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


LOST_A_PEER = 3
"""With this status a workload says that another worker went away (workloads/README.md)."""

Ending = tuple[Follower, Outcome]


def cause(endings: Sequence[Ending], out_of_reach: Sequence[Follower]) -> WorkerDied:
    """The first to end, unless it says itself that it lost a peer, or a guest is out of reach.

    A guest that went away as a whole is noticed last but is the reason for all others.
    """
    if out_of_reach:
        lost = out_of_reach[0]
        return WorkerDied(lost.name, None, [*lost.tail(), f"{lost.name} is out of reach"])
    failed = [ending for ending in endings if ending[1].failed]
    first, outcome = min(failed, key=lambda ending: (_victim(ending[1]), ending[1].at))
    return _died(first, outcome)


def sum_up(endings: Sequence[Ending]) -> GpuvmError | None:
    """Return the error of programs that ran independently on several VMs; None if all are well."""
    died = [_died(follower, outcome) for follower, outcome in endings if outcome.failed]
    if not died or len(endings) == len(died):
        return died[0] if died else None
    told = "; ".join(str(one) for one in died)
    return PartlyDone(f"{len(died)} of {len(endings)} failed: {told}")


def not_started(followers: Sequence[Follower], start_s: float) -> RunError:
    names = ", ".join(follower.name for follower in followers)
    last = [line for follower in followers for line in follower.tail()[-1:]]
    said = f": {last[0]}" if last else ""
    return RunError(
        f"not started within {start_s:g} s: {names}{said}",
        hint="a distributed program writes a 'start' record (workloads/README.md) when its "
        "cluster is up; distributed.start_s in gpuvm.yaml gives it more time",
    )


def _victim(outcome: Outcome) -> bool:
    return outcome.exit_status == LOST_A_PEER


def _died(follower: Follower, outcome: Outcome) -> WorkerDied:
    why = [str(outcome.error)] if outcome.error else []
    if outcome.disk_full:
        why.append(f"the disk of {follower.name} is full; 'gpuvm runs prune' removes ended runs")
    tail = [*follower.tail(), *why]
    return WorkerDied(
        follower.name,
        outcome.exit_status,
        tail,
        rebooted=outcome.rebooted,
        cancelled=outcome.cancelled,
    )
