"""Options shared by several commands, and groups of them.

A command takes a group as one parameter, with ``grouped``: ``options: DeploymentOptions``.
"""

import dataclasses
import enum
import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from gpuvm import accelerators, spec
from gpuvm.cli import completion, output
from gpuvm.cli.output import State, command_words
from gpuvm.errors import BadInput, GpuvmError
from gpuvm.spec import ClusterSpec


def _set_json(context: typer.Context, value: bool) -> bool:
    """Also note the command, for errors in JSON and for hints, because every command has --json."""
    state = context.ensure_object(State)
    state.json, state.command = value, " ".join(command_words(context))
    state.typed = context
    output.begin(state)
    return value


def _set_debug(context: typer.Context, value: bool) -> bool:
    context.ensure_object(State).debug |= value
    return value


def _not_empty(parameter: typer.CallbackParam, value: str | None) -> str | None:
    """Reject an empty value: an unset variable in a script must not select the default."""
    if value is not None and not value.strip():
        raise BadInput(f"{parameter.opts[0]} is empty", hint="give it a value, or leave it out")
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
        "--debug", help="Show tracebacks and debug messages.", callback=_set_debug, is_eager=True
    ),
]
ContextOption = Annotated[
    str | None,
    typer.Option(
        "--context",
        "-c",
        help="The vCenter to use; 'gpuvm context' lists them.",
        metavar="NAME",
        autocompletion=completion.contexts,
        callback=_not_empty,
    ),
]
FileOption = Annotated[
    Path | None,
    typer.Option(
        "--file", "-f", help="The spec; default: ./gpuvm.yaml, if it exists.", metavar="FILE"
    ),
]
NameOption = Annotated[
    str | None, typer.Option("--name", help="The deployment's name.", metavar="NAME")
]
HostsOption = Annotated[
    int | None, typer.Option("--hosts", min=1, help="Number of hosts that get VMs.", metavar="N")
]
ScaleDownOption = Annotated[
    bool, typer.Option("--scale-down", help="Allow VMs to be removed to reach --hosts.")
]
WaitOption = Annotated[
    bool,
    typer.Option(
        "--wait", help="Wait for another command on this machine that changes the deployment."
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
AcceleratorOption = Annotated[
    str | None,
    typer.Option(
        "--accelerator",
        help="passthrough, dynamic, vgpu:PROFILE, device-group:NAME or none; more as "
        "passthrough:model=P100,count=2.",
        metavar="MODE[:…]",
        callback=_not_empty,
    ),
]
PerHostOption = Annotated[
    int | None, typer.Option("--per-host", min=1, help="Number of VMs on each host.", metavar="N")
]


class Placement(enum.StrEnum):
    ONE_PER_HOST = "one-per-host"
    PACK = "pack"
    SPREAD = "spread"


class CloneMode(enum.StrEnum):
    FULL = "full"
    LINKED = "linked"


PlacementOption = Annotated[
    Placement | None,
    typer.Option("--placement", help="How VMs are placed: one-per-host, packed, or spread evenly."),
]
CloneModeOption = Annotated[
    CloneMode | None,
    typer.Option("--clone-mode", help="Linked clones share the disk of the template's snapshot."),
]
VMArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="Default: all of the deployment's VMs.",
        metavar="[VM]…",
        autocompletion=completion.vms,
    ),
]
TemplateOption = Annotated[
    str | None, typer.Option("--template", help="The VM template to clone.", metavar="NAME")
]
ClusterOption = Annotated[
    str | None, typer.Option("--cluster", help="The vSphere cluster.", metavar="NAME")
]
DatastoreOption = Annotated[
    str | None,
    typer.Option("--datastore", help="The datastore for the clones, or a pattern.", metavar="NAME"),
]
NetworkOption = Annotated[
    str | None,
    typer.Option("--network", help="Use this network, not the template's.", metavar="NAME"),
]


def _bytes(text: str) -> int:
    """Parse ``500M`` or ``2G`` into bytes, and ``none`` into -1."""
    match = re.fullmatch(r"(\d{1,9})([KMGT]?)(i?B?)", text.strip(), re.IGNORECASE)
    if text.strip().lower() == "none":
        return -1
    if match is None:
        raise BadInput(f"--fetch-limit: '{text}' is not a size", hint="such as 500M, 2G or none")
    return int(match[1]) << (10 * " KMGT".index(match[2].upper() or " "))


FetchLimitOption = Annotated[
    int,
    typer.Option(
        "--fetch-limit",
        parser=_bytes,
        help="Limit of each VM's fetched results, small files first: 500M, 2G, none.",
        metavar="SIZE",
    ),
]


def file_context(file: Path | None) -> str | None:
    """The context that gpuvm.yaml names; a file that cannot be read names none."""
    try:
        return spec.load(file).context
    except GpuvmError:
        return None


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Expose the fields of each option group of ``command`` to Typer as separate parameters."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[Any, list[str]]] = {}
    for parameter in inspect.signature(command).parameters.values():
        group = parameter.annotation
        if not (isinstance(group, type) and dataclasses.is_dataclass(group)):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        fields = inspect.signature(group).parameters.values()
        groups[parameter.name] = group, [field.name for field in fields]
        parameters += [field.replace(kind=inspect.Parameter.KEYWORD_ONLY) for field in fields]

    @functools.wraps(command)
    def call(**given: Any) -> None:
        for name, (group, fields) in groups.items():
            given[name] = group(**{field: given.pop(field) for field in fields})
        command(**given)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


@dataclass(frozen=True)
class DeploymentOptions:
    """Options of a command for existing VMs."""

    file: FileOption = None
    deployment: NameOption = None
    context: ContextOption = None
    json: JsonOption = False
    debug: DebugOption = False

    def spec(self, **more: Any) -> ClusterSpec:
        """Load the spec from the file; options override it. Raises BadInput."""
        return spec.load(self.file, name=self.deployment, **more)


@dataclass(frozen=True)
class ClusterOptions:
    """Options of a command for the cluster's hosts."""

    cluster: ClusterOption = None
    file: FileOption = None
    context: ContextOption = None
    json: JsonOption = False
    debug: DebugOption = False

    def spec(self) -> ClusterSpec:
        return spec.load(self.file, cluster=self.cluster)


@dataclass(frozen=True)
class SpecOptions:
    """Options of a command that uses the whole spec; each overrides a field of gpuvm.yaml."""

    hosts: HostsOption = None
    per_host: PerHostOption = None
    accelerator: AcceleratorOption = None
    placement: PlacementOption = None
    clone_mode: CloneModeOption = None
    file: FileOption = None
    name: NameOption = None
    template: TemplateOption = None
    cluster: ClusterOption = None
    datastore: DatastoreOption = None
    network: NetworkOption = None
    context: ContextOption = None
    json: JsonOption = False
    debug: DebugOption = False

    def spec(self) -> ClusterSpec:
        return spec.load(
            self.file,
            name=self.name,
            hosts=self.hosts,
            per_host=self.per_host,
            accelerator=accelerators.parse(self.accelerator) if self.accelerator else None,
            placement=self.placement,
            clone_mode=self.clone_mode,
            template=self.template,
            cluster=self.cluster,
            datastore=self.datastore,
            network=self.network,
        )
