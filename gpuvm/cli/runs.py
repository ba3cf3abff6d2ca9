"""gpuvm runs: lists the runs in the guests and the records on this machine."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from gpuvm import results, runs
from gpuvm.cli import output
from gpuvm.cli.options import DeploymentOptions, YesOption, grouped
from gpuvm.cli.output import State
from gpuvm.cli.run_targets import open_guests
from gpuvm.cli.session import confirm
from gpuvm.cli.tables import Prose, unbroken
from gpuvm.errors import BadInput
from gpuvm.runs import RunState
from gpuvm.text import ago, counted, one_line

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode="rich",
    help="""List the runs: their VMs, state, start time and last line of output.

[bold]Examples[/]

    gpuvm runs

    gpuvm runs --here                     only the records on this machine, without a vCenter

    gpuvm runs prune --older-than 7d      free the guests' disks
""",
)

RECENT = 20


@app.callback()
@grouped
def list_runs(
    ctx: typer.Context,
    here: Annotated[
        bool, typer.Option("--here", help="Only the records on this machine; needs no vCenter.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help=f"All records, not only the last {RECENT}.")
    ] = False,
    *,
    options: DeploymentOptions,
) -> None:
    if ctx.invoked_subcommand is not None:
        if options.file or options.deployment or options.context or here:
            raise BadInput(
                f"options of 'runs {ctx.invoked_subcommand}' stand after it, not before it"
            )
        return
    found: list[RunState] = []
    warnings: list[str] = []
    if not here:
        with open_guests(ctx, options) as guests:
            found = runs.list_runs(guests.members, guests.session.context.guest, guests.events)
            warnings = guests.warnings
    known = results.list_runs()
    there = {run.run_id for run in found}
    left = [] if every else [run_id for run_id in known[:-RECENT] if run_id not in there]
    rows = rows_of(found, [run_id for run_id in known if run_id not in left])
    state = ctx.ensure_object(State)
    if not state.json:
        for text in warnings:
            output.warn(text)
        if rows:
            _print(rows)
        else:
            output.line("no runs; start one with 'gpuvm run mnist'")
        if left:
            output.line(f"and {len(left)} more on this machine: 'gpuvm runs --all'")
    data = {"runs": rows, "more": len(left), "warnings": warnings}
    output.finish(ctx, output.Result("runs", data))


@app.command()
@grouped
def prune(
    ctx: typer.Context,
    older_than: Annotated[
        str, typer.Option("--older-than", help="Such as 12h or 7d.", metavar="AGE")
    ] = "7d",
    yes: YesOption = False,
    *,
    options: DeploymentOptions,
) -> None:
    """Remove ended runs from the guests' disks; fetched results stay on this machine.

    Python environments are removed with the last run that uses them.

    [bold]Examples[/]

        gpuvm runs prune

        gpuvm runs prune --older-than 0h --yes
    """
    age = _age(older_than)
    with open_guests(ctx, options) as guests:
        question = f"Remove runs that ended more than {older_than} ago from {guests.names}?"
        if not confirm(guests.session.context, question, yes=yes):
            output.declined(ctx, "runs prune")
            return
        settings = guests.session.context.guest
        removed = runs.prune_runs(guests.members, settings, guests.events, older_than=age)
    pairs = [{"vm": vm, "run_id": run} for vm, gone in removed.items() for run in gone.runs]
    unused = [{"vm": vm, "key": key} for vm, gone in removed.items() for key in gone.environments]
    if not ctx.ensure_object(State).json:
        for text in guests.warnings:
            output.warn(one_line(text))
        for pair in pairs:
            output.line(f"{pair['vm']}: {one_line(pair['run_id'])}")
        environments = counted(len(unused), "environment")
        output.line(
            f"{counted(len(pairs), 'run')} removed" + (f", and {environments}" if unused else "")
        )
    data = {"removed": pairs, "environments": unused, "warnings": guests.warnings}
    output.finish(ctx, output.Result("runs prune", data))


def rows_of(in_guests: Sequence[RunState], here: Sequence[str]) -> list[dict[str, Any]]:
    """Return the guests' runs and those records of this machine, oldest first."""
    rows = {run.run_id: _guest_row(run) for run in in_guests}
    for run_id in here:
        record = results.load(run_id)
        manifest = record.manifest
        row = rows.setdefault(run_id, {"state": "unknown", "vms": [], "line": ""})
        if manifest.status != "running":
            row["state"] = manifest.status
        row |= _of_manifest(manifest) | {"dir": str(record.dir)}
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


def _print(rows: Sequence[dict[str, Any]]) -> None:
    state, vms, operator, last = map(Prose, ("STATE", "VMS", "BY", "LAST LINE"))
    columns = ("RUN", state, vms, "STARTED", operator, last)
    output.table(columns, [cells(row) for row in rows])


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    state = row["state"]
    if row.get("ahead"):
        state = f"{state} ({row['ahead']})"
    if row.get("rebooted"):
        state = "lost (rebooted)"
    return (
        one_line(row["run_id"]),
        state,
        ", ".join(unbroken(one_line(vm)) for vm in row["vms"]),
        _since(row["started"]),
        one_line(row["operator"] or "-", longest=80),
        one_line(row["problem"] if row.get("problem") else row["line"], longest=60),
    )


def _since(when: datetime | None) -> str:
    return "-" if when is None else ago((datetime.now(UTC) - when).total_seconds())


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if match is None:
        raise BadInput(f"--older-than: '{text}' is not an age", hint="such as 30m, 12h or 7d")
    unit = {"m": "minutes", "h": "hours", "d": "days"}[match[2]]
    return timedelta(**{unit: int(match[1])})
