"""gpuvm run: a workload on one VM, or distributed over all of them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gpuvm import data as data_files
from gpuvm import lifecycle, report, results, spec, workload
from gpuvm.cli import output, summary, sweeping, wish
from gpuvm.cli.follow import Follower
from gpuvm.cli.options import (
    ContextOption,
    DebugOption,
    FileOption,
    JsonOption,
    NameOption,
)
from gpuvm.cli.session import Session, open_session
from gpuvm.cli.state import State
from gpuvm.errors import BadInput, NotFound, PreflightRefused
from gpuvm.events import Events
from gpuvm.inventory import VM, Inventory
from gpuvm.lifecycle import endpoint
from gpuvm.report import ReportData
from gpuvm.settings import Context
from gpuvm.spec import ClusterSpec
from gpuvm.workload import Member


def run(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(help="A shipped workload, or the path of your own.", metavar="WORKLOAD")
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="After --: for the workload.", metavar="[-- ARGS]...")
    ] = None,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="One run over all VMs together.")
    ] = False,
    sweep: Annotated[
        bool,
        typer.Option("--sweep", help="style: the grid of weights, shared out over all VMs."),
    ] = False,
    vms: Annotated[
        list[str] | None,
        typer.Option("--vm", help="Only on this VM; may be repeated.", metavar="NAME"),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(help="Go on from this run's last checkpoint.", metavar="RUN-ID"),
    ] = None,
    file: FileOption = None,
    deployment: NameOption = None,
    context: ContextOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Push a workload, run it, follow it live, and fetch its logs and timings.

    [bold]Examples[/]

        gpuvm run captioning --distributed

        gpuvm run captioning --vm gpuvm-01 -- --steps 200

        gpuvm run style --sweep

        gpuvm run stock -- --data @./data_stocks.csv

        gpuvm run ./mine.py -- --learning-rate 0.01

    Without --distributed it runs on the first VM. Results go to runs/RUN-ID/.
    """
    chosen = workload.find(name)
    arguments, distributed = sweeping.prepared(
        chosen, arguments or [], sweep=sweep, distributed=distributed
    )
    wanted = spec.load(file, name=deployment)
    before = results.load(resume) if resume else None
    with open_session(ctx, context) as session:
        _require_key(session.context)
        inventory = wish.read_inventory(session, wanted, asking=())
        members = _members(session, inventory, wanted, vms, distributed=distributed)
    arguments, inputs = _with_data(arguments)
    record = _record(chosen.name, arguments, inventory, wanted, members, distributed=distributed)
    state = ctx.ensure_object(State)
    if not state.json:
        where = ", ".join(member.vm.name for member in members)
        output.line(f"run {record.run_id}: {chosen.name} on {where}")
    events = Events(record.sink)
    with Follower(events, state) as follower:
        workload.run(
            chosen,
            arguments,
            members,
            distributed=distributed,
            guest=session.context.guest,
            distribution=wanted.distributed,
            record=record,
            events=events,
            resume=before,
            inputs=inputs,
            on_step=follower.step,
        )
    if sweep:
        events.note(f"contact sheet: {sweeping.gather(chosen, record)}")
    data = report.build([record.dir])
    if not state.json:
        _show(record, data)
    output.finish(ctx, output.Result("run", _described(record, data)))


def _with_data(arguments: Sequence[str]) -> tuple[list[str], dict[str, Path]]:
    """Arguments such as @vgg19 as the guests will have them, and the files to push for them."""
    inputs, replaced = {}, []
    for argument in arguments:
        file = data_files.resolve(argument)
        if file is not None:
            place = f"{data_files.content(file)}/{file.name}"
            inputs[place] = file
            replaced.append(f"{workload.DATA}/{place}")
        else:
            replaced.append(argument)
    return replaced, inputs


def _require_key(context: Context) -> None:
    if not context.key_file.exists() and "SSH_AUTH_SOCK" not in os.environ:
        raise PreflightRefused(
            f"no SSH key for these guests: {context.key_file} does not exist and no ssh-agent runs",
            hint="run from the machine that provisioned, or add your public key to "
            "ssh.authorized_keys in the context before the VMs are made",
        )


def _record(
    name: str,
    args: Sequence[str],
    inventory: Inventory,
    wanted: ClusterSpec,
    members: Sequence[Member],
    *,
    distributed: bool,
) -> results.Run:
    vcenter = inventory.vcenter
    return results.create(
        workload=name,
        args=args,
        distributed=distributed,
        vcenter=vcenter,
        cluster=inventory.cluster.name,
        deployment=wanted.name,
        vms=[_run_vm(m, i, distributed=distributed) for i, m in enumerate(members)],
        provisioning=lifecycle.provisioning_record(vcenter.instance_uuid, wanted.name),
    )


def _members(
    session: Session,
    inventory: Inventory,
    wanted: ClusterSpec,
    names: Sequence[str] | None,
    *,
    distributed: bool,
) -> list[Member]:
    running = [vm for vm in inventory.ours(wanted.name) if vm.powered_on and vm.address]
    if not running:
        raise PreflightRefused(
            f"no VM of '{wanted.name}' is running", hint="gpuvm provision --hosts N makes some"
        )
    chosen = _named(running, names) if names else running if distributed else running[:1]
    if distributed and len(chosen) < 2:
        raise BadInput("--distributed needs at least two VMs", hint="gpuvm provision --hosts 2")
    return [
        Member(
            endpoint=endpoint(vm, session.context),
            vm=vm,
            gpus=tuple(gpu for gpu in inventory.gpus if vm.has(gpu)),
        )
        for vm in chosen
    ]


def _run_vm(member: Member, position: int, *, distributed: bool) -> results.RunVM:
    role: Literal["chief", "worker", "single"] = "single"
    if distributed:
        role = "worker" if position else "chief"
    return results.RunVM(
        name=member.name,
        index=member.vm.index or 0,
        host=member.vm.host,
        address=member.endpoint.address,
        role=role,
        accelerator=member.vm.accelerator,
        gpus=tuple(
            results.RunGPU(
                pci_address=gpu.pci_address,
                model=gpu.name,
                vendor_id=gpu.vendor_id,
                device_id=gpu.device_id,
            )
            for gpu in member.gpus
        ),
    )


def _named(running: Sequence[VM], names: Sequence[str]) -> list[VM]:
    by_name = {vm.name: vm for vm in running}
    for name in names:
        if name not in by_name:
            raise NotFound("running VM", name, sorted(by_name))
    return [by_name[name] for name in dict.fromkeys(names)]


def _show(record: results.Run, data: ReportData) -> None:
    output.stdout.print(summary.of(data))
    output.line(f"results: {record.dir}")


def _described(record: results.Run, data: ReportData) -> dict[str, Any]:
    return {
        "run_id": record.run_id,
        "dir": str(record.dir),
        "status": record.manifest.status,
        "scores": {score.name: score.value for run in data.runs for score in run.scores},
    }
