"""The runs in guests, whoever started them: list, logs, fetch, cancel, prune.

A guest keeps each run's manifest, output and exit status, so all of this works from any machine
that can reach the guests.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import ValidationError

from gpuvm import results
from gpuvm.errors import GpuvmError, RunError
from gpuvm.events import Events
from gpuvm.guest import (
    Alive,
    Exited,
    Guest,
    Listed,
    Output,
    PrunedRuns,
    connect,
    follow,
    list_processes,
    prune,
    prune_store,
)
from gpuvm.guest.processes import STDERR, STDOUT
from gpuvm.results import Manifest
from gpuvm.runs.fan_out import CONNECT_S, FanOut, Member
from gpuvm.runs.follow import split_lines
from gpuvm.runs.inputs import STORE
from gpuvm.runs.watched import LIMIT_BYTES, WatchedRun
from gpuvm.settings import GuestSettings
from gpuvm.spec import Distributed

State = Literal["queued", "running", "succeeded", "failed", "cancelled", "lost"]


@dataclass(frozen=True)
class RunState:
    """A run as its guests list it; ``vms`` are those that have it now.

    ``manifest`` is None when it cannot be read; ``ahead`` is its place in the queue, from 1;
    ``line`` is the unchanged last line of its output; ``problem`` is an error after its end.
    """

    run_id: str
    state: State
    vms: tuple[str, ...]
    started: datetime | None
    manifest: Manifest | None
    ahead: int | None
    rebooted: bool
    line: str
    problem: str | None


def list_runs(
    members: Sequence[Member],
    settings: GuestSettings,
    events: Events,
    *,
    timeout_s: float = CONNECT_S,
) -> list[RunState]:
    """The runs of all guests, the oldest first; unreachable guests are warnings."""
    seen: dict[str, list[Listed]] = {}

    def list_in(guest: Guest) -> None:
        seen[guest.name] = list_processes(guest, settings.python, settings.work_dir)

    if members:
        FanOut(members, events).best_effort(list_in, timeout_s=timeout_s)
    by_run: dict[str, dict[str, Listed]] = defaultdict(dict)
    for vm in sorted(seen):
        for listed in seen[vm]:
            by_run[listed.run][vm] = listed
    found = [_state(run_id, listed) for run_id, listed in by_run.items()]
    return sorted(found, key=lambda run: results.when(run.run_id))


def state_of(
    run_id: str, members: Sequence[Member], settings: GuestSettings, events: Events
) -> RunState | None:
    """None when no guest has the run."""
    found = list_runs(members, settings, events)
    return next((run for run in found if run.run_id == run_id), None)


def _state(run_id: str, by_vm: Mapping[str, Listed]) -> RunState:
    listed = list(by_vm.values())
    last = min(listed, key=lambda one: one.ended_ago_s or 0.0)
    begun = [one.begun_ago_s for one in listed if one.begun_ago_s is not None]
    places = [one.ahead for one in listed if one.ahead is not None]
    return RunState(
        run_id=run_id,
        state=_overall_state(listed),
        vms=tuple(by_vm),
        started=datetime.now(UTC) - timedelta(seconds=max(begun)) if begun else None,
        manifest=next((m for one in listed if (m := _manifest(one)) is not None), None),
        ahead=max(places, default=None),
        rebooted=any(one.rebooted for one in listed if one.state == "lost"),
        line=last.line,
        problem=next((one.problem for one in listed if one.problem), None),
    )


def _overall_state(listed: Sequence[Listed]) -> State:
    states = {one.state for one in listed}
    if states & {"running"}:
        return "running"
    if states & {"queued"}:
        return "queued"
    if any(one.cancelled for one in listed):
        return "cancelled"
    if states & {"lost"}:
        return "lost"
    return "failed" if any(one.exit_status for one in listed) else "succeeded"


def _manifest(listed: Listed) -> Manifest | None:
    """None unless it is a valid manifest of this run: a guest's data is not trusted."""
    try:
        manifest = Manifest.model_validate(listed.manifest)
    except ValidationError:
        return None
    return manifest if manifest.run_id == listed.run else None


Lines = Callable[[str, bool, str], None]
"""Receives a line of output: the VM, whether it is from stderr, the unchanged text."""


