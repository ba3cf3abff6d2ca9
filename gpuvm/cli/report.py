"""gpuvm report: prints runs' timings, losses and results, and writes them to a file."""

import enum
import json as jsons
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from gpuvm import paths, results
from gpuvm import report as reports
from gpuvm.cli import completion, output, run_summary
from gpuvm.cli.options import DebugOption, JsonOption
from gpuvm.cli.output import State
from gpuvm.errors import BadInput
from gpuvm.files import write_output


class Format(enum.StrEnum):
    HTML = "html"
    MD = "md"
    JSON = "json"
    CSV = "csv"
    PNG = "png"


FILES = {Format.HTML: reports.write_html, Format.PNG: reports.write_png}
"""What is written to a file in any case, not printed."""


def report(
    ctx: typer.Context,
    run_ids: Annotated[
        list[str] | None,
        typer.Argument(
            help="Ids or prefixes; default: the latest run.",
            metavar="[RUN]...",
            autocompletion=completion.runs,
        ),
    ] = None,
    kind: Annotated[
        Format,
        typer.Option(
            "--format",
            help="png: one picture, for slides. csv: one row per logged step. md, json and csv "
            "are printed.",
        ),
    ] = Format.HTML,
    file: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            "--html",
            help="The file to write; default for html and png: in the run's folder.",
            metavar="FILE",
        ),
    ] = None,
    opened: Annotated[bool, typer.Option("--open", help="Open the page or picture.")] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show a run: phases, rates per VM, losses, scores, samples; write one HTML file.

    [bold]Examples[/]

        gpuvm report

        gpuvm report captioning-20261124-013000-ab12 --open

        gpuvm report stock-20261124-01 stock-20261124-02 -o both.html

        gpuvm report --format png -o slide.png

        gpuvm report --format md | gh issue comment 12 -F -

    It reads only the runs' records, so it still works after the VMs are destroyed.
    """
    if opened and kind not in FILES:
        raise BadInput("--open needs --format html or png")
    records = [results.load(run_id) for run_id in run_ids] if run_ids else [results.load()]
    data = reports.build([record.dir for record in records])
    if kind not in FILES:
        _write_text(ctx, data, kind, file)
        return
    several = len(records) > 1
    page = file or (paths.runs_dir() if several else records[0].dir) / f"report.{kind.value}"
    try:
        FILES[kind](data, page.absolute())
    except OSError as error:
        raise _cannot_write(page, error) from None
    if not ctx.ensure_object(State).json:
        output.stdout.print(run_summary.of(data, output.stdout.width))
        output.line(f"report: {paths.shown(page)}")
    if opened and not webbrowser.open(page.absolute().as_uri()):
        output.warn(f"found no browser; open {paths.shown(page)} yourself")
    shown = run_summary.as_json(data) | {kind.value: str(page)}
    output.finish(ctx, output.Result("report", shown))


def _write_text(
    ctx: typer.Context, data: reports.ReportData, kind: Format, file: Path | None
) -> None:
    if kind is Format.JSON:
        text = jsons.dumps(run_summary.as_json(data), indent=2) + "\n"
    else:
        text = reports.markdown(data) if kind is Format.MD else reports.steps_csv(data)
    state = ctx.ensure_object(State)
    if file is not None:
        try:
            write_output(file, text)
        except OSError as error:
            raise _cannot_write(file, error) from None
    elif not state.json:
        output.data(text)
    found = {"format": kind.value, "file": str(file) if file else None, "text": text}
    output.finish(ctx, output.Result("report", found))


def _cannot_write(file: Path, error: OSError) -> BadInput:
    return BadInput(f"cannot write {paths.shown(file)}: {error.strerror or error}")
