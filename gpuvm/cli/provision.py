"""gpuvm provision: creates VMs with GPUs, ready over SSH."""

import contextlib
import enum
from typing import Annotated, Any

import typer

from gpuvm import lifecycle
from gpuvm.cli import host_blocks, output, plan_output, progress
from gpuvm.cli.options import ScaleDownOption, SpecOptions, WaitOption, YesOption, grouped
from gpuvm.cli.output import State
from gpuvm.cli.session import Session, confirm, exclusive, open_session
from gpuvm.cli.tables import Prose
from gpuvm.events import Events
from gpuvm.lifecycle import ApplyResult, Recorder
from gpuvm.planner import Plan
from gpuvm.spec import ClusterSpec


class Until(enum.StrEnum):
    POWERED_ON = "powered-on"
    ADDRESS = "address"
    READY = "ready"


UntilOption = Annotated[Until, typer.Option("--until", help="The state to bring each VM to.")]


@grouped
def provision(
    ctx: typer.Context,
    *,
    options: SpecOptions,
    scale_down: ScaleDownOption = False,
    yes: YesOption = False,
    wait: WaitOption = False,
    until: UntilOption = Until.READY,
    keep_failed: Annotated[
        bool, typer.Option("--keep-failed", help="Keep VMs that failed, to examine them.")
    ] = False,
    create_snapshot: Annotated[
        bool,
        typer.Option(
            "--create-snapshot", help="Take the template's snapshot for linked clones, if missing."
        ),
    ] = False,
) -> None:
    """Clone VMs onto the hosts, give each its GPU and wait until they are ready.

    [bold]Examples[/]

        gpuvm provision --hosts 4

        gpuvm provision --hosts 4 --name cpu --accelerator none

        gpuvm provision --hosts 2 --scale-down --yes

        gpuvm provision -f gpuvm.yaml --until powered-on

    Running it again with the same spec changes nothing.
    """
    wanted = options.spec()
    state = ctx.ensure_object(State)
    state.if_it_fails = "'gpuvm doctor' shows what stands in the way"
    record = Recorder()
    events = Events(record)
    with (
        open_session(ctx, options.context, wanted.context) as session,
        exclusive(ctx, session, wanted.name, wait=wait),
        contextlib.closing(record),
    ):
        if create_snapshot:
            _ensure_snapshot(session, wanted, yes=yes)
        with events.phase("plan"):
            plan = lifecycle.make_plan(wanted, session.vsphere, scale_down=scale_down)
        if not state.json:
            plan_output.show_plan(plan)
        if plan.changes:
            if not confirm(session.context, "Apply these changes?", yes=yes):
                output.declined(ctx, "provision")
                return
            _restore_template(session, plan)
            file = lifecycle.provisioning_record(plan.vcenter.instance_uuid, plan.spec.name)
            stay = {step.name for step in plan.steps if step.action in ("keep", "power-on")}
            record.keep(file, older=stay)
        state.if_it_fails = "'gpuvm status' shows what exists, 'gpuvm provision' continues"
        with progress.shown(events, state):
            result = lifecycle.provision(
                plan,
                session.vsphere,
                session.context,
                events,
                until=until.value,
                keep_failed=keep_failed,
            )
        host_blocks.refresh(session, wanted.name)
    if not state.json:
        show_result(result)
    again = "'gpuvm provision' continues, 'gpuvm status' shows what exists"
    further = "'gpuvm run mnist'" if until is Until.READY else "'gpuvm provision --until ready'"
    next_step = again if result.failed else further
    output.finish(
        ctx,
        output.Result("provision", result_json(result), result.exit_code, result.errors, next_step),
    )


def _ensure_snapshot(session: Session, wanted: ClusterSpec, *, yes: bool) -> None:
    """Take a snapshot of the template for linked clones, if it has none."""
    inventory = lifecycle.read_inventory(wanted, session.vsphere)
    missing = lifecycle.missing_snapshot(wanted, inventory)
    if missing is None:
        return
    template, host = missing
    if confirm(session.context, f"Take a snapshot of {template.name}?", yes=yes):
        pool = inventory.cluster.resource_pool
        lifecycle.create_snapshot(template, host, pool, session.vsphere)


def _restore_template(session: Session, plan: Plan) -> None:
    """Mark a template that a killed gpuvm left as a VM as a template again, before cloning."""
    if plan.template is not None and plan.template.unfinished:
        lifecycle.restore_template(plan.template.moref, plan.template.name, session.vsphere)


def result_json(result: ApplyResult) -> dict[str, Any]:
    """Return each VM's result for ``--json``."""
    return {
        "changed": result.changed,
        "vms": [
            {
                "vm": o.name,
                "host": o.host,
                "state": o.state,
                "changed": o.changed,
                "address": o.address,
                "gpus": o.gpus,
                "kept_after_failure": o.left,
                "error": str(o.error) if o.error else None,
                "warnings": o.warnings,
            }
            for o in result.outcomes
        ],
    }


def show_result(result: ApplyResult) -> None:
    rows = [
        (o.name, o.host, ", ".join(o.gpus) or "-", o.address or "-", o.state)
        for o in result.outcomes
    ]
    output.table(("VM", "HOST", Prose("GPU"), "ADDRESS", Prose("STATE")), rows)
    for text, vms in _warnings(result).items():
        output.warn(f"{', '.join(vms)}: {text}")
    for outcome in result.failed:
        if outcome.left:
            output.warn(f"{outcome.name} still exists; run 'gpuvm provision' again to continue")
    if not result.changed and not result.failed:
        count = len(result.outcomes)
        all_of_them = f"all {count} VMs match" if count != 1 else "the VM matches"
        output.line(f"nothing to do: {all_of_them} the spec")


def _warnings(result: ApplyResult) -> dict[str, list[str]]:
    """Return each distinct warning with its VMs."""
    vms: dict[str, list[str]] = {}
    for outcome in result.outcomes:
        for text in outcome.warnings:
            vms.setdefault(text, []).append(outcome.name)
    return vms
