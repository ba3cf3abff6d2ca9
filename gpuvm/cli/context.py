"""gpuvm context: lists the configured vCenters and chooses the current one."""

from collections.abc import Sequence
from typing import Annotated

import typer

from gpuvm import settings
from gpuvm.cli import completion, login, output
from gpuvm.cli.options import DebugOption, JsonOption
from gpuvm.cli.output import State
from gpuvm.guest import ssh_config

app = typer.Typer(
    invoke_without_command=True,
    help="""List the known vCenters, or choose the one that commands use.

[bold]Examples[/]

    gpuvm context

    gpuvm context use lab

    gpuvm context remove lab
""",
)

Name = Annotated[
    str,
    typer.Argument(help="A context's name.", metavar="NAME", autocompletion=completion.contexts),
]


@app.callback()
def contexts(ctx: typer.Context, json: JsonOption = False, debug: DebugOption = False) -> None:
    if ctx.invoked_subcommand is None:
        _list(ctx)


@app.command("use")
def use(ctx: typer.Context, name: Name, json: JsonOption = False) -> None:
    """Make NAME the context that commands use.

    [bold]Example[/]

        gpuvm context use lab
    """
    settings.use(name)
    if not ctx.ensure_object(State).json:
        output.line(f"commands now use context '{name}'")
    output.finish(ctx, output.Result("context use", {"current": name}))


@app.command("remove")
def remove(ctx: typer.Context, name: Name, json: JsonOption = False) -> None:
    """Remove the context NAME, and its password from the keyring; its vCenter is not changed.

    [bold]Example[/]

        gpuvm context remove old-vcenter
    """
    login.forget(name)
    settings.remove(name)
    ssh_config.forget(name)
    if not ctx.ensure_object(State).json:
        output.line(f"removed context '{name}'")
    output.finish(ctx, output.Result("context remove", {"removed": name}))


def _list(ctx: typer.Context) -> None:
    known = [settings.load(name) for name in settings.names()]
    current = settings.current()
    if not ctx.ensure_object(State).json:
        if known:
            _print(known, current)
        else:
            output.line("there is no context yet: run 'gpuvm init', or 'gpuvm lab up'")
    data = {
        "current": current,
        "contexts": [
            {"name": c.name, "vcenter": c.vcenter, "user": c.user, "tls": c.tls.verify}
            for c in known
        ],
    }
    output.finish(ctx, output.Result("context", data))


def _print(known: Sequence[settings.Context], current: str | None) -> None:
    rows = [
        ("*" if c.name == current else "", c.name, c.vcenter, c.user, c.tls.verify) for c in known
    ]
    output.table(("", "NAME", "VCENTER", "USER", "TLS"), rows)
