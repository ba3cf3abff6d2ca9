"""The charts of a report: timelines of phases, and curves of losses.

Each chart is drawn wide and narrow, since an SVG scaled down to a phone is not legible; the page
shows the one that fits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from gpuvm.report.drawing import PAGE, Palette, inline, style_axes, variable
from gpuvm.report.format import duration, number
from gpuvm.report.model import Curve, Group, RunReport, Span
from gpuvm.report.phases import title
from gpuvm.text import one_line

STEPS = (1, 2, 5, 10)
_CHARACTER_IN = 0.078
"""The width of a character at this font size, rounded up."""
WIDE_IN, NARROW_IN = 9.6, 3.7
MAX_COLOURED = 6
"""With more lines in a chart, only the chief's is coloured."""


def draw_timeline(
    axes: Axes,
    spans: Sequence[Span],
    lanes: Sequence[str | None],
    colours: dict[str, int],
    palette: Palette,
    *,
    width_in: float,
) -> None:
    """A lane for each VM (None: the whole run), a bar for each phase; seconds since the first.

    A phase without an end is a dashed outline up to the last record. ``width_in`` is that of the
    axes.
    """
    zero = min(span.start for span in spans)
    length = max(1e-3, *(span.until - zero for span in spans))
    axes.set_xlim(0, length * 1.005)
    axes.set_ylim(len(lanes) - 0.5, -0.5)
    axes.set_yticks(range(len(lanes)), lane_labels(lanes, width_in))
    axes.xaxis.set_major_locator(MaxNLocator(8 if width_in > 4 else 4, steps=STEPS))
    axes.set_xlabel("seconds")
    style_axes(axes, grid="x")
    for span in spans:
        shade, lane = palette.colour(colours[span.name]), lanes.index(span.vm)
        _bar(axes, span, lane, shade, palette, zero=zero, per_inch=length / width_in)


def lane_labels(lanes: Sequence[str | None], width_in: float) -> list[str]:
    return [_shorten(lane or "all", width_in) for lane in lanes]


def label_width_in(labels: Sequence[str]) -> float:
    return 0.12 + _CHARACTER_IN * max(len(label) for label in labels)


def draw_curves(
    axes: Axes,
    curves: Sequence[Curve],
    colours: dict[str, int | None],
    palette: Palette,
    *,
    width_in: float,
) -> None:
    """The curves of one phase; ``colours`` are by label, None if there are too many."""
    for curve in reversed(curves):  # the first, the chief, is drawn on top
        shade = palette.colour(colours[curve.label])
        steps, values = zip(*curve.points, strict=True)
        marker = "o" if len(steps) < 3 else ""
        axes.plot(steps, values, color=shade, linewidth=1.6, marker=marker, markersize=4)
    if _needs_log([value for curve in curves for _, value in curve.points]):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: number(value))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    axes.xaxis.set_major_locator(MaxNLocator(8 if width_in > 4 else 4, steps=STEPS, integer=True))
    axes.set_xlabel("step")
    style_axes(axes, grid="y")


def colours_of(curves: Sequence[Curve]) -> dict[str, int | None]:
    """By label."""
    coloured = len(curves) <= MAX_COLOURED
    return {c.label: i if coloured or i == 0 else None for i, c in enumerate(curves)}


def _bar(
    axes: Axes,
    span: Span,
    lane: int,
    shade: str,
    palette: Palette,
    *,
    zero: float,
    per_inch: float,
) -> None:
    """``per_inch``: seconds per inch of the axis; a bar has a minimum width."""
    start = span.start - zero
    length = max(span.until - span.start, 0.025 * per_inch)
    if span.seconds is None:
        look: dict[str, Any] = {"facecolor": "none", "edgecolor": shade, "linestyle": "--"}
    elif span.ok:
        look = {"color": shade}
    else:
        look = {"facecolor": shade, "edgecolor": palette.on_bar, "hatch": "////"}
    axes.barh(lane, length, 0.62, left=start, **look)
    text = one_line(f"{title(span.name, span.group).lower()} {_short(span.seconds)}")
    available = length / per_inch - 0.1
    if _CHARACTER_IN * len(text) > available:
        text = _short(span.seconds)
    if text and _CHARACTER_IN * len(text) <= available:
        ink = palette.ink if span.seconds is None else palette.on_bar
        axes.text(start + length / 2, lane, text, color=ink, ha="center", va="center", fontsize=8.5)


