"""gpuvm lab: starts, shows and stops the simulated data centre."""

import dataclasses
import json as jsons
from pathlib import Path
from typing import Annotated, Any

import typer

from gpuvm import lab, settings, text
from gpuvm.cli import output, progress
from gpuvm.cli.options import DebugOption, JsonOption, file_context
from gpuvm.cli.output import State
from gpuvm.events import Events
from gpuvm.lab import LabOptions, LabStatus

app = typer.Typer(
    no_args_is_help=True,
    help="""A simulated vCenter with GPU hosts and real SSH guests on this machine.

[bold]Examples[/]

    gpuvm lab up

    gpuvm lab up --name big --hosts 64 --gpus-per-host 4 --gpu a100

    gpuvm lab status

    gpuvm lab down
""",
)

Name = Annotated[
    str, typer.Option("--name", help="The lab's and its context's name.", metavar="NAME")
]


@app.command("up")
def up(
    ctx: typer.Context,
    name: Name = "lab",
    hosts: Annotated[int, typer.Option(min=1, max=1000, help="How many hosts.")] = 4,
    gpus_per_host: Annotated[int, typer.Option(min=0, help="GPUs in each host.")] = 1,
    gpu: Annotated[str, typer.Option(help="The GPUs' model.")] = "p100",
    vgpu: Annotated[bool, typer.Option("--vgpu", help="Hosts share their GPUs as vGPUs.")] = False,
    vms: Annotated[
        int, typer.Option(min=0, max=20_000, help="Unrelated VMs in the inventory.")
    ] = 0,
    description: Annotated[
        Path | None,
        typer.Option(help="Describe the data centre in JSON (docs/lab.md).", metavar="FILE"),
    ] = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Start the lab in the background, and return when its vCenter responds.

    [bold]Examples[/]

        gpuvm lab up

        gpuvm lab up --hosts 8 --gpus-per-host 2 --gpu v100

        gpuvm lab up --name shared --vgpu
    """
    options = LabOptions(
        name=name,
        hosts=hosts,
        gpus_per_host=gpus_per_host,
        gpu=gpu,
        vgpu=vgpu,
        vms=vms,
        description=description,
    )
    state = ctx.ensure_object(State)
    events = Events()
    state.if_it_fails = "'gpuvm lab status' shows what runs, 'gpuvm lab down' removes it"
    with progress.shown(events, state):
        status = lab.up(options, events)
    if status.context:
        output.begin_on(state, status.context, settings.default_name(file_context(None)))
    _finish(
        ctx,
        "lab up",
        status,
        _next_step(status.hosts),
    )


@app.command("status")
def status(
    ctx: typer.Context, name: Name = "lab", json: JsonOption = False, debug: DebugOption = False
) -> None:
    """Show whether the lab runs, its hosts and its guests.

    [bold]Example[/]

        gpuvm lab status --json
    """
    _finish(ctx, "lab status", lab.status(name))


@app.command("down")
def down(
    ctx: typer.Context, name: Name = "lab", json: JsonOption = False, debug: DebugOption = False
) -> None:
    """Stop the lab and remove its processes, ports and files.

    [bold]Example[/]

        gpuvm lab down
    """
    was_there = lab.down(name)
    if not ctx.ensure_object(State).json:
        output.line(f"lab '{name}' is down" if was_there else f"nothing to do: no lab '{name}'")
    output.finish(ctx, output.Result("lab down", {"name": name, "was_there": was_there}))


def _finish(ctx: typer.Context, command: str, status: LabStatus, next_step: str = "") -> None:
    if not ctx.ensure_object(State).json:
        _print_lab(status)
    data: dict[str, Any] = jsons.loads(jsons.dumps(dataclasses.asdict(status), default=str))
    output.finish(ctx, output.Result(command, data, next_step=next_step))


def _next_step(hosts: int) -> str:
    return "'gpuvm provision'" if hosts < 2 else f"'gpuvm provision --hosts {min(hosts, 4)}'"


def _print_lab(status: LabStatus) -> None:
    if not status.running:
        output.line(f"lab '{status.name}' is not running: 'gpuvm lab up' starts it")
        return
    output.line(f"{status.about} at {status.vcenter} (context {status.context})")
    hosts, gpus = text.counted(status.hosts, "host"), text.counted(status.gpus, "GPU")
    output.line(f"{hosts}, {gpus}; guests: {status.isolation}")
    if status.guests:
        rows = [
            (g.vm, g.address or "-", "on" if g.powered else "off", str(g.pid or "-"))
            for g in status.guests
        ]
        output.table(("VM", "ADDRESS", "POWER", "PID"), rows)
    for problem in status.problems:
        output.warn(problem)
