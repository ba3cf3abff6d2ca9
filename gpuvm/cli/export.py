"""gpuvm export: hands the VMs to SkyPilot, dstack, Ray or any tool that reads host blocks."""

import sys
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
from gpuvm.guest import Endpoint, ssh_config
from gpuvm.settings import Context

AT_ONCE = 16


@grouped
def export(
    ctx: typer.Context,
    engine: Annotated[Engine, typer.Argument(help="Whose file to write.", metavar="ENGINE")],
    to: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Instead of standard output.", metavar="FILE"),
    ] = None,
    vms: Annotated[
        list[str] | None,
        typer.Option(
            "--vm",
            help="Only this VM; may be repeated.",
            metavar="NAME",
            autocompletion=completion.vms,
        ),
    ] = None,
    *,
    options: DeploymentOptions,
) -> None:
    """Write the running VMs as SkyPilot's, dstack's or Ray's own file, or as SSH host blocks.

    [bold]Examples[/]

        gpuvm export skypilot -o ~/.sky/ssh_node_pools.yaml && sky ssh up

        gpuvm export dstack -o fleet.dstack.yml && dstack apply -f fleet.dstack.yml

        gpuvm export ray -o cluster.yaml && ray up cluster.yaml

        gpuvm export ssh

    ENGINE is skypilot, dstack, ray or ssh. The guests are asked first whether they can serve it:
    what is missing is named, and nothing is written. The private key is named by its path only.
    """
    if to is not None and to.exists():
        raise BadInput(f"{to} exists", hint="name another file; gpuvm writes over none")
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
        sys.stdout.write(text)
    data = {
        "engine": engine.value,
        "vms": [place.name for place in places],
        "file": str(to) if to else None,
        "text": text,
    }
    output.finish(ctx, output.Result("export", data))


def _ask_each(places: Sequence[Endpoint], context: Context) -> list[Member]:
    """Raises the first GuestError: a file that leaves a VM out would be a surprise."""

    def one(place: Endpoint) -> Member:
        with guest.connect(place) as machine:
            return Member(machine.endpoint, engines.read_facts(machine, context.guest.python))

    with ThreadPoolExecutor(min(len(places), AT_ONCE)) as threads:
        return list(threads.map(one, places))


def _not_included(engine: Engine) -> list[PreflightRefused]:
    """SkyPilot's hosts are names that ssh has to know: a pool has no place for a port or key."""
    included = ssh_config.is_wanted() and ssh_config.is_included(Path.home() / ".ssh/config")
    if engine is not Engine.SKYPILOT or included:
        return []
    return [
        PreflightRefused(
            "ssh does not know the VMs by their names yet, and SkyPilot calls them by these",
            hint="'gpuvm ssh-config' adds them to ~/.ssh/config",
        )
    ]


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except OSError as error:
        raise BadInput(f"{file} cannot be written: {error.strerror or error}") from None
