"""gpuvm lab: starts, shows and stops the simulated data centre."""

import dataclasses
import json as jsons
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gpuvm import lab, settings, text
from gpuvm.cli import output, progress
from gpuvm.cli.options import DebugOption, JsonOption, file_context, grouped
from gpuvm.cli.output import State
from gpuvm.events import Events
from gpuvm.lab import LabGuest, LabOptions, LabStatus
from gpuvm.lab.addresses import Network

app = typer.Typer(
    no_args_is_help=True,
    help="""A simulated vCenter with GPU hosts and real SSH guests on this machine.

[bold]Examples[/]

    gpuvm lab up

    gpuvm lab up --name big --hosts 64 --gpus-per-host 4 --gpu a100

    gpuvm lab status

    gpuvm lab freeze gpuvm-01

    gpuvm lab down
""",
)

Name = Annotated[
    str, typer.Option("--name", help="The lab's and its context's name.", metavar="NAME")
]


@dataclasses.dataclass(frozen=True)
class Guests:
    """Options of a command that makes trouble with guests of a lab."""

    vms: Annotated[
        list[str],
        typer.Argument(help="Names of VMs with guests.", metavar="VM...", show_default=False),
    ]
    name: Name = "lab"
    json: JsonOption = False
    debug: DebugOption = False


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
    network: Annotated[
        Network | None,
        typer.Option(
            help="Guests share this machine's network ([bold]loopback[/], the default) or have "
            "their own ([bold]namespaces[/]; needs root).",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Start the lab in the background, and return when its vCenter responds.

    [bold]Examples[/]

        gpuvm lab up

        gpuvm lab up --hosts 8 --gpus-per-host 2 --gpu v100

        gpuvm lab up --name shared --vgpu

        gpuvm lab up --network namespaces
    """
    options = LabOptions(
        name=name,
        hosts=hosts,
        gpus_per_host=gpus_per_host,
        gpu=gpu,
        vgpu=vgpu,
        vms=vms,
        description=description,
        network=network,
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


@app.command("cut")
@grouped
def cut(ctx: typer.Context, *, guests: Guests) -> None:
    """Cut the links of guests: nothing gets through, and nobody is told.

    The lab needs [bold]--network namespaces[/].

    [bold]Example[/]

        gpuvm lab cut gpuvm-01
    """
    lab.cut(guests.name, guests.vms)
    _changed(ctx, "lab cut", guests)


@app.command("slow")
@grouped
def slow(
    ctx: typer.Context,
    rate: Annotated[
        str, typer.Option(help="Of each direction, such as 10mbit.", metavar="RATE")
    ] = "10mbit",
    delay: Annotated[
        str | None,
        typer.Option(help="Added in each direction, such as 20ms.", metavar="TIME"),
    ] = None,
    *,
    guests: Guests,
) -> None:
    """Slow the links of guests.

    The lab needs [bold]--network namespaces[/].

    [bold]Example[/]

        gpuvm lab slow gpuvm-01 --rate 100mbit
    """
    lab.slow(guests.name, guests.vms, lab.Slowness(rate, delay))
    _changed(ctx, "lab slow", guests)


@app.command("mend")
@grouped
def mend(ctx: typer.Context, *, guests: Guests) -> None:
    """Mend links that were cut or slowed.

    [bold]Example[/]

        gpuvm lab mend gpuvm-01
    """
    lab.mend(guests.name, guests.vms)
    _changed(ctx, "lab mend", guests)


@app.command("freeze")
@grouped
def freeze(ctx: typer.Context, *, guests: Guests) -> None:
    """Stop all processes of guests: they keep their connections, and do nothing.

    [bold]Example[/]

        gpuvm lab freeze gpuvm-01
    """
    lab.freeze(guests.name, guests.vms)
    _changed(ctx, "lab freeze", guests)


@app.command("thaw")
@grouped
def thaw(ctx: typer.Context, *, guests: Guests) -> None:
    """Let frozen guests go on.

    [bold]Example[/]

        gpuvm lab thaw gpuvm-01
    """
    lab.thaw(guests.name, guests.vms)
    _changed(ctx, "lab thaw", guests)


def _changed(ctx: typer.Context, command: str, guests: Guests) -> None:
    """Shows the guests that were changed as they are now."""
    found = [guest for guest in lab.status(guests.name).guests if guest.vm in guests.vms]
    if not ctx.ensure_object(State).json:
        _print_guests(found)
    data = {"name": guests.name, "guests": [dataclasses.asdict(guest) for guest in found]}
    output.finish(ctx, output.Result(command, data))


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
    networks = ", own networks" * (status.network == "namespaces")
    output.line(f"{hosts}, {gpus}; guests: {status.isolation}{networks}")
    if status.guests:
        _print_guests(status.guests)
    for problem in status.problems:
        output.warn(problem)


def _print_guests(guests: Sequence[LabGuest]) -> None:
    """Links are shown where guests have them."""
    with_links = any(guest.link for guest in guests)
    rows = [
        (
            *(g.vm, g.address or "-", _power(g), str(g.pid or "-")),
            *((g.link or "-",) if with_links else ()),
        )
        for g in guests
    ]
    output.table(("VM", "ADDRESS", "POWER", "PID", *(("LINK",) if with_links else ())), rows)


def _power(guest: LabGuest) -> str:
    return "frozen" if guest.frozen else "on" if guest.powered else "off"
