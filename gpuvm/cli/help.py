"""gpuvm help: the same as --help after the command."""

from typing import Annotated, Any

import typer


def help_on(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None, typer.Argument(help="Such as provision, or lab up.", metavar="[COMMAND]")
    ] = None,
) -> None:
    """Show what gpuvm can do, or how a command is used.

    [bold]Examples[/]

        gpuvm help

        gpuvm help lab up
    """
    root = ctx.find_root()
    program: Any = root.command
    program.main([*(words or []), "--help"], prog_name=root.info_name, standalone_mode=True)
