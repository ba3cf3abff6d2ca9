"""gpuvm data: lists and downloads the optional data of the workloads."""

from typing import Annotated, Any

import typer

from gpuvm import data
from gpuvm.cli import output, progress
from gpuvm.cli.options import DebugOption, JsonOption
from gpuvm.cli.output import State
from gpuvm.cli.tables import Prose
from gpuvm.events import Events

app = typer.Typer(
    invoke_without_command=True,
    help="""List the data that workloads can use, or download it, checked by hash.

[bold]Examples[/]

    gpuvm data

    gpuvm data fetch vgg19

    gpuvm run style -- --weights @vgg19

    gpuvm run stock -- --data @./data_stocks.csv

    gpuvm run captioning -- --data @./flickr8k/

All of it is optional: without it, a workload generates data and prints what it used instead. An
argument that begins with @ is one of these names, or a file or folder of yours; each guest gets the
same content only once.
""",
)

Names = Annotated[list[str] | None, typer.Argument(help="Default: all of them.", metavar="[NAME]…")]


@app.callback()
def files(ctx: typer.Context, json: JsonOption = False, debug: DebugOption = False) -> None:
    if ctx.invoked_subcommand is not None:
        return
    every: list[data.Entry] = [*data.KNOWN.values(), *data.BY_HAND.values()]
    described = [_entry_json(one) for one in sorted(every, key=lambda one: one.workload)]
    if not ctx.ensure_object(State).json:
        _print_entries(described)
    output.finish(ctx, output.Result("data", {"files": described}))


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


def _entry_json(one: data.Entry) -> dict[str, Any]:
    state = data.here(one)
    common = {
        "name": one.name,
        "workload": one.workload,
        "optional": True,
        "here": state == "yes",
        "state": state,
        "path": str(one.path),
        "for": one.use,
        "without": one.without,
    }
    if isinstance(one, data.Known):
        return common | {"size_mib": one.size_mib, "url": one.url, "digest": one.digest}
    if isinstance(one, data.ByHand):
        return common | {"source": one.source, "layout": one.layout}
    return common


def _print_entries(described: list[dict[str, Any]]) -> None:
    columns = ("WORKLOAD", "NAME", "SIZE", "HERE", Prose("FOR"), Prose("WITHOUT IT"))
    rows = [
        (d["workload"], d["name"], _size(d), d["state"], d["for"], d["without"]) for d in described
    ]
    output.table(columns, rows)
    output.line("all of it is optional")
    for one in described:
        if not one["here"]:
            output.line(f"{one['name']}: {_how(one)}")


def _size(one: dict[str, Any]) -> str:
    return f"{one['size_mib']} MiB" if "size_mib" in one else "-"


def _how(one: dict[str, Any]) -> str:
    if "layout" in one:
        return f"{one['layout']}, at {one['path']} or as @./PATH; not fetched: {one['source']}"
    wrong = f"{one['path']} has another hash; " if one["state"] == "wrong" else ""
    return f"{wrong}'gpuvm data fetch {one['name']}' fetches it"
