"""gpuvm runs, attach, logs, fetch, cancel: the runs in the guests, whoever started them."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from gpuvm import report as reports
from gpuvm import results, runs, spec
from gpuvm.cli import output, run_summary, spec_options, targets
from gpuvm.cli.guest_output import show_line
from gpuvm.cli.options import (
    ContextOption,
    DebugOption,
    FetchLimitOption,
    FileOption,
    JsonOption,
    NameOption,
    YesOption,
)
from gpuvm.cli.output import State
from gpuvm.cli.progress import RunWatch
from gpuvm.cli.session import Session, confirm, open_session
from gpuvm.errors import BadInput, NotFound, PreflightRefused
from gpuvm.events import Event, Events
from gpuvm.results import Run
from gpuvm.runs import Member, RunState
from gpuvm.spec import ClusterSpec
from gpuvm.text import one_line

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode="rich",
    help="""List the runs: what runs where, since when, and what it printed last.

[bold]Examples[/]

    gpuvm runs

    gpuvm runs --here                     only the records on this machine, without a vCenter

    gpuvm runs prune --older-than 7d      free the guests' disks
""",
)

RunArgument = Annotated[
    str, typer.Argument(help="A run's id, or the beginning of one.", metavar="RUN")
]
RECENT = 20


@app.callback()
def list_runs(
    ctx: typer.Context,
    here: Annotated[
        bool, typer.Option("--here", help="Only the records on this machine; asks no vCenter.")
    ] = False,
    file: FileOption = None,
    deployment: NameOption = None,
    context: ContextOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    if ctx.invoked_subcommand is not None:
        return
    found: list[RunState] = []
    warnings: list[str] = []
    if not here:
        with _guests(ctx, context, file, deployment) as guests:
            found = runs.list_runs(guests.members, guests.session.context.guest, guests.events)
            warnings = guests.warnings
    rows = _rows(found)
    state = ctx.ensure_object(State)
    if not state.json:
        for text in warnings:
            output.warn(text)
        if rows:
            columns = ("RUN", "STATE", "VMS", "STARTED", "BY", "LAST LINE")
            output.table(columns, [_cells(row) for row in rows])
        else:
            output.line("no runs; 'gpuvm run mnist' makes one")
    output.finish(ctx, output.Result("runs", {"runs": rows, "warnings": warnings}))


@app.command()
def prune(
    ctx: typer.Context,
    older_than: Annotated[
        str, typer.Option("--older-than", help="Such as 12h or 7d.", metavar="AGE")
    ] = "7d",
    yes: YesOption = False,
    file: FileOption = None,
    deployment: NameOption = None,
    context: ContextOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Remove ended runs from the guests' disks; what was fetched stays on this machine.

    [bold]Examples[/]

        gpuvm runs prune

        gpuvm runs prune --older-than 0h --yes
    """
    age = _age(older_than)
    with _guests(ctx, context, file, deployment) as guests:
        question = f"Remove runs that ended more than {older_than} ago from {guests.names}?"
        if not confirm(guests.session.context, question, yes=yes):
            output.declined(ctx, "runs prune")
            return
        settings = guests.session.context.guest
        removed = runs.prune_runs(guests.members, settings, guests.events, older_than=age)
    if not ctx.ensure_object(State).json:
        for vm, run_id in removed:
            output.line(f"{vm}: {one_line(run_id)}")
        output.line(f"{len(removed)} removed")
    pairs = [{"vm": vm, "run_id": run_id} for vm, run_id in removed]
    output.finish(ctx, output.Result("runs prune", {"removed": pairs}))


