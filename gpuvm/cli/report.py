"""gpuvm report: a run's timings, losses and captions, on the terminal and as one HTML file."""

from pathlib import Path
from typing import Annotated

import typer

from gpuvm import report as reports
from gpuvm import results
from gpuvm.cli import output, run_summary
from gpuvm.cli.options import DebugOption, JsonOption
from gpuvm.cli.output import State


def report(
    ctx: typer.Context,
    run_id: Annotated[
        str | None, typer.Argument(help="The latest run when left out.", metavar="[RUN-ID]")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Where the page goes; report.html in the run's folder by default."),
    ] = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show a run: phases, rates per VM, losses, scores, samples; write one HTML file.

    [bold]Examples[/]

        gpuvm report

        gpuvm report captioning-20261124-013000-ab12 --html /tmp/report.html

    It reads the run's records only, so it also works long after the VMs are gone.
    """
    record = results.load(run_id)
    data = reports.build([record.dir])
    page = html or record.dir / "report.html"
    reports.write_html(data, page)
    if not ctx.ensure_object(State).json:
        output.stdout.print(run_summary.of(data))
        output.line(f"report: {page}")
    shown = run_summary.as_json(data) | {"html": str(page)}
    output.finish(ctx, output.Result("report", shown))
