"""gpuvm runs: lists the runs in the guests and the records on this machine."""

from typing import Annotated

import typer

from gpuvm import runs
from gpuvm.cli import completion, output, run_list
from gpuvm.cli.options import DeploymentOptions, YesOption, grouped
from gpuvm.cli.output import State
from gpuvm.cli.run_list import RECENT, Wanted, age_of, moment, one_of
from gpuvm.cli.run_targets import open_guests
from gpuvm.cli.session import confirm
from gpuvm.errors import BadInput
from gpuvm.runs import RunState
from gpuvm.text import counted, one_line

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode="rich",
    help="""List the runs: state, workload, VMs, accelerator, time, score, last line of output.

[bold]Examples[/]

    gpuvm runs

    gpuvm runs --here                     only the records on this machine, without a vCenter

    gpuvm runs --workload mnist --failed --since 7d

    gpuvm runs prune --older-than 7d      free the guests' disks
""",
)

MODES = ("passthrough", "dynamic", "vgpu", "device-group", "none")
STATES = ("queued", "running", "succeeded", "failed", "interrupted", "cancelled", "lost", "unknown")


@app.callback()
@grouped
def list_runs(
    ctx: typer.Context,
    here: Annotated[
        bool, typer.Option("--here", help="Only the records on this machine; needs no vCenter.")
    ] = False,
    workload: Annotated[
        list[str] | None,
        typer.Option(
            "--workload",
            "-w",
            help="Only runs of this workload.",
            metavar="NAME",
            autocompletion=completion.workloads,
        ),
    ] = None,
    vm: Annotated[
        list[str] | None,
        typer.Option(
            "--vm", help="Only runs on this VM.", metavar="NAME", autocompletion=completion.vms
        ),
    ] = None,
    accelerator: Annotated[
        list[str] | None,
        typer.Option("--accelerator", help=f"Only runs with one of: {', '.join(MODES)}."),
    ] = None,
    only_state: Annotated[
        list[str] | None,
        typer.Option("--state", "-s", help=f"Only runs that are: {', '.join(STATES)}."),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only runs that failed, or were lost.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option("--since", help="Started since; such as 2h, 7d, 2026-11-24.", metavar="WHEN"),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            "-L",
            min=1,
            help=f"Only the latest; default {RECENT} of those that no guest has.",
            metavar="N",
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", "-a", help="All of them.")] = False,
    *,
    options: DeploymentOptions,
) -> None:
    wanted = Wanted(
        workloads=frozenset(workload or ()),
        vms=frozenset(vm or ()),
        accelerators=one_of("--accelerator", accelerator, MODES),
        states=one_of("--state", only_state, STATES) | ({"failed", "lost"} if failed else set()),
        since=None if since is None else moment(since),
    )
    if ctx.invoked_subcommand is not None:
        deployment = options.file or options.deployment or options.context
        if deployment or here or every or limit or wanted != Wanted():
            raise BadInput(
                f"options of 'runs {ctx.invoked_subcommand}' stand after it, not before it"
            )
        return
    if every and limit:
        raise BadInput("--all and --limit exclude each other")
    found: list[RunState] = []
    warnings: list[str] = []
    if not here:
        with open_guests(ctx, options) as guests:
            found = runs.list_runs(guests.members, guests.session.context.guest, guests.events)
            warnings = guests.warnings
    listed, unreadable = run_list.rows(found, wanted, limit=limit, every=every)
    warnings += unreadable
    state = ctx.ensure_object(State)
    if not state.json:
        for text in warnings:
            output.warn(text)
        _print(listed, filtered=wanted != Wanted())
    data = {"runs": listed.rows, "more": listed.more, "warnings": warnings}
    output.finish(ctx, output.Result("runs", data))


def _print(listed: run_list.Listing, *, filtered: bool) -> None:
    if listed.rows:
        output.table(*run_list.table(listed.rows))
    elif filtered:
        output.line("no such runs")
    else:
        output.line("no runs; start one with 'gpuvm run mnist'")
    if listed.more:
        output.line(f"and {listed.more} more: 'gpuvm runs --all'")


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
    age = age_of("--older-than", older_than)
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