def attach(
    ctx: typer.Context,
    run: RunArgument,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Without its output.")] = False,
    file: FileOption = None,
    deployment: NameOption = None,
    context: ContextOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Follow a run to its end and fetch its results, from any machine.

    [bold]Examples[/]

        gpuvm attach captioning-20261127-091500-ab12

        gpuvm attach capt --quiet

    Ctrl-C asks whether to cancel the run or to leave it running.
    """
    state = ctx.ensure_object(State)
    with _guests(ctx, context, file, deployment) as guests:
        record, members = guests.run(run)
        guests.warn_of_missing(record, members)
    for text in guests.warnings:
        output.warn(one_line(text))
    events = Events(record.sink)
    with RunWatch(events, state, members, quiet=quiet) as watch:
        settings = guests.session.context.guest
        ended = runs.attach(record, members, guest=settings, events=events, watch=watch)
    finish_run(ctx, "attach", record, ended=ended)


def logs(
    ctx: typer.Context,
    run: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
    vm: Annotated[str | None, typer.Option("--vm", help="Only this VM's.", metavar="NAME")] = None,
    tail: Annotated[
        int | None, typer.Option("--tail", min=0, help="Only the last N lines.", metavar="N")
    ] = None,
    file: FileOption = None,
    deployment: NameOption = None,
    context: ContextOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what a run has printed so far.

    [bold]Examples[/]

        gpuvm logs train-20261127-091500-ab12 --tail 20

        gpuvm logs train -f --vm gpuvm-02
    """
    if follow and ctx.ensure_object(State).json:
        raise BadInput("--follow and --json exclude each other")
    with _guests(ctx, context, file, deployment) as guests:
        record, members = guests.run(run)
    if vm is not None:
        members = [member for member in members if member.name == vm]
        if not members:
            raise NotFound("VM of this run", vm, [one.name for one in record.manifest.vms])
    lines: list[dict[str, Any]] = []
    many, state = len(members) > 1, ctx.ensure_object(State)

    def show(vm: str, stderr: bool, line: str) -> None:
        if state.json:
            lines.append({"vm": vm, "stderr": stderr, "line": line})
        else:
            show_line(f"{vm} | " if many else "", line, stderr=stderr)

    settings = guests.session.context.guest
    runs.read_logs(members, settings, record.run_id, show, tail=tail, until_end=follow)
    output.finish(ctx, output.Result("logs", {"run_id": record.run_id, "lines": lines}))


def fetch(
    ctx: typer.Context,
    run: RunArgument,
    patterns: Annotated[
        list[str] | None,
        typer.Argument(help="Only files that match, such as '*.csv'.", metavar="[PATTERN]..."),
    ] = None,
    fetch_limit: FetchLimitOption = "2G",  # type: ignore[assignment]  # typer parses it
    file: FileOption = None,
    deployment: NameOption = None,
    context: ContextOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Copy what a run has written so far to runs/RUN on this machine.

    [bold]Examples[/]

        gpuvm fetch train-20261127-091500-ab12

        gpuvm fetch train '*.keras' --fetch-limit none

    It works while the run goes on, and after it, until 'gpuvm runs prune' or 'gpuvm teardown'.
    """
    with _guests(ctx, context, file, deployment) as guests:
        record, members = guests.run(run)
        guests.warn_of_missing(record, members)
        runs.fetch_run(
            record,
            members,
            guests.session.context.guest,
            guests.events,
            patterns=patterns or [],
            limit_bytes=None if fetch_limit < 0 else fetch_limit,
        )
        known = runs.list_runs(members, guests.session.context.guest, guests.events)
    _settle(record, next((one for one in known if one.run_id == record.run_id), None))
    if not ctx.ensure_object(State).json:
        for text in guests.warnings:
            output.warn(one_line(text))
        output.line(f"results: {record.dir}")
    data = {
        "run_id": record.run_id,
        "dir": str(record.dir),
        "status": record.manifest.status,
        "warnings": guests.warnings,
    }
    output.finish(ctx, output.Result("fetch", data))


def cancel(
    ctx: typer.Context,
    run: RunArgument,
    yes: YesOption = False,
    file: FileOption = None,
    deployment: NameOption = None,
    context: ContextOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """End a run that is queued or running, in all its guests, and fetch what it wrote.

    [bold]Examples[/]

        gpuvm cancel train-20261127-091500-ab12
    """
    with _guests(ctx, context, file, deployment) as guests:
        record, members = guests.run(run)
        settings = guests.session.context.guest
        known = runs.list_runs(members, settings, guests.events)
        now = next((one for one in known if one.run_id == record.run_id), None)
        if now is None or now.state not in ("queued", "running"):
            ended = record.manifest.status if now is None else now.state
            raise PreflightRefused(f"run {record.run_id} does not run: it is {ended}")
        question = f"End run {record.run_id} on {', '.join(now.vms)}?"
        if not confirm(guests.session.context, question, yes=yes):
            output.declined(ctx, "cancel")
            return
        runs.cancel_run(record, members, settings, guests.events)
    if not ctx.ensure_object(State).json:
        output.line(f"run {record.run_id} was cancelled; what it wrote: {record.dir}")
    data = {"run_id": record.run_id, "dir": str(record.dir), "status": "cancelled"}
    output.finish(ctx, output.Result("cancel", data))


def finish_run(ctx: typer.Context, command: str, record: Run, *, ended: bool) -> None:
    """The last lines of a command that has started or followed a run."""
    state = ctx.ensure_object(State)
    run_id = record.run_id
    if not ended:
        if not state.json:
            output.line(
                f"run {run_id} goes on; 'gpuvm attach {run_id}' follows it, "
                f"'gpuvm cancel {run_id}' ends it"
            )
        left = {"run_id": run_id, "dir": str(record.dir), "status": record.manifest.status}
        output.finish(ctx, output.Result(command, left))
        return
    data = reports.build([record.dir])
    if not state.json:
        output.stdout.print(run_summary.of(data))
        output.line(f"results: {record.dir}")
    shown = {
        "run_id": run_id,
        "dir": str(record.dir),
        "status": record.manifest.status,
        "warnings": list(record.manifest.warnings),
        "scores": {score.name: score.value for run in data.runs for score in run.scores},
    }
    output.finish(ctx, output.Result(command, shown))


@dataclass
class _Guests:
    """The deployment's VMs that are on."""

    session: Session
    wanted: ClusterSpec
    members: list[Member]
    events: Events
    warnings: list[str]

    @property
    def names(self) -> str:
        return ", ".join(member.name for member in self.members) or "no VM"

    def run(self, wanted: str) -> tuple[Run, list[Member]]:
        """The run of that id or prefix, and its VMs that are on.

        Raises NotFound, Ambiguous, BadInput and PreflightRefused (none of its VMs is on).
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", wanted):
            raise BadInput(f"'{one_line(wanted)}' is not a run's id", hint="'gpuvm runs' has them")
        try:
            record = results.load(wanted)
        except NotFound as error:
            record = self._in_guests(wanted, error)
        names = {vm.name for vm in record.manifest.vms}
        members = [member for member in self.members if member.name in names]
        if not members:
            raise PreflightRefused(
                f"none of the run's VMs is on: {', '.join(sorted(names))}",
                hint=f"what was fetched is in {record.dir}; 'gpuvm start' powers them on",
            )
        order = [vm.name for vm in record.manifest.vms]
        return record, sorted(members, key=lambda member: order.index(member.name))

    def _in_guests(self, wanted: str, error: NotFound) -> Run:
        known = runs.list_runs(self.members, self.session.context.guest, self.events)
        found = [run for run in known if run.run_id.startswith(wanted)]
        exact = [run for run in found if run.run_id == wanted] or found
        if not exact:
            everywhere = [*error.existing, *(run.run_id for run in known)]
            raise NotFound("run", wanted, everywhere[-10:]) from None
        if len(exact) > 1:
            raise BadInput(
                f"several runs begin with '{wanted}': " + ", ".join(run.run_id for run in exact)
            )
        return runs.adopt(exact[0])

    def warn_of_missing(self, record: Run, members: Sequence[Member]) -> None:
        there = {member.name for member in members}
        for vm in record.manifest.vms:
            if vm.name not in there:
                self.events.warning("it takes part in the run and is not on", vm.name)


@contextmanager
def _guests(
    ctx: typer.Context, context: str | None, file: Path | None, deployment: str | None
) -> Iterator[_Guests]:
    wanted = spec.load(file, name=deployment)
    warnings: list[str] = []

    def sink(event: Event) -> None:
        if event.kind == "warning":
            warnings.append(f"{event.vm}: {event.text}" if event.vm else str(event.text))

    with open_session(ctx, context) as session:
        targets.require_key(session.context)
        inventory = spec_options.read_inventory(session, wanted)
        there = [vm for vm in inventory.ours(wanted.name) if vm.powered_on and vm.address]
        members = targets.running(session, inventory, wanted, None, every=True) if there else []
        yield _Guests(session, wanted, members, Events(sink), warnings)


def _settle(record: Run, state: RunState | None) -> None:
    """A run that ended with nobody watching gets its end into the record."""
    if record.manifest.status != "running" or state is None:
        return
    if state.state == "succeeded":
        record.finish("succeeded")
    elif state.state == "cancelled":
        record.finish("cancelled", "cancelled")
    elif state.state in ("failed", "lost"):
        record.finish("failed", "its VM was rebooted" if state.rebooted else "it ended unwatched")


def _rows(in_guests: Sequence[RunState]) -> list[dict[str, Any]]:
    """The guests' runs and the latest records of this machine, the oldest first."""
    rows = {run.run_id: _guest_row(run) for run in in_guests}
    for run_id in results.list_runs()[-RECENT:]:
        manifest = results.load(run_id).manifest
        row = rows.setdefault(run_id, {"state": "unknown", "vms": [], "line": ""})
        if manifest.status != "running":
            row["state"] = manifest.status
        row |= _of_manifest(manifest) | {"dir": str(results.load(run_id).dir)}
    ordered = sorted(rows, key=results.when)
    return [{"run_id": run_id} | rows[run_id] for run_id in ordered]


def _guest_row(run: RunState) -> dict[str, Any]:
    row: dict[str, Any] = {
        "state": run.state,
        "vms": list(run.vms),
        "ahead": run.ahead,
        "rebooted": run.rebooted,
        "line": run.line,
        "problem": run.problem,
        "started": run.started,
        "workload": None,
        "operator": None,
    }
    return row | (_of_manifest(run.manifest) if run.manifest else {})


def _of_manifest(manifest: results.Manifest) -> dict[str, Any]:
    return {
        "workload": manifest.workload,
        "operator": manifest.operator or None,
        "started": manifest.started,
        "vms": [vm.name for vm in manifest.vms],
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    state = row["state"]
    if row.get("ahead"):
        state = f"{state} ({row['ahead']})"
    if row.get("rebooted"):
        state = "lost (rebooted)"
    return (
        one_line(row["run_id"]),
        state,
        ", ".join(map(one_line, row["vms"])),
        _ago(row["started"]),
        one_line(row["operator"] or "-", longest=40),
        one_line(row["problem"] if row.get("problem") else row["line"], longest=60),
    )


def _ago(when: datetime | None) -> str:
    if when is None:
        return "-"
    seconds = (datetime.now(UTC) - when).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if match is None:
        raise BadInput(f"--older-than: '{text}' is not an age", hint="such as 30m, 12h or 7d")
    unit = {"m": "minutes", "h": "hours", "d": "days"}[match[2]]
    return timedelta(**{unit: int(match[1])})
