"""The options that several commands share, each defined once."""

from pathlib import Path
from typing import Annotated

import typer

from gpuvm.cli.state import State


def _set_json(context: typer.Context, value: bool) -> bool:
    context.ensure_object(State).json = value
    return value


def _set_debug(context: typer.Context, value: bool) -> bool:
    context.ensure_object(State).debug |= value
    return value


JsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON object (docs/json-output.md) and nothing else.",
        callback=_set_json,
        is_eager=True,
    ),
]
DebugOption = Annotated[
    bool,
    typer.Option(
        "--debug", help="Show tracebacks and what is going on.", callback=_set_debug, is_eager=True
    ),
]
ContextOption = Annotated[
    str | None,
    typer.Option(
        "--context", "-c", help="Which vCenter; 'gpuvm context' lists them.", metavar="NAME"
    ),
]
FileOption = Annotated[
    Path | None,
    typer.Option("--file", "-f", help="The wish; ./gpuvm.yaml when it exists.", metavar="FILE"),
]
NameOption = Annotated[
    str | None, typer.Option("--name", help="The deployment's name.", metavar="NAME")
]
HostsOption = Annotated[
    int | None, typer.Option("--hosts", min=1, help="How many hosts get a VM.", metavar="N")
]
ScaleDownOption = Annotated[
    bool, typer.Option("--scale-down", help="Allow VMs to be removed to reach --hosts.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
TemplateOption = Annotated[
    str | None, typer.Option("--template", help="The VM template to clone.", metavar="NAME")
]
ClusterOption = Annotated[
    str | None, typer.Option("--cluster", help="The vSphere cluster.", metavar="NAME")
]
DatastoreOption = Annotated[
    str | None, typer.Option("--datastore", help="Where the clones' disks go.", metavar="NAME")
]
NetworkOption = Annotated[
    str | None,
    typer.Option("--network", help="Instead of the template's network.", metavar="NAME"),
]
