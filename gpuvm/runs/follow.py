"""Follows one guest's program; reconnects after a lost connection and resumes at the same place.

Output is written to the run's folder at once, so that it can be read during the run and is kept if
the guest is lost. After a distributed run, ``cause_of_failure`` finds the worker that failed first.
"""

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuvm.errors import GpuvmError, GuestError, GuestUnreachable, PartlyDone, RunError, WorkerDied
from gpuvm.events import Events
from gpuvm.guest import Exited, Guest, Output, follow
from gpuvm.guest.processes import STDERR, STDOUT
from gpuvm.runs.contract import LOST_A_PEER
from gpuvm.runs.fan_out import FanOut, Member

TIMINGS = "out/timings.jsonl"
FILES = (TIMINGS, STDOUT, STDERR)
TAIL_LINES = 12
LONGEST_LINE = 1 << 20
"""Bytes of a line; a longer one comes in pieces, so that it needs no more memory."""
CHUNK = 1 << 16
ATTEMPT_S, RETRY_S = 5.0, 0.5
RECONNECT_S = 300.0
"""How long a guest may be unreachable while its program runs."""
LIVE_EVERY_S = 1.0
"""Results are fetched during the run no more often."""

_PORT_LOST = ("could not start grpc server", "address already in use")


@dataclass(frozen=True)
class Progress:
    """``loss`` and ``examples_per_second`` are from the last logged step."""

    vm: str
    phase: str
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    examples_per_second: float | None = None
    text: str | None = None


class Watch:
    """Callbacks of a watched run, called from several threads; these do nothing."""

    def step(self, progress: Progress) -> None:
        """The program has written a record of the contract."""

    def record(self, vm: str, record: Mapping[str, Any]) -> None:
        """The program has written this record, of the contract or of its own."""

    def output(self, vm: str, stderr: bool, line: str) -> None:
        """A line of a program's output; it may contain control characters."""

    def leave_running(self) -> bool:
        """After Ctrl-C: whether to leave the run running."""
        return False

    def cancelled(self) -> bool:
        """Asked about once a second: whether to end the run as ``gpuvm cancel`` does."""
        return False


