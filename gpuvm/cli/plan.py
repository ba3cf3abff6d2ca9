"""gpuvm plan: what provision would do, and nothing done."""

import typer

from gpuvm import accelerators, lifecycle, spec
from gpuvm.cli import output, spec_options
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
)
from gpuvm.cli.output import State
from gpuvm.cli.session import open_session
from gpuvm.errors import ExitCode


def plan(
    ctx: typer.Context,
    hosts: HostsOption = None,
    per_host: PerHostOption = None,
    accelerator: AcceleratorOption = None,
    placement: PlacementOption = None,
    clone_mode: CloneModeOption = None,
    scale_down: ScaleDownOption = False,
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
    """Show what provision would do; touch nothing.

    [bold]Examples[/]

        gpuvm plan --hosts 4

        gpuvm plan --hosts 4 --per-host 4 --accelerator vgpu:grid_p100-4q

        gpuvm plan --hosts 2 --scale-down --json

    Exit code 0: nothing to do; 10: changes pending; 3: it cannot be done, and why.
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
    with open_session(ctx, context) as session:
        made = lifecycle.make_plan(wanted, session.vsphere, scale_down=scale_down)
    if not ctx.ensure_object(State).json:
        spec_options.show_plan(made)
        output.line("nothing to do" if not made.changes else f"{len(made.changes)} changes pending")
    code = ExitCode.CHANGES_PENDING if made.changes else ExitCode.DONE
    output.finish(ctx, output.Result("plan", spec_options.plan_json(made), code))
