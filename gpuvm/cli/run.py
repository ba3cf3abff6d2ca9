"""gpuvm run: a workload on one VM, or distributed over all of them."""

import enum
from collections.abc import Sequence
from typing import Annotated

import typer

from gpuvm import data as data_files
from gpuvm import results, runs, spec
from gpuvm.cli import output, spec_options, targets
from gpuvm.cli.options import (
    ContextOption,
    DebugOption,
    FileOption,
    JsonOption,
    NameOption,
)
from gpuvm.cli.output import State
from gpuvm.cli.progress import RunWatch
from gpuvm.cli.runs import finish_run
from gpuvm.cli.session import open_session
from gpuvm.errors import BadInput
from gpuvm.events import Events
from gpuvm.runs import sweep as sweeps


class Then(enum.StrEnum):
    SHUTDOWN = "shutdown"


def run(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(help="A shipped workload, or the path of your own.", metavar="WORKLOAD")
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="After --: for the workload.", metavar="[-- ARGS]...")
    ] = None,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="One run over all VMs together.")
    ] = False,
    sweep: Annotated[
        bool,
        typer.Option("--sweep", help="The workload's grid (style has one), shared by all VMs."),
    ] = False,
    vms: Annotated[
        list[str] | None,
        typer.Option("--vm", help="Only on this VM; may be repeated.", metavar="NAME"),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(help="Continue from this run's last checkpoint.", metavar="RUN-ID"),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once it has started; see gpuvm runs.")
    ] = False,
    queue: Annotated[
        bool, typer.Option("--queue", help="Wait in the guests until their GPUs are free.")
    ] = False,
    share: Annotated[
        bool, typer.Option("--share", help="Run beside what already runs on the same GPUs.")
    ] = False,
    ignore_health: Annotated[
        bool, typer.Option("--ignore-gpu-health", help="Run on a GPU that reports errors too.")
    ] = False,
    then: Annotated[
        Then | None, typer.Option("--then", help="What its guests do when it has ended.")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Do not show what it prints.")
    ] = False,
    file: FileOption = None,
    deployment: NameOption = None,
    context: ContextOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Push a workload, run it, follow it live, and fetch its logs and timings.

    [bold]Examples[/]

        gpuvm run captioning --distributed

        gpuvm run captioning --vm gpuvm-01 -- --steps 200

        gpuvm run style --sweep

        gpuvm run stock -- --data @./data_stocks.csv

        gpuvm run captioning -- --data @./flickr8k/

        gpuvm run ./mine.py -- --learning-rate 0.01

        gpuvm run captioning --distributed --detach --then shutdown

    Without --distributed it runs on the first VM. Results go to runs/RUN-ID/.
    """
    if queue and share:
        raise BadInput("--queue and --share exclude each other")
    if detach and sweep:
        raise BadInput("--detach: a sweep gathers its sheet when all VMs have ended; leave it out")
    terms = runs.Terms(
        gpu="queue" if queue else "share" if share else "exclusive",
        then="shutdown" if then else None,
        detach=detach,
        healthy=not ignore_health,
    )
    chosen, arguments = runs.find(name), arguments or []
    shared = sweeps.shared_out(chosen, arguments, sweep=sweep, distributed=distributed)
    distributed = distributed and not shared
    if sweep and shared:
        arguments = sweeps.with_grid(shared, arguments)
    wanted = spec.load(file, name=deployment)
    before = results.load(resume) if resume else None
    with open_session(ctx, context) as session:
        targets.require_key(session.context)
        inventory = spec_options.read_inventory(session, wanted)
        taking_part = targets.running(
            session, inventory, wanted, vms, every=distributed or bool(shared)
        )
    if distributed and len(taking_part) < 2:
        raise BadInput("--distributed needs at least two VMs", hint="gpuvm provision --hosts 2")
    arguments, inputs = _with_data(arguments)
    record = runs.begin_record(
        chosen,
        arguments,
        inventory,
        wanted.name,
        taking_part,
        distributed=distributed,
        then=terms.then,
    )
    state = ctx.ensure_object(State)
    if not state.json:
        where = ", ".join(member.vm.name for member in taking_part)
        output.line(f"run {record.run_id}: {chosen.name} on {where}")
    events = Events(record.sink)
    with RunWatch(events, state, taking_part, quiet=quiet) as watch:
        ended = runs.run(
            chosen,
            arguments,
            taking_part,
            distributed=distributed,
            guest=session.context.guest,
            distribution=wanted.distributed,
            record=record,
            events=events,
            resume=before,
            inputs=inputs,
            more_args=sweeps.shares(shared, taking_part) if shared else {},
            terms=terms,
            watch=watch,
        )
    if sweep and shared:
        events.note(f"contact sheet: {sweeps.gather(chosen, shared, record)}")
    finish_run(ctx, "run", record, ended=ended)


def _with_data(arguments: Sequence[str]) -> tuple[list[str], runs.Inputs]:
    """Arguments such as @vgg19 as the guests will have them, and what to push for them."""
    inputs, replaced = {}, []
    for argument in arguments:
        named = data_files.resolve(argument)
        if named is None:
            replaced.append(argument)
        else:
            inputs[named.place] = named.source
            replaced.append(f"{named.option}{runs.DATA}/{named.place}")
    return replaced, inputs
