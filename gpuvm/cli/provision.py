"""gpuvm provision: VMs with GPUs, ready over SSH."""

import contextlib
import enum
from typing import Annotated, Any

import typer

from gpuvm import accelerators, lifecycle, spec
from gpuvm.cli import host_blocks, output, progress, spec_options
from gpuvm.cli.options import (
    AcceleratorOption,
    CloneModeOption,
    ClusterOption,
    ContextOption,
    DatastoreOption,
    DebugOption,
    FileOption,
    HostsOption,
    JsonOption,
    NameOption,
    NetworkOption,
    PerHostOption,
    PlacementOption,
    ScaleDownOption,
    TemplateOption,
    YesOption,
)
from gpuvm.cli.output import State
from gpuvm.cli.session import confirm, open_session
from gpuvm.events import Events
from gpuvm.lifecycle import ApplyResult, Recorder


class Until(enum.StrEnum):
    POWERED_ON = "powered-on"
    ADDRESS = "address"
    READY = "ready"


UntilOption = Annotated[Until, typer.Option("--until", help="How far to take each VM.")]


def provision(
    ctx: typer.Context,
    hosts: HostsOption = None,
    per_host: PerHostOption = None,
    accelerator: AcceleratorOption = None,
    placement: PlacementOption = None,
    clone_mode: CloneModeOption = None,
    scale_down: ScaleDownOption = False,
    yes: YesOption = False,
    until: UntilOption = Until.READY,
    keep_failed: Annotated[
        bool, typer.Option("--keep-failed", help="Keep VMs that failed, to look at them.")
    ] = False,
    create_snapshot: Annotated[
        bool,
        typer.Option(
            "--create-snapshot", help="Make the template's snapshot for linked clones, if none is."
        ),
    ] = False,
    file: FileOption = None,
    name: NameOption = None,
    template: TemplateOption = None,
    cluster: ClusterOption = None,
    datastore: DatastoreOption = None,
    network: NetworkOption = None,
    context: ContextOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Clone VMs onto the hosts, give each its GPU and wait until they are ready.

    [bold]Examples[/]

        gpuvm provision --hosts 4

        gpuvm provision --hosts 4 --name cpu --accelerator none

        gpuvm provision --hosts 2 --scale-down --yes

        gpuvm provision -f gpuvm.yaml --until powered-on

    Running it again with the same spec changes nothing and says so.
    """
    wanted = spec.load(
        file,
        name=name,
        hosts=hosts,
        per_host=per_host,
        accelerator=accelerators.parse(accelerator) if accelerator else None,
        placement=placement,
        clone_mode=clone_mode,
        template=template,
        cluster=cluster,
        datastore=datastore,
        network=network,
    )
    state = ctx.ensure_object(State)
    record = Recorder()
    events = Events(record)
    with open_session(ctx, context) as session, contextlib.closing(record):
        if create_snapshot:
            spec_options.ensure_snapshot(session, wanted, yes=yes)
        with events.phase("plan"):
            plan = lifecycle.make_plan(wanted, session.vsphere, scale_down=scale_down)
        if not state.json:
            spec_options.show_plan(plan)
        if plan.changes:
            if not confirm(session.context, "Go on?", yes=yes):
                output.declined(ctx, "provision")
                return
            spec_options.restore_template(session, plan)
            record.keep(lifecycle.provisioning_record(plan.vcenter.instance_uuid, plan.spec.name))
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
    errors = tuple(o.error for o in result.outcomes if o.error is not None)
    output.finish(ctx, output.Result("provision", result_json(result), result.exit_code, errors))


def result_json(result: ApplyResult) -> dict[str, Any]:
    """The outcome of each VM as ``--json`` has it."""
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
    output.table(("VM", "HOST", "GPU", "ADDRESS", "STATE"), rows)
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
    """Each text once, with the VMs that gave it."""
    told: dict[str, list[str]] = {}
    for outcome in result.outcomes:
        for text in outcome.warnings:
            told.setdefault(text, []).append(outcome.name)
    return told
