"""gpuvm teardown: removes everything that gpuvm created, and nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import typer

from gpuvm import lifecycle
from gpuvm.cli import host_blocks, output, progress
from gpuvm.cli.options import DeploymentOptions, WaitOption, YesOption, grouped
from gpuvm.cli.output import State
from gpuvm.cli.provision import result_json
from gpuvm.cli.session import confirm, exclusive, open_session
from gpuvm.errors import PreflightRefused
from gpuvm.events import Events
from gpuvm.inventory import Deployment, MoRef
from gpuvm.ownership import copy_note
from gpuvm.text import counted
from gpuvm.vsphere import CloneInFlight


@grouped
def teardown(
    ctx: typer.Context,
    yes: YesOption = False,
    wait: WaitOption = False,
    with_disks: Annotated[
        bool,
        typer.Option("--with-disks", help="Also VMs with disks that were added later."),
    ] = False,
    with_templates: Annotated[
        bool,
        typer.Option("--with-templates", help="Also VMs that were converted to templates."),
    ] = False,
    *,
    options: DeploymentOptions,
) -> None:
    """Power off and destroy the deployment's VMs.

    [bold]Examples[/]

        gpuvm teardown

        gpuvm teardown --yes --json

    It destroys only VMs with gpuvm's mark and the UUID derived from it; copies of them are listed
    but kept. It also waits for the deployment's running clones and destroys the new VMs; if the
    vCenter does not report a clone's name, it waits for two minutes at most. VMs with disks that
    were added later, VMs that were converted to templates, and VMs with an unreadable configuration
    are kept and listed.
    """
    wanted = options.spec()
    state = ctx.ensure_object(State)
    events = Events()
    with (
        open_session(ctx, options.context, wanted.context) as session,
        exclusive(ctx, session, wanted.name, wait=wait),
    ):
        coming = lifecycle.clones_in_flight(session.vsphere, wanted.name)
        found = _without_clones(session.vsphere.read_deployment(wanted.name), coming)
        left = {
            vm.moref: why
            for vm in found.ours
            if (why := lifecycle.why_left(vm, with_disks=with_disks, with_templates=with_templates))
        }
        if not state.json:
            _print_deployment(found, coming, left, wanted.name)
        question = _question(len(found.ours) - len(left), coming)
        if question and not confirm(session.context, question, yes=yes):
            output.declined(ctx, "teardown")
            return
        with progress.shown(events, state):
            if coming:
                lifecycle.await_clones(coming, session.vsphere, events)
                found = session.vsphere.read_deployment(wanted.name)
            result = lifecycle.teardown(
                found.ours,
                session.vsphere,
                events,
                unreadable=found.unreadable,
                with_disks=with_disks,
                with_templates=with_templates,
            )
            lifecycle.restore_templates(session.vsphere, events)
        host_blocks.refresh(session, wanted.name)
    if result.outcomes and not state.json:
        gone, all_of_them = len(result.outcomes) - len(result.failed), len(result.outcomes)
        output.line(f"{gone} of {counted(all_of_them, 'VM')} removed")
    data = result_json(result) | {"copies": [vm.name for vm in found.copies]}
    output.finish(ctx, output.Result("teardown", data, result.exit_code, result.errors))


def _without_clones(found: Deployment, coming: Sequence[CloneInFlight]) -> Deployment:
    """Remove VMs still being cloned from the unreadable: they have no configuration yet."""
    names = {one.name for one in coming}
    return replace(found, unreadable=tuple(v for v in found.unreadable if v.name not in names))


def _question(going: int, coming: Sequence[CloneInFlight]) -> str:
    """Return an empty string if there is nothing to confirm."""
    parts = [counted(going, "VM")] if going else []
    parts += [f"{len(coming)} being cloned"] if coming else []
    return f"Destroy {', and '.join(parts)}?" if parts else ""


def _print_deployment(
    found: Deployment,
    coming: Sequence[CloneInFlight],
    left: Mapping[MoRef, PreflightRefused],
    deployment: str,
) -> None:
    rows = [
        (
            vm.name,
            vm.host,
            vm.power,
            vm.address or "-",
            "leave" if vm.moref in left else "destroy",
        )
        for vm in found.ours
    ]
    rows += [(vm.name, vm.host, vm.power, "-", "leave") for vm in found.unreadable]
    rows += [(one.name or "(unknown)", "-", "being cloned", "-", "destroy") for one in coming]
    if rows:
        output.table(("VM", "HOST", "POWER", "ADDRESS", "ACTION"), sorted(rows))
    else:
        output.line(f"nothing to do: no VM of '{deployment}' exists")
    for vm in found.copies:
        output.line(f"note: {copy_note(vm)}")