def _short(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"


def _shorten(name: str, width_in: float) -> str:
    """Shortens a VM's name at its start, which is the same in a deployment."""
    name, longest = one_line(name), 28 if width_in > 4 else 12
    return name if len(name) <= longest else "…" + name[-(longest - 1) :]


def _needs_log(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) > 200


_GROUPS: dict[Group, tuple[str, str]] = {
    "provisioning": ("Provisioning", "From the plan until every guest was ready."),
    "run": ("Run", "gpuvm's own phases, and the program among them."),
    "workload": (
        "Inside the workload",
        "Each VM's own record since its workload started, by its own clock.",
    ),
}


@dataclass(frozen=True)
class Legend:
    """``colour`` is a CSS value."""

    label: str
    colour: str


@dataclass(frozen=True)
class Chart:
    """``alt`` describes the chart in words."""

    heading: str
    about: str
    alt: str
    legend: tuple[Legend, ...]
    wide: Markup
    narrow: Markup


def timeline_figures(run: RunReport, position: int) -> tuple[Chart, ...]:
    """A chart for each recorded group of phases; ``position`` makes ids unique in the page."""
    return tuple(
        _timeline(run, group, f"r{position}-{group}")
        for group in _GROUPS
        if any(span.group == group for span in run.spans)
    )


def loss_figures(run: RunReport, position: int) -> tuple[Chart, ...]:
    """A chart for each phase that logged losses, training first."""
    return _curve_figures(run.curves, f"r{position}-l")


def rate_figures(run: RunReport, position: int) -> tuple[Chart, ...]:
    """A chart for each phase that logged how many examples a second it computed."""
    return _curve_figures(run.rates, f"r{position}-e")


def _curve_figures(curves: Sequence[Curve], chart_id: str) -> tuple[Chart, ...]:
    by_phase: dict[str, list[Curve]] = {}
    for curve in curves:
        if curve.points:
            by_phase.setdefault(curve.phase, []).append(curve)
    ordered = sorted(by_phase, key=lambda phase: phase != "train")
    return tuple(_curves(by_phase[phase], f"{chart_id}{i}") for i, phase in enumerate(ordered))


def _timeline(run: RunReport, group: Group, chart_id: str) -> Chart:
    spans, lanes, colours = timeline_of(run, group)
    rows = [row for row in run.phases if row.group == group]
    heading, about = _GROUPS[group]
    alt = f"{heading}: " + "; ".join(
        f"{row.title} {'not finished' if row.overall_s is None else duration(row.overall_s)}"
        for row in rows
    )
    height = 0.30 * len(lanes) + 0.5

    def draw(figure: Figure, width_in: float) -> None:
        left = label_width_in(lane_labels(lanes, width_in))
        inner = width_in - left - 0.12
        box = (left / width_in, 0.46 / height, inner / width_in, 1 - 0.5 / height)
        draw_timeline(figure.add_axes(box), spans, lanes, colours, PAGE, width_in=inner)

    wide, narrow = drawn(draw, alt, chart_id, (height, height))
    legend = tuple(Legend(row.title, variable(colours[row.name])) for row in rows)
    return Chart(heading, about, alt, legend, wide, narrow)


def timeline_of(
    run: RunReport, group: Group
) -> tuple[list[Span], list[str | None], dict[str, int]]:
    """The spans of a group, its lanes, and the positions of the phases' colours."""
    spans = [span for span in run.spans if span.group == group]
    rows = [row for row in run.phases if row.group == group]
    return spans, _lanes(run, spans), {row.name: number for number, row in enumerate(rows)}


def _lanes(run: RunReport, spans: Sequence[Span]) -> list[str | None]:
    present = {span.vm for span in spans}
    known: list[str | None] = [vm.name for vm in run.vms if vm.name in present]
    others = sorted({vm for vm in present if vm is not None} - set(known))
    return [*([None] if None in present else []), *known, *others]


def _curves(curves: Sequence[Curve], chart_id: str) -> Chart:
    colours = colours_of(curves)
    alt = _curve_label(curves[0])

    def draw(figure: Figure, width_in: float) -> None:
        draw_curves(whole(figure), curves, colours, PAGE, width_in=width_in)

    wide, narrow = drawn(draw, alt, chart_id)
    heading = curves[0].phase if curves[0].series is not None else title(curves[0].phase)
    return Chart(heading, alt, alt, legend_of(colours), wide, narrow)


def whole(figure: Figure) -> Axes:
    """Axes that leave room for their labels."""
    width, height = figure.get_size_inches()
    return figure.add_axes((0.5 / width, 0.5 / height, 1 - 0.62 / width, 1 - 0.6 / height))


def drawn(
    draw: Callable[[Figure, float], None],
    alt: str,
    chart_id: str,
    heights_in: tuple[float, float] = (2.9, 2.4),
) -> tuple[Markup, Markup]:
    """The drawing in both widths, as inline SVG."""
    wide, narrow = (
        _svg(draw, alt, f"{chart_id}-{kind}", (width, height))
        for kind, width, height in zip("wn", (WIDE_IN, NARROW_IN), heights_in, strict=True)
    )
    return wide, narrow


def _svg(
    draw: Callable[[Figure, float], None], alt: str, chart_id: str, size_in: tuple[float, float]
) -> Markup:
    with PAGE.style({"svg.hashsalt": chart_id}):
        figure = Figure(figsize=size_in)
        draw(figure, size_in[0])
        return Markup(inline(figure, chart_id, alt))  # noqa: S704 - matplotlib escapes


def legend_of(colours: dict[str, int | None]) -> tuple[Legend, ...]:
    known = [Legend(label, variable(i)) for label, i in colours.items() if i is not None]
    rest = len(colours) - len(known)
    return (*known, *([Legend(f"{rest} more", variable(None))] if rest else []))


def _curve_label(curve: Curve) -> str:
    (first, began), (last, ended) = curve.points[0], curve.points[-1]
    what = f"{curve.label}: {curve.what}"
    label = f"{what} {number(began)} at step {first}, {number(ended)} at step {last}"
    if curve.diverged_at is not None:
        return f"{label}; not a number from step {curve.diverged_at} on"
    return label