@dataclass(frozen=True)
class Outcome:
    """How a program ended; ``at`` is on this machine's monotonic clock, as guests' clocks differ.

    ``exit_status`` is None when it vanished; ``error`` may then give the reason.
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
    """Follows one program; run ``follow`` in its own thread."""

    def __init__(
        self,
        member: Member,
        guests: FanOut,
        local: Path,
        events: Events,
        watch: Watch,
        *,
        resume: bool = False,
        started: bool = False,
        at_checkpoint: Callable[[Guest], None] | None = None,
    ) -> None:
        """``resume``: go on from what is here already instead of from the beginning. ``started``:
        its program has written that it has started, if there is anything of it here.

        ``at_checkpoint`` is called after the program has written one, or several.
        """
        self.member, self._guests, self._at_checkpoint = member, guests, at_checkpoint
        self._local, self._events, self._watch = local, events, watch
        self.started = self.stepped = self.port_lost = False
        self._last_step = self._last_checkpoint = 0
        self._disconnected = False
        self._checkpoint, self._last_call = False, 0.0
        self._phase = "starting"
        self._phases_open = 0
        self._last_contact = self._last_record = time.monotonic()
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
        self.started = started and self._offsets[TIMINGS] > 0

    @property
    def name(self) -> str:
        return self.member.name

    def follow(self, python: str, directory: str, stop: threading.Event) -> Outcome:
        """Returns when the program ends, is unreachable too long, or ``stop`` is set."""
        while True:
            try:
                return self._follow(python, directory, stop)
            except GuestUnreachable as error:
                unreachable_s = time.monotonic() - self._last_contact
                if stop.is_set() or unreachable_s > RECONNECT_S:
                    return Outcome(None, self._last_contact, error)
                if not self._disconnected:
                    self._events.note("connection lost, reconnecting", self.name)
                self._disconnected = True
                stop.wait(RETRY_S)
            except GuestError as error:
                return Outcome(None, self._last_contact, error)

    @property
    def lost_steps(self) -> int:
        """The steps since the last checkpoint, as far as they were logged."""
        since = self._last_step - self._last_checkpoint
        return since if since >= 0 else self._last_step  # the checkpoint is of the phase before

    def tail(self) -> list[str]:
        """The last lines of standard error, or else of standard output."""
        for name in (STDERR, STDOUT):
            rest = self._rest[name].decode(errors="replace")
            lines = [*self._tails[name], *([rest] if rest.strip() else [])]
            if lines:
                return lines[-TAIL_LINES:]
        return []

    def overdue(self, start_s: float) -> bool:
        """Whether there is no start record within ``start_s``, not counting phases such as data."""
        waited_s = time.monotonic() - self._last_record
        return not self.started and not self._phases_open and waited_s > start_s

    def _follow(self, python: str, directory: str, stop: threading.Event) -> Outcome:
        with self._guests.connection(self.member, ATTEMPT_S) as guest:
            for seen in follow(guest, python, directory, self._offsets):
                self._last_contact, self._disconnected = time.monotonic(), False
                if isinstance(seen, Exited):
                    ended = self._last_contact - seen.age_s
                    return Outcome(
                        seen.exit_status,
                        ended,
                        rebooted=seen.rebooted,
                        cancelled=seen.cancelled,
                        disk_full=seen.disk_full,
                    )
                if isinstance(seen, Output):
                    self._store(seen)
                elif seen.queued:
                    self._last_record = self._last_contact
                self._call_at_checkpoint(guest)
                if stop.is_set():
                    break
        return Outcome(None, self._last_contact)

    def _call_at_checkpoint(self, guest: Guest) -> None:
        due = time.monotonic() - self._last_call >= LIVE_EVERY_S
        if self._at_checkpoint is not None and self._checkpoint and due:
            self._checkpoint = False
            self._at_checkpoint(guest)
            self._last_call = time.monotonic()

    def _store(self, output: Output) -> None:
        self._offsets[output.file] = output.offset
        with self._copy(output.file).open("ab") as copy:
            copy.write(output.data)
        lines, self._rest[output.file] = split_lines(self._rest[output.file] + output.data)
        for line in lines:
            text = line.decode(errors="replace")
            if output.file == TIMINGS:
                self._record(text)
                continue
            self._watch.output(self.name, output.file == STDERR, text)
            if text.strip():
                self._tails[output.file].append(text)
                self.port_lost |= any(sign in text.lower() for sign in _PORT_LOST)

    def _copy(self, name: str) -> Path:
        self._local.mkdir(parents=True, exist_ok=True)
        return self._local / Path(name).name

    def _record(self, line: str) -> None:
        try:
            record = json.loads(line)
            event = record["event"]
        except (ValueError, KeyError, TypeError):
            return  # the report reports the line
        self._last_record = time.monotonic()
        self._watch.record(self.name, record)
        if event == "start":
            self.started = True
        elif event == "phase":
            self._update_phase(record)
        elif event == "step":
            self.started = self.stepped = True
            self._last_step = int(_number(record.get("step")) or 0)
            self._watch.step(_progress(self.name, record, self._phase))
        elif event == "checkpoint":
            self._checkpoint = True
            self._last_checkpoint = int(_number(record.get("step")) or 0)
        elif event == "score":
            text = f"{record.get('name')} {_number(record.get('value')) or 0:.3f}"
            self._watch.step(Progress(self.name, self._phase, text=text))

    def _update_phase(self, record: dict[str, Any]) -> None:
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
    """Truncates the file after its last complete line; returns its size."""
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
    """Reads a step record; values that are not numbers are ignored."""
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


Ending = tuple[Follower, Outcome]


def cause_of_failure(endings: Sequence[Ending], unreachable: Sequence[Follower]) -> WorkerDied:
    """The first worker that failed by itself; an unreachable guest precedes all others.

    A guest that disappears is noticed last but is the cause of the other failures.
    """
    if unreachable:
        lost = unreachable[0]
        return WorkerDied(lost.name, None, [*lost.tail(), f"{lost.name} is unreachable"])
    failed = [ending for ending in endings if ending[1].failed]
    first, outcome = min(failed, key=lambda ending: (_lost_a_peer(ending[1]), ending[1].at))
    return _died(first, outcome)


def why(outcome: Outcome) -> str:
    """Why a program ended, in a few words."""
    if outcome.rebooted:
        return "its VM was restarted"
    if outcome.error is not None:
        return str(outcome.error)
    if outcome.exit_status is None:
        return "its program vanished"
    status = outcome.exit_status
    return (
        f"its program was ended by signal {status - 128}"
        if status > 128
        else (f"its program ended with status {status}")
    )


def overall_error(endings: Sequence[Ending]) -> GpuvmError | None:
    """The error of programs that ran independently on several VMs; None if all succeeded."""
    died = [_died(follower, outcome) for follower, outcome in endings if outcome.failed]
    if not died or len(endings) == len(died):
        return died[0] if died else None
    errors = "; ".join(str(one) for one in died)
    return PartlyDone(f"{len(died)} of {len(endings)} failed: {errors}")


def not_started(followers: Sequence[Follower], start_s: float) -> RunError:
    names = ", ".join(follower.name for follower in followers)
    last = [line for follower in followers for line in follower.tail()[-1:]]
    output = f": {last[0]}" if last else ""
    return RunError(
        f"not started within {start_s:g} s: {names}{output}",
        hint="a distributed program writes a 'start' record (workloads/README.md) when its "
        "cluster is up; increase distributed.start_s in gpuvm.yaml if it needs more time",
    )


def _lost_a_peer(outcome: Outcome) -> bool:
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
