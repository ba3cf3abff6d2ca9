"""gpuvm plan: shows what provision would do."""

import typer

from gpuvm import lifecycle
from gpuvm.cli import output, plan_output
from gpuvm.cli.options import ScaleDownOption, SpecOptions, grouped
from gpuvm.cli.output import State
from gpuvm.cli.session import open_session
from gpuvm.errors import ExitCode
from gpuvm.text import counted


@grouped
def plan(
    ctx: typer.Context,
    *,
    options: SpecOptions,
    scale_down: ScaleDownOption = False,
) -> None:
    """Show what provision would do; change nothing.

    [bold]Examples[/]

        gpuvm plan --hosts 4

        gpuvm plan --hosts 4 --per-host 4 --accelerator vgpu:grid_p100-4q

        gpuvm plan --hosts 2 --scale-down --json

    Exit code 0: nothing to do; 10: changes pending; 3: not possible, with the reason.
    """
    wanted = options.spec()
    ctx.ensure_object(State).if_it_fails = "'gpuvm doctor' shows what stands in the way"
    with open_session(ctx, options.context, wanted.context) as session:
        made = lifecycle.make_plan(wanted, session.vsphere, scale_down=scale_down)
    if not ctx.ensure_object(State).json:
        plan_output.show_plan(made)
        pending = len(made.changes)
        output.line(f"{counted(pending, 'change')} pending" if pending else "nothing to do")
    code = ExitCode.CHANGES_PENDING if made.changes else ExitCode.DONE
    next_step = "'gpuvm provision'" if made.changes else "'gpuvm run mnist'"
    data = plan_output.plan_json(made)
    output.finish(ctx, output.Result("plan", data, code, next_step=next_step))
