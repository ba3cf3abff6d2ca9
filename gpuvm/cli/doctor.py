"""gpuvm doctor: whether a vCenter has what gpuvm needs, and what to do where it has not."""

import typer

from gpuvm import accelerators, doctor, permissions, spec
from gpuvm.cli import output, wish
from gpuvm.cli.options import (
    AcceleratorOption,
    ClusterOption,
    ContextOption,
    DatastoreOption,
    DebugOption,
    FileOption,
    HostsOption,
    JsonOption,
    NetworkOption,
    TemplateOption,
)
from gpuvm.cli.session import open_session
from gpuvm.cli.state import State
from gpuvm.doctor import Check
from gpuvm.errors import ExitCode

MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "failure": "[bold red]failure[/]"}


def examine(
    ctx: typer.Context,
    hosts: HostsOption = None,
    accelerator: AcceleratorOption = None,
    template: TemplateOption = None,
    cluster: ClusterOption = None,
    datastore: DatastoreOption = None,
    network: NetworkOption = None,
    file: FileOption = None,
    context: ContextOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check vCenter, account, template, hosts, GPUs, network and space; change nothing.

    [bold]Examples[/]

        gpuvm doctor

        gpuvm doctor --accelerator dynamic --json

    Exit code 0: nothing stands in the way; 3: something does, and each line says what to do.
    """
    wanted = spec.load(
        file,
        hosts=hosts,
        accelerator=accelerators.parse(accelerator) if accelerator else None,
        template=template,
        cluster=cluster,
        datastore=datastore,
        network=network,
    )
    with open_session(ctx, context) as session:
        inventory = wish.read_inventory(session, wanted)
        asked = permissions.to_provision(inventory) | permissions.to_prepare_hosts(inventory)
        missing = session.vsphere.missing_privileges(asked)
        checks = doctor.examine(wanted, inventory, missing, session.context.tls.verify)
    if not ctx.ensure_object(State).json:
        for check in checks:
            _show(check)
    failed = any(check.level == "failure" for check in checks)
    code = ExitCode.PREFLIGHT_REFUSED if failed else ExitCode.DONE
    data = {"checks": [vars(check) for check in checks]}
    output.finish(ctx, output.Result("doctor", data, code))


def _show(check: Check) -> None:
    output.marked(MARKS[check.level], f"{check.name}: {check.text}", check.hint)
