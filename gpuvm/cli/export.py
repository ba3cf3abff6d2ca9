"""gpuvm export: writes the VMs as input of SkyPilot, dstack, Ray or any SSH tool."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

from gpuvm import export as engines
from gpuvm import guest
from gpuvm.cli import completion, host_blocks, output, targets
from gpuvm.cli.options import DeploymentOptions, grouped
from gpuvm.cli.output import State
from gpuvm.cli.session import open_session
from gpuvm.errors import BadInput, PreflightRefused, SeveralRefused
from gpuvm.export import Engine, Member
from gpuvm.files import write_new
from gpuvm.guest import Endpoint, ssh_config
from gpuvm.settings import Context

AT_ONCE = 16


@grouped
def export(
    ctx: typer.Context,
    engine: Annotated[Engine, typer.Argument(help="The tool to write for.", metavar="ENGINE")],
    to: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write here, not to standard output.", metavar="FILE"),
    ] = None,
    vms: Annotated[
        list[str] | None,
        typer.Option(
            "--vm",
            help="Only this VM; can be repeated.",
            metavar="NAME",
            autocompletion=completion.vms,
        ),
    ] = None,
    *,
    options: DeploymentOptions,
) -> None:
    """Write the running VMs as a SkyPilot, dstack or Ray config, or as SSH host blocks.

    [bold]Examples[/]

        gpuvm export skypilot -o ~/.sky/ssh_node_pools.yaml && sky ssh up

        gpuvm export dstack -o fleet.dstack.yml && dstack apply -f fleet.dstack.yml

        gpuvm export ray -o cluster.yaml && ray up cluster.yaml

        gpuvm export ssh

    ENGINE is skypilot, dstack, ray or ssh. The guests are checked for its requirements first: if
    something is missing, it is reported and nothing is written. The file contains the private key's
    path, never the key.
    """
    if to is not None and to.exists():
        raise BadInput(f"{to} already exists", hint="choose another file; none is overwritten")
    wanted = options.spec()
    with open_session(ctx, options.context, wanted.context, announced=False) as session:
        places = targets.endpoints(session, wanted.name, vms, every=True)
        known = session.context
    if engine is Engine.SSH:
        places = list(host_blocks.usable(places))
        text = engines.render(engine, wanted.name, places, known)
    else:
        members = _ask_each(places, known)
        refusals = [*_not_included(engine), *engines.missing(engine, members)]
        if refusals:
            raise SeveralRefused(refusals)
        places = [member.endpoint for member in members]
        text = engines.render(engine, wanted.name, members, known)
    state = ctx.ensure_object(State)
    if to is not None:
        _write(to, text)
        if not state.json:
            output.line(f"{to}: {', '.join(place.name for place in places)} for {engine.value}")
    elif not state.json:
        output.data(text)
    data = {
        "engine": engine.value,
        "vms": [place.name for place in places],
        "file": str(to) if to else None,
        "text": text,
    }
    output.finish(ctx, output.Result("export", data))


def _ask_each(places: Sequence[Endpoint], context: Context) -> list[Member]:
    """Raises the first GuestError, because a file without one of the VMs would be misleading."""

    def one(place: Endpoint) -> Member:
        with guest.connect(place) as machine:
            return Member(machine.endpoint, engines.read_facts(machine, context.guest.python))

    with ThreadPoolExecutor(min(len(places), AT_ONCE)) as threads:
        return list(threads.map(one, places))


def _not_included(engine: Engine) -> list[PreflightRefused]:
    """SkyPilot connects by host name, because its pools have no fields for port and key."""
    included = ssh_config.is_wanted() and ssh_config.is_included(Path.home() / ".ssh/config")
    if engine is not Engine.SKYPILOT or included:
        return []
    return [
        PreflightRefused(
            "SkyPilot connects to the VMs by name, but they are not in ~/.ssh/config yet",
            hint="'gpuvm ssh-config' adds them",
        )
    ]


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_new(file, text)
    except OSError as error:
        raise BadInput(f"cannot write {file}: {error.strerror or error}") from None
