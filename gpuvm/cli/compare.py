"""gpuvm compare: runs of one workload side by side, and their speed-up."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from gpuvm import report as reports
from gpuvm import results, runs
from gpuvm.cli import completion, output
from gpuvm.cli.options import DebugOption, JsonOption
from gpuvm.cli.output import State
from gpuvm.errors import NotFound
from gpuvm.report import Comparison, Ratio, Side, Spread
from gpuvm.report.format import duration, energy, figure, milliseconds
from gpuvm.runs import Reference


def compare(
    ctx: typer.Context,
    run_ids: Annotated[
        list[str],
        typer.Argument(
            help="Runs of one workload, by id or prefix.",
            metavar="RUN...",
            autocompletion=completion.runs,
        ),
    ],
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare runs of one workload: times, speed-up, scores, and different settings.

    [bold]Examples[/]

        gpuvm compare stock-20261124-013000-ab12 stock-20261124-014500-cd34

        gpuvm compare captioning-20261124-01 captioning-20261124-02 --json

    Runs with the same settings count as repeats of one side. A speed-up is computed only from runs
    that used the requested device. It reads the runs' records only, and needs no vCenter.
    """
    finish(ctx, "compare", [results.load(run_id) for run_id in run_ids])


def finish(ctx: typer.Context, command: str, records: Sequence[results.Run]) -> None:
    """Compare the runs, print the result and end the command. Raises BadInput."""
    found = reports.compare(reports.build([record.dir for record in records]).runs)
    references = _references(found.workload)
    if not ctx.ensure_object(State).json:
        _print_comparison(found, references)
    data = dataclasses.asdict(found)
    data["references"] = [one.model_dump() for one in references]
    output.finish(ctx, output.Result(command, data))


def _references(workload: str) -> Sequence[Reference]:
    try:
        return runs.find(workload).declaration.references
    except NotFound:  # the user's own program
        return ()


def _print_comparison(found: Comparison, references: Sequence[Reference]) -> None:
    if found.note:
        output.warn(found.note)
    ratios = {ratio.side: ratio for ratio in found.ratios}
    columns: dict[str, Callable[[Side], str]] = {
        "SIDE": lambda side: side.name,
        "RUNS": lambda side: str(len(side.runs)),
        "VMS": lambda side: str(side.vms),
        "WHOLE RUN": lambda side: _shown(side.whole, duration),
        "STEP": lambda side: _shown(side.step, milliseconds),
        "EXAMPLES/S": lambda side: _shown(side.examples_per_second, lambda rate: f"{rate:.0f}"),
        "GPU ENERGY": lambda side: _shown(side.energy_wh, energy),
        "SPEED-UP": lambda side: _speed_up(ratios.get(side.name)),
        "TIME SAVED": lambda side: _saved(ratios.get(side.name)),
    }
    cells = {title: [cell(side) for side in found.sides] for title, cell in columns.items()}
    known = {title: column for title, column in cells.items() if set(column) != {"-"}}
    output.table(list(known), list(zip(*known.values(), strict=True)))
    for ratio in found.ratios:
        for line in ratio.remarks:
            output.line(f"{ratio.side}: {line}")
    for side in found.sides:
        if side.energy_note:
            output.line(f"{side.name}: no GPU energy: {side.energy_note}")
    if any(side.scores for side in found.sides):
        titles = list(dict.fromkeys(title for side in found.sides for title, _ in side.scores))
        scores = [
            (title, *(_shown(dict(side.scores).get(title), figure) for side in found.sides))
            for title in titles
        ]
        output.table(("SCORE", *(side.name for side in found.sides)), scores)
    if found.equal:
        output.line(f"equal: {'; '.join(found.equal)}")
    for line in found.different:
        output.line(f"not equal: {line}")
    for one in references:
        output.line(f"for reference, not measured here: {one.text} ({one.source})")


def _speed_up(ratio: Ratio | None) -> str:
    if ratio is None:
        return "baseline"
    return "not computed" if ratio.speed_up is None else f"{ratio.speed_up:.2f}x"


def _saved(ratio: Ratio | None) -> str:
    return "-" if ratio is None or ratio.saved is None else f"{ratio.saved:.0f} %"


def _shown(spread: Spread | None, text: Callable[[float], str]) -> str:
    return "-" if spread is None else spread.shown(text)
