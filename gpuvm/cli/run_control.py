"""gpuvm attach, logs, fetch and cancel: control a run that was started on any machine."""

from typing import Annotated, Any

import typer

from gpuvm import report as reports
from gpuvm import runs
from gpuvm.cli import completion, output, run_summary
from gpuvm.cli.guest_output import show_line
from gpuvm.cli.options import DeploymentOptions, FetchLimitOption, YesOption, grouped
from gpuvm.cli.output import State
from gpuvm.cli.progress import RunWatch
from gpuvm.cli.run_targets import open_guests
from gpuvm.cli.session import confirm
from gpuvm.errors import BadInput, NotFound, PreflightRefused
from gpuvm.events import Events
from gpuvm.results import Run
from gpuvm.text import one_line

RunArgument = Annotated[
    str,
    typer.Argument(
        help="A run's id or a prefix of it.", metavar="RUN", autocompletion=completion.runs
    ),
]


@grouped
def attach(
    ctx: typer.Context,
    run: RunArgument,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not show its output.")] = False,
    *,
    options: DeploymentOptions,
) -> None:
    """Follow a run to its end and fetch its results, from any machine.

    [bold]Examples[/]

        gpuvm attach captioning-20261127-091500-ab12

        gpuvm attach capt --quiet

    Ctrl-C asks whether to cancel the run or to leave it running.
    """
    state = ctx.ensure_object(State)
    with open_guests(ctx, options) as guests:
        record, members = guests.run(run)
        guests.warn_of_missing(record, members)
    for text in guests.warnings:
        output.warn(one_line(text))
    events = Events(record.sink)
    with RunWatch(events, state, members, quiet=quiet) as watch:
        settings = guests.session.context.guest
        ended = runs.attach(record, members, guest=settings, events=events, watch=watch)
    finish_run(ctx, "attach", record, ended=ended)


@grouped
def logs(
    ctx: typer.Context,
    run: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more output.")] = False,
    vm: Annotated[
        str | None,
        typer.Option("--vm", help="Only this VM.", metavar="NAME", autocompletion=completion.vms),
    ] = None,
    tail: Annotated[
        int | None, typer.Option("--tail", min=0, help="Only the last N lines.", metavar="N")
    ] = None,
    *,
    options: DeploymentOptions,
) -> None:
    """Show what a run has printed so far.

    [bold]Examples[/]

        gpuvm logs train-20261127-091500-ab12 --tail 20

        gpuvm logs train -f --vm gpuvm-02
    """
    if follow and ctx.ensure_object(State).json:
        raise BadInput("--follow and --json exclude each other")
    with open_guests(ctx, options) as guests:
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


@grouped
def fetch(
    ctx: typer.Context,
    run: RunArgument,
    patterns: Annotated[
        list[str] | None,
        typer.Argument(help="Only files that match, such as '*.csv'.", metavar="[PATTERN]..."),
    ] = None,
    fetch_limit: FetchLimitOption = "2G",  # type: ignore[assignment]  # typer parses it
    *,
    options: DeploymentOptions,
) -> None:
    """Copy what a run has written so far to runs/RUN on this machine.

    [bold]Examples[/]

        gpuvm fetch train-20261127-091500-ab12

        gpuvm fetch train '*.keras' --fetch-limit none

    It works during the run and after it, until 'gpuvm runs prune' or 'gpuvm teardown'.
    """
    with open_guests(ctx, options) as guests:
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
    if not ctx.ensure_object(State).json:
        for text in guests.warnings:
            output.warn(one_line(text))
        output.line(f"results: {record.place}")
    data = {
        "run_id": record.run_id,
        "dir": str(record.dir),
        "status": record.manifest.status,
        "warnings": guests.warnings,
    }
    output.finish(ctx, output.Result("fetch", data))


@grouped
def cancel(
    ctx: typer.Context,
    run: RunArgument,
    yes: YesOption = False,
    *,
    options: DeploymentOptions,
) -> None:
    """Cancel a queued or running run in all its guests, and fetch what it wrote.

    [bold]Examples[/]

        gpuvm cancel train-20261127-091500-ab12
    """
    with open_guests(ctx, options) as guests:
        record, members = guests.run(run)
        settings = guests.session.context.guest
        now = runs.state_of(record.run_id, members, settings, guests.events)
        if now is None or now.state not in ("queued", "running"):
            ended = record.manifest.status if now is None else now.state
            raise PreflightRefused(f"run {record.run_id} is not running: it is {ended}")
        question = f"Cancel run {record.run_id} on {', '.join(now.vms)}?"
        if not confirm(guests.session.context, question, yes=yes):
            output.declined(ctx, "cancel")
            return
        runs.cancel_run(record, members, settings, guests.events)
    if not ctx.ensure_object(State).json:
        output.line(f"run {record.run_id} was cancelled; results: {record.place}")
    data = {"run_id": record.run_id, "dir": str(record.dir), "status": "cancelled"}
    output.finish(ctx, output.Result("cancel", data))


def finish_run(ctx: typer.Context, command: str, record: Run, *, ended: bool) -> None:
    """Print the last lines of a command that started or followed a run."""
    state = ctx.ensure_object(State)
    run_id = record.run_id
    if not ended:
        if not state.json:
            output.line(f"run {run_id} continues in its guests")
        next_step = f"'gpuvm attach {run_id}' follows it, 'gpuvm cancel {run_id}' cancels it"
        left = {"run_id": run_id, "dir": str(record.dir), "status": record.manifest.status}
        output.finish(ctx, output.Result(command, left, next_step=next_step))
        return
    data = reports.build([record.dir])
    if not state.json:
        output.stdout.print(run_summary.of(data, output.stdout.width))
        output.line(f"results: {record.place}")
    shown = {
        "run_id": run_id,
        "dir": str(record.dir),
        "status": record.manifest.status,
        "warnings": list(record.manifest.warnings),
        "scores": {score.name: score.value for run in data.runs for score in run.scores},
    }
    next_step = f"'gpuvm report {run_id}'"
    output.finish(ctx, output.Result(command, shown, next_step=next_step))
