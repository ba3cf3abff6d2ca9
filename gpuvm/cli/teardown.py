"""gpuvm teardown: everything that gpuvm made, and nothing else, is removed."""

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
from gpuvm.cli.session import confirm, open_session
from gpuvm.cli.state import State
from gpuvm.events import Events
from gpuvm.inventory import VM


def teardown(
    ctx: typer.Context,
    yes: YesOption = False,
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
    left alone. Running it twice is quiet.
    """
    wanted = spec.load(file, name=name)
    state = ctx.ensure_object(State)
    events = Events()
    with open_session(ctx, context) as session:
        with progress.shown(events, state):
            lifecycle.await_clones(session.vsphere, events)
        marked = [vm for vm in session.vsphere.read_marked() if vm.deployment == wanted.name]
        ours = [vm for vm in marked if vm.ownership == "ours"]
        copies = [vm for vm in marked if vm.ownership == "copy"]
        if not state.json:
            _show(ours, copies, wanted.name)
        if ours and not confirm(session.context, f"Destroy {len(ours)} VMs?", yes=yes):
            output.declined(ctx, "teardown")
            return
        with progress.shown(events, state):
            result = lifecycle.teardown(ours, session.vsphere, events)
    if ours and not state.json:
        output.line(f"{len(result.outcomes) - len(result.failed)} of {len(ours)} VMs removed")
    data = described(result) | {"copies": [vm.name for vm in copies]}
    errors = tuple(o.error for o in result.outcomes if o.error is not None)
    output.finish(ctx, output.Result("teardown", data, result.exit_code, errors))


def _show(ours: list[VM], copies: list[VM], deployment: str) -> None:
    if ours:
        rows = [
            (vm.name, vm.host, "on" if vm.powered_on else "off", vm.address or "-") for vm in ours
        ]
        output.table(("VM", "HOST", "POWER", "ADDRESS"), rows)
    else:
        output.line(f"nothing to do: no VM of '{deployment}' exists")
    for vm in copies:
        output.line(f"note: {vm.name} is a copy of one of our VMs; it is left alone")
