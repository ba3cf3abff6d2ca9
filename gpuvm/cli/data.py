"""gpuvm data: files that workloads can use, fetched once and checked."""

from typing import Annotated, Any

import typer

from gpuvm import data
from gpuvm.cli import output, progress
from gpuvm.cli.options import DebugOption, JsonOption
from gpuvm.cli.state import State
from gpuvm.events import Events

app = typer.Typer(
    invoke_without_command=True,
    help="""List the files that workloads can use, or fetch them once, checked by hash.

[bold]Examples[/]

    gpuvm data

    gpuvm data fetch vgg19

    gpuvm run style -- --weights @vgg19

    gpuvm run stock -- --data @./data_stocks.csv

No workload needs any of them: without, it makes its data and says what it used instead. An argument
that begins with @ names one of these, or a file of yours; each guest gets it once, by its content.
""",
)

Names = Annotated[list[str] | None, typer.Argument(help="All when left out.", metavar="[NAME]…")]


@app.callback()
def files(ctx: typer.Context, json: JsonOption = False, debug: DebugOption = False) -> None:
    if ctx.invoked_subcommand is not None:
        return
    known = list(data.KNOWN.values())
    if not ctx.ensure_object(State).json:
        rows = [
            (k.name, f"{k.size_mib} MiB", "yes" if k.path.exists() else "no", k.use) for k in known
        ]
        output.table(("NAME", "SIZE", "HERE", "FOR"), rows)
    output.finish(ctx, output.Result("data", {"files": [_described(k) for k in known]}))


@app.command("fetch")
def fetch(
    ctx: typer.Context, names: Names = None, json: JsonOption = False, debug: DebugOption = False
) -> None:
    """Download files into the cache, and check them against their publisher's hash.

    [bold]Example[/]

        gpuvm data fetch vgg19 mnist
    """
    state = ctx.ensure_object(State)
    events = Events()
    wanted = data.names(names)
    with progress.shown(events, state):
        fetched = [data.fetch(name, events) for name in wanted]
    if not state.json:
        for name, file in zip(wanted, fetched, strict=True):
            output.line(f"{name}: {file}")
    output.finish(ctx, output.Result("data fetch", {"files": [str(file) for file in fetched]}))


def _described(known: data.Known) -> dict[str, Any]:
    return {
        "name": known.name,
        "size_mib": known.size_mib,
        "here": known.path.exists(),
        "path": str(known.path),
        "url": known.url,
        "digest": known.digest,
        "for": known.use,
    }
