"""write_png(): the first things of a report as one picture, for slides."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpuvm.files import write_atomic
from gpuvm.report.charts import (
    colours_of,
    draw_curves,
    draw_timeline,
    label_width_in,
    lane_labels,
    timeline_of,
)
from gpuvm.report.drawing import PAPER, style_axes
from gpuvm.report.format import duration, when
from gpuvm.report.model import Curve, ReportData, RunReport
from gpuvm.report.phases import title
from gpuvm.report.tiles import tiles
from gpuvm.text import counted, one_line

WIDTH_IN, HEIGHT_IN, DPI = 10.0, 5.625, 192
"""16:9, 1920 pixels wide."""
MOST_TILES, MOST_LANES, MOST_RUNS = 5, 10, 10
_LEFT_IN, _RIGHT_IN, _BOTTOM_IN, _CHARTS_TOP_IN = 0.5, 9.6, 0.75, 2.85
_CAUTION = "#7a4b00"


def write_png(data: ReportData, path: Path) -> None:
    """Key figures, curves and times of the run, or of several beside each other."""
    out = io.BytesIO()
    with PAPER.style({"font.size": 10}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in a script that the font lacks
        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), facecolor="white")
        if len(data.runs) == 1:
            _one(figure, data.runs[0])
        else:
            _several(figure, data.runs)
        figure.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, out.getvalue(), 0o644)


def _one(figure: Figure, run: RunReport) -> None:
    vms = counted(len(run.vms), "VM")
    where = f"{when(run.started)}, {vms}, {run.vcenter.name}, {run.run_id}"
    status = "no end recorded" if run.status == "running" else run.status
    _head(figure, f"{run.workload}: {status}", where, run.device_note, plain=run.device_plain)
    for number, tile in enumerate(tiles(run)[:MOST_TILES]):
        at = _LEFT_IN + number * 1.85
        _text(figure, at, 3.97, tile.label, size=9)
        _text(figure, at, 3.6, tile.value, size=17, weight="bold", colour="black")
        _text(figure, at, 3.38, tile.aside, size=7.5)
    curves = _first_phase(run.curves)
    spans, lanes, colours = timeline_of(run, "run")
    shown = lanes[:MOST_LANES]
    drawn = [span for span in spans if span.vm in shown]
    if curves and drawn:
        _curves(figure, curves, left=_LEFT_IN, right=4.85)
    elif curves:
        _curves(figure, curves, left=_LEFT_IN, right=_RIGHT_IN)
    if drawn:
        left = (5.25 if curves else _LEFT_IN) + label_width_in(lane_labels(shown, 3.0))
        axes = _axes(figure, left, _RIGHT_IN, "Time by phase")
        draw_timeline(axes, drawn, shown, colours, PAPER, width_in=_RIGHT_IN - left)
        for name, position in colours.items():
            axes.bar(0, 0, color=PAPER.colour(position), label=title(name, "run"))
        _legend(axes)


def _several(figure: Figure, runs: Sequence[RunReport]) -> None:
    """The times of the runs, and the first curve of each."""
    workloads = ", ".join(dict.fromkeys(run.workload for run in runs))
    notes = list(dict.fromkeys(run.device_note for run in runs if not run.device_plain))
    began = f"{when(min(run.started for run in runs))} and later"
    _head(
        figure, f"{workloads}: {counted(len(runs), 'run')}", began, " ".join(notes), plain=not notes
    )
    shown = runs[:MOST_RUNS]
    curves = {run.run_id: found[0] for run in shown if (found := _first_phase(run.curves))}
    left = (5.25 if curves else _LEFT_IN) + 2.1
    axes = _axes(figure, left, _RIGHT_IN, "Run time", top=3.9)
    for number, run in enumerate(shown):
        seconds = run.seconds or 0.0
        axes.barh(number, seconds, 0.62, color=PAPER.colour(number))
        axes.text(seconds, number, f" {duration(run.seconds)}", va="center", fontsize=9)
    axes.set_yticks(range(len(shown)), [one_line(run.run_id, longest=36) for run in shown])
    axes.tick_params(axis="y", labelsize=7)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(0, 1.35 * max(1e-3, *(run.seconds or 0.0 for run in shown)))
    axes.set_xlabel("seconds")
    style_axes(axes, grid="x")
    if not curves:
        return
    heading = _by_step(next(iter(curves.values())))
    beside = _axes(figure, _LEFT_IN, 4.85, heading, top=3.9)
    for number, run in enumerate(shown):
        if run.run_id in curves:
            points = curves[run.run_id].points
            beside.plot(*zip(*points, strict=True), color=PAPER.colour(number), linewidth=1.6)
    beside.set_xlabel("step")
    style_axes(beside, grid="y")


def _head(figure: Figure, heading: str, below: str, note: str, *, plain: bool) -> None:
    _text(figure, _LEFT_IN, 5.12, heading, size=20, weight="bold", colour="black", longest=60)
    _text(figure, _LEFT_IN, 4.82, below, size=9, longest=130)
    weight, shade = ("normal", PAPER.ink) if plain else ("bold", _CAUTION)
    _text(figure, _LEFT_IN, 4.47, note, size=10.5, weight=weight, colour=shade, longest=115)


def _first_phase(curves: Sequence[Curve]) -> list[Curve]:
    """Those of the phase that a report draws first."""
    drawn = [curve for curve in curves if curve.points]
    first = next((c.phase for c in drawn if c.phase == "train"), drawn[0].phase if drawn else "")
    return [curve for curve in drawn if curve.phase == first]


def _curves(figure: Figure, curves: Sequence[Curve], *, left: float, right: float) -> None:
    axes = _axes(figure, left, right, _by_step(curves[0]))
    colours = colours_of(curves)
    draw_curves(axes, curves, colours, PAPER, width_in=right - left)
    if len(curves) > 1:
        for label, position in colours.items():
            if position is not None:
                axes.plot([], [], color=PAPER.colour(position), label=label)
        _legend(axes)


def _by_step(curve: Curve) -> str:
    return f"{curve.what[:1].upper()}{curve.what[1:]} by step"


def _axes(
    figure: Figure, left: float, right: float, heading: str, top: float = _CHARTS_TOP_IN
) -> Axes:
    """Distances from the picture's left and lower edge, in inches."""
    width, height = (right - left) / WIDTH_IN, (top - _BOTTOM_IN) / HEIGHT_IN
    axes = figure.add_axes((left / WIDTH_IN, _BOTTOM_IN / HEIGHT_IN, width, height))
    axes.set_title(one_line(heading, longest=60), loc="left", fontsize=10.5, fontweight="bold")
    return axes


def _legend(axes: Axes) -> None:
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(0, -0.17),
        ncols=6,
        frameon=False,
        fontsize=7,
        handlelength=0.8,
        columnspacing=1.0,
        borderaxespad=0,
    )


def _text(
    figure: Figure,
    x_in: float,
    y_in: float,
    text: str,
    *,
    size: float,
    weight: str = "normal",
    colour: str = PAPER.ink,
    longest: int = 40,
) -> None:
    figure.text(
        x_in / WIDTH_IN,
        y_in / HEIGHT_IN,
        one_line(text, longest=longest),
        fontsize=size,
        fontweight=weight,
        color=colour,
    )