def read_logs(
    members: Sequence[Member],
    settings: GuestSettings,
    run_id: str,
    show: Lines,
    *,
    tail: int | None = None,
    until_end: bool = False,
) -> None:
    """Show the run's output so far, VM by VM, at most the last ``tail`` lines of each.

    ``until_end`` continues until the programs have ended, with the lines of all VMs as they arrive.
    Raises GuestError.
    """
    directory = f"{settings.work_dir}/{run_id}"
    at_once = len(members) if until_end else 1
    with ThreadPoolExecutor(at_once) as threads:
        reading = [
            threads.submit(_read_log, one, settings.python, directory, show, tail, until_end)
            for one in members
        ]
        for one in reading:
            one.result()


def _read_log(
    member: Member, python: str, directory: str, show: Lines, tail: int | None, until_end: bool
) -> None:
    past: deque[tuple[bool, str]] = deque(maxlen=tail)
    live = tail is None
    with connect(member.endpoint) as guest:
        for seen in _lines(follow(guest, python, directory, {STDOUT: 0, STDERR: 0})):
            if seen is not None:
                past.append(seen)
            elif not until_end:
                break
            live = live or seen is None
            while live and past:
                show(member.name, *past.popleft())
    for stderr, text in past:
        show(member.name, stderr, text)


def _lines(output: Iterator[Output | Alive | Exited]) -> Iterator[tuple[bool, str] | None]:
    """Yield lines, and None when there is no new output; the last line may be incomplete."""
    rest = {STDOUT: b"", STDERR: b""}
    for seen in output:
        if isinstance(seen, Output):
            lines, rest[seen.file] = split_lines(rest[seen.file] + seen.data)
            for line in lines:
                yield seen.file == STDERR, line.decode(errors="replace")
        elif isinstance(seen, Alive):
            yield None
    for name, last in rest.items():
        if last:
            yield name == STDERR, last.decode(errors="replace")


def fetch_run(
    record: results.Run,
    members: Sequence[Member],
    settings: GuestSettings,
    events: Events,
    *,
    patterns: Sequence[str] = (),
    limit_bytes: int | None = LIMIT_BYTES,
) -> None:
    """Copy the run's output so far to its local folder, limited to the patterns.

    Files that exceed ``limit_bytes`` in a guest are listed in a warning. If the run has ended, its
    record is finished. Raises GuestError.
    """
    work = WatchedRun(tuple(members), settings, Distributed(), record, events)
    work.patterns, work.limit_bytes = patterns, limit_bytes
    with work.guests:
        work.guests.each("fetch", work.fetch_from)
    if record.manifest.status == "running":
        _record_end(record, state_of(record.run_id, members, settings, events))


def _record_end(record: results.Run, state: RunState | None) -> None:
    """Finishes the record of a run that ended while not being watched."""
    if state is None or state.state in ("queued", "running"):
        return
    if state.state == "lost":
        record.finish(
            "failed", "its VM was rebooted" if state.rebooted else "it ended without an exit status"
        )
    elif state.state == "failed":
        record.finish("failed", "it failed while not being watched")
    elif state.state == "cancelled":
        record.finish("cancelled", "cancelled")
    else:
        record.finish("succeeded")


def cancel_run(
    record: results.Run, members: Sequence[Member], settings: GuestSettings, events: Events
) -> None:
    """End the run in every guest and fetch what it wrote.

    Raises RunError naming the guests that could not be reached.
    """
    work = WatchedRun(tuple(members), settings, Distributed(), record, events)
    work.launched = work.running = True
    with record.finishing("cancelled", "cancelled"):
        work.clean_up(cancelled=True)
    if work.guests.unreachable:
        names = ", ".join(sorted(work.guests.unreachable))
        raise RunError(f"run {record.run_id} may still be running: {names} cannot be reached")


def prune_runs(
    members: Sequence[Member], settings: GuestSettings, events: Events, *, older_than: timedelta
) -> dict[str, PrunedRuns]:
    """Remove the folders of runs that ended so long ago, and return what went, by VM.

    Contents that projects and data have not used for so long leave the guests' stores, too, and so
    do Python environments that no run uses any more.
    """
    removed: dict[str, PrunedRuns] = {}

    def remove(guest: Guest) -> None:
        limit_s = older_than.total_seconds()
        removed[guest.name] = prune(guest, settings.python, settings.work_dir, older_than_s=limit_s)
        store, days = f"{settings.work_dir}/{STORE}", older_than / timedelta(days=1)
        prune_store(guest, store, unused_days=days, python=settings.python)

    if members:
        FanOut(members, events).best_effort(remove)
    return dict(sorted(removed.items()))


def adopt(state: RunState) -> results.Run:
    """Creates the local record of a run that another machine started. Raises GpuvmError."""
    if state.manifest is None:
        raise GpuvmError(f"run {state.run_id}: cannot read its manifest in {state.vms[0]}")
    return results.adopt(state.manifest)
