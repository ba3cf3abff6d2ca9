"""gpuvm deployments: everything of gpuvm's in the vCenter, whoever created it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import typer

from gpuvm.cli import output
from gpuvm.cli.options import ContextOption, DebugOption, FileOption, JsonOption, file_context
from gpuvm.cli.output import State
from gpuvm.cli.session import open_session
from gpuvm.cli.tables import Prose, unbroken
from gpuvm.inventory import VM
from gpuvm.ownership import CREATED_KEY, OPERATOR_KEY
from gpuvm.text import ago, one_line


@dataclass(frozen=True)
class Listed:
    """One deployment, with its VMs by index; copies of them belong to nobody."""

    name: str
    vms: tuple[VM, ...]

    @property
    def operators(self) -> tuple[str, ...]:
        """Those who created the VMs, as far as the VMs record it."""
        found = (vm.extra_config.get(OPERATOR_KEY) for vm in self.vms)
        return tuple(dict.fromkeys(one for one in found if one))

    @property
    def created(self) -> datetime | None:
        return min(filter(None, map(created, self.vms)), default=None)


def deployments(
    ctx: typer.Context,
    file: FileOption = None,
    context: ContextOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List every deployment in the vCenter: its VMs, who created them, and when.

    [bold]Examples[/]

        gpuvm deployments

        gpuvm deployments --json

    VMs that an older gpuvm created do not record who created them.
    """
    with open_session(ctx, context, file_context(file)) as session:
        found = list_all(session.vsphere.read_marked())
    finish(ctx, "deployments", found)


def finish(ctx: typer.Context, command: str, found: Sequence[Listed]) -> None:
    if not ctx.ensure_object(State).json:
        _print(found)
    output.finish(ctx, output.Result(command, {"deployments": [_json(one) for one in found]}))


def list_all(marked: Iterable[VM]) -> list[Listed]:
    """Group the VMs by deployment, in the order of the names."""
    by_name: dict[str, list[VM]] = {}
    for vm in marked:
        if vm.ownership == "ours" and vm.deployment:
            by_name.setdefault(vm.deployment, []).append(vm)
    return [
        Listed(name, tuple(sorted(by_name[name], key=lambda vm: vm.index or 0)))
        for name in sorted(by_name)
    ]


def created(vm: VM) -> datetime | None:
    """Anybody may have changed the mark: None for what is no time."""
    try:
        when = datetime.fromisoformat(vm.extra_config.get(CREATED_KEY, ""))
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _print(found: Sequence[Listed]) -> None:
    if not found:
        output.line("no deployment in this vCenter: 'gpuvm provision' makes one")
        return
    rows = [
        (
            one_line(one.name),
            ", ".join(unbroken(one_line(vm.name)) for vm in one.vms),
            f"{sum(vm.powered_on for vm in one.vms)} of {len(one.vms)}",
            ", ".join(one_line(operator, longest=80) for operator in one.operators) or "-",
            _since(one.created),
        )
        for one in found
    ]
    columns = ("DEPLOYMENT", Prose("VMS"), "ON", Prose("CREATED BY"), "CREATED")
    output.table(columns, rows)


def _since(when: datetime | None) -> str:
    return "-" if when is None else ago((datetime.now(UTC) - when).total_seconds())


def _json(one: Listed) -> dict[str, Any]:
    return {
        "deployment": one.name,
        "operators": one.operators,
        "created": one.created.isoformat() if one.created else None,
        "vms": [_vm_json(vm) for vm in one.vms],
    }


def _vm_json(vm: VM) -> dict[str, Any]:
    when = created(vm)
    return {
        "vm": vm.name,
        "host": vm.host,
        "powered_on": vm.powered_on,
        "address": vm.address,
        "accelerator": vm.accelerator,
        "operator": vm.extra_config.get(OPERATOR_KEY) or None,
        "created": when.isoformat() if when else None,
    }
