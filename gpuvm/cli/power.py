"""gpuvm start and gpuvm stop: power VMs on when needed, and off to free their GPUs."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

from gpuvm import guest, lifecycle, planner, runs
from gpuvm.cli import host_blocks, output, plan_output, progress, targets
from gpuvm.cli.options import (
    ClusterOption,
    DeploymentOptions,
    VMArgument,
    WaitOption,
    YesOption,
    grouped,
)
from gpuvm.cli.output import State
from gpuvm.cli.provision import Until, UntilOption, result_json, show_result
from gpuvm.cli.session import Session, confirm, exclusive, open_session
from gpuvm.errors import NotFound, PreflightRefused
from gpuvm.events import Event, Events
from gpuvm.inventory import VM, UnreadableVM
from gpuvm.lifecycle import ApplyResult
from gpuvm.runs import RunState
from gpuvm.text import counted, one_line

ASK_GUESTS_S = 5.0
"""A guest that hangs is a reason to stop it, and is not waited for."""


@grouped
def start(
    ctx: typer.Context,
    vms: VMArgument = None,
    until: UntilOption = Until.READY,
    cluster: ClusterOption = None,
    wait: WaitOption = False,
    *,
    options: DeploymentOptions,
) -> None:
    """Power on the deployment's VMs that are off, each with a free GPU.

    [bold]Examples[/]

        gpuvm start

        gpuvm start gpuvm-02 --until powered-on

    A VM whose GPU is in use gets another one on its host, and with a dynamic accelerator or vGPUs
    also one on another host. If none is free, the command names the holder and changes nothing.
    """
    wanted = options.spec(cluster=cluster)
    state = ctx.ensure_object(State)
    events = Events()
    with (
        open_session(ctx, options.context, wanted.context) as session,
        exclusive(ctx, session, wanted.name, wait=wait),
    ):
        inventory = lifecycle.read_inventory(wanted, session.vsphere)
        hidden = planner.unreadable(wanted.name, inventory).values()
        chosen, away = _named(inventory.ours(wanted.name), list(hidden), vms, wanted.name)
        planner.check_readable(away)
        plan = lifecycle.make_start_plan(chosen, wanted, inventory, session.vsphere)
        if not state.json:
            plan_output.show_plan(plan)
        with progress.shown(events, state):
            result = lifecycle.provision(
                plan, session.vsphere, session.context, events, until=until.value
            )
        host_blocks.refresh(session, wanted.name)
    if not state.json:
        show_result(result)
    output.finish(ctx, output.Result("start", result_json(result), result.exit_code, result.errors))


@grouped
def stop(
    ctx: typer.Context,
    vms: VMArgument = None,
    yes: YesOption = False,
    wait: WaitOption = False,
    now: Annotated[
        bool, typer.Option("--now", help="Power off at once, without a guest shutdown.")
    ] = False,
    *,
    options: DeploymentOptions,
) -> None:
    """Shut down the deployment's VMs, and free their GPUs and reserved memory.

    [bold]Examples[/]

        gpuvm stop

        gpuvm stop gpuvm-02 --now

    The disks are kept. 'gpuvm start' powers the VMs on again, each with a GPU that is free then.
    """
    wanted = options.spec()
    state = ctx.ensure_object(State)
    events = Events()
    with (
        open_session(ctx, options.context, wanted.context) as session,
        exclusive(ctx, session, wanted.name, wait=wait),
    ):
        found = session.vsphere.read_deployment(wanted.name)
        chosen, hidden = _named(found.ours, found.unreadable, vms, wanted.name)
        running = [vm for vm in chosen if vm.powered_on]
        active = [] if now else _active_runs(session, running)
        for one in active:
            output.warn(
                f"run {one_line(one.run_id)} is {one.state} on {', '.join(one.vms)}: "
                "stopping its VMs ends it"
            )
        question = f"Stop {', '.join(vm.name for vm in running)}?"
        if running and not confirm(session.context, question, yes=yes):
            output.declined(ctx, "stop")
            return
        with progress.shown(events, state):
            grace_s = 0.0 if now else lifecycle.GRACE_S
            result = lifecycle.stop(
                chosen, session.vsphere, events, unreadable=hidden, grace_s=grace_s
            )
        host_blocks.refresh(session, wanted.name)
    if not state.json:
        _show_stopped(result)
    data = result_json(result) | {"ended_runs": [one.run_id for one in active]}
    output.finish(ctx, output.Result("stop", data, result.exit_code, result.errors))


def _active_runs(session: Session, vms: Sequence[VM]) -> list[RunState]:
    """Runs that are running or queued in these VMs; a guest that does not answer is a warning."""
    if not targets.has_key(session.context):
        return []
    members = []
    for vm in targets.unshared([vm for vm in vms if vm.address], session):
        with suppress(PreflightRefused):  # none of its addresses is in the context's subnet
            members.append(runs.Member(guest.endpoint(vm, session.context), vm, ()))

    def sink(event: Event) -> None:
        if event.kind == "warning":
            output.warn(one_line(f"{event.vm}: its runs are not known: {event.text}"))

    found = runs.list_runs(members, session.context.guest, Events(sink), timeout_s=ASK_GUESTS_S)
    return [one for one in found if one.state in ("running", "queued")]


def _named(
    ours: Sequence[VM],
    hidden: Sequence[UnreadableVM],
    names: Sequence[str] | None,
    deployment: str,
) -> tuple[list[VM], list[UnreadableVM]]:
    if not ours and not hidden:
        raise PreflightRefused(
            f"no VM of '{deployment}' exists", hint="create them with 'gpuvm provision'"
        )
    by_name: dict[str, VM | UnreadableVM] = {}
    by_name |= {vm.name: vm for vm in sorted(ours, key=lambda vm: vm.index or 0)}
    by_name |= {vm.name: vm for vm in hidden}
    for name in names or ():
        if name not in by_name:
            raise NotFound("VM", name, list(by_name), where=f"deployment '{deployment}'")
    chosen = [by_name[name] for name in dict.fromkeys(names or by_name)]
    return (
        [vm for vm in chosen if isinstance(vm, VM)],
        [vm for vm in chosen if isinstance(vm, UnreadableVM)],
    )


def _show_stopped(result: ApplyResult) -> None:
    stopped = len([o for o in result.outcomes if o.changed])
    off = len(result.outcomes) - stopped - len(result.failed)
    if stopped or result.failed:
        output.line(
            f"stopped: {counted(stopped, 'VM')}"
            + (f"; {counted(off, 'was', 'were')} already off" if off else "")
        )
    else:
        output.line("nothing to do: all VMs are already off")
