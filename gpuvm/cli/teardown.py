"""gpuvm teardown: everything that gpuvm made, and nothing else, is removed."""

from collections.abc import Sequence
from typing import Annotated

import typer

from gpuvm import lifecycle, spec
from gpuvm.cli import output, progress
from gpuvm.cli.options import (
    ContextOption,
    DebugOption,
    FileOption,
    JsonOption,
    NameOption,
    YesOption,
)
from gpuvm.cli.provision import described
from gpuvm.cli.session import Session, confirm, open_session
from gpuvm.cli.state import State
from gpuvm.events import Events
from gpuvm.inventory import VM
from gpuvm.vsphere import Coming


def teardown(
    ctx: typer.Context,
    yes: YesOption = False,
    with_disks: Annotated[
        bool,
        typer.Option("--with-disks", help="Also VMs with disks from outside their own folder."),
    ] = False,
    with_templates: Annotated[
        bool, typer.Option("--with-templates", help="Also VMs that were made into templates.")
    ] = False,
    file: FileOption = None,
    name: NameOption = None,
    context: ContextOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Power off and destroy the deployment's VMs.

    [bold]Examples[/]

        gpuvm teardown

        gpuvm teardown --yes --json

    Only VMs that carry gpuvm's mark and the UUID derived from it; copies of them are listed and
    left alone. A clone that is under way becomes a VM later: those of the deployment's names are
    waited for, and removed; one that the vCenter does not name is waited for two minutes at most.
    Running it twice is quiet. A VM with disks from outside its own folder, which would be deleted
    with it, and a VM that somebody made into a template are left and named.
    """
    wanted = spec.load(file, name=name)
    state = ctx.ensure_object(State)
    events = Events()
    with open_session(ctx, context) as session:
        coming = lifecycle.clones_to_come(session.vsphere, wanted.name)
        ours, copies = _marked(session, wanted.name)
        if not state.json:
            _show(ours, coming, copies, wanted.name)
        question = _question(ours, coming)
        if question and not confirm(session.context, question, yes=yes):
            output.declined(ctx, "teardown")
            return
        with progress.shown(events, state):
            if coming:
                lifecycle.await_clones(coming, session.vsphere, events)
                ours, copies = _marked(session, wanted.name)
            result = lifecycle.teardown(
                ours,
                session.vsphere,
                events,
                with_disks=with_disks,
                with_templates=with_templates,
            )
            lifecycle.restore_templates(session.vsphere, events)
    if ours and not state.json:
        output.line(f"{len(result.outcomes) - len(result.failed)} of {len(ours)} VMs removed")
    data = described(result) | {"copies": [vm.name for vm in copies]}
    errors = tuple(o.error for o in result.outcomes if o.error is not None)
    output.finish(ctx, output.Result("teardown", data, result.exit_code, errors))


def _marked(session: Session, deployment: str) -> tuple[list[VM], list[VM]]:
    """The deployment's VMs, and copies of them."""
    marked = [vm for vm in session.vsphere.read_marked() if vm.deployment == deployment]
    ours = [vm for vm in marked if vm.ownership == "ours"]
    return ours, [vm for vm in marked if vm.ownership == "copy"]


def _question(ours: Sequence[VM], coming: Sequence[Coming]) -> str:
    """Empty when there is nothing to ask about."""
    parts = [f"{len(ours)} VMs"] if ours or not coming else []
    parts += [f"{len(coming)} that are being cloned"] if coming else []
    return f"Destroy {', and '.join(parts)}?" if ours or coming else ""


def _show(
    ours: Sequence[VM], coming: Sequence[Coming], copies: Sequence[VM], deployment: str
) -> None:
    rows = [(vm.name, vm.host, "on" if vm.powered_on else "off", vm.address or "-") for vm in ours]
    rows += [(one.name or "(not known)", "-", "being cloned", "-") for one in coming]
    if rows:
        output.table(("VM", "HOST", "POWER", "ADDRESS"), rows)
    else:
        output.line(f"nothing to do: no VM of '{deployment}' exists")
    for vm in copies:
        output.line(f"note: {vm.name} is a copy of one of our VMs; it is left alone")
