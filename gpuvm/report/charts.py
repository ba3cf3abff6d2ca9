"""The charts of a report, as inline SVG in the colours and the font of the page.

matplotlib draws with placeholder colours, which are replaced by CSS variables, so that one drawing
works in light and dark mode. Each chart is drawn wide and narrow, since an SVG scaled down to a
phone is not legible; the page shows the one that fits.
"""

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from gpuvm.report.format import duration, number
from gpuvm.report.model import Curve, Group, RunReport, Span
from gpuvm.report.phases import title
from gpuvm.text import one_line, visible

SERIES = 8
"""The number of colours that the page defines, --s1 to --s8."""

_INK, _GRID, _QUIET, _ON_BAR = "#010203", "#010204", "#010205", "#010206"
_VARIABLES = {
    _INK: "var(--ink-soft)",
    _GRID: "var(--line)",
    _QUIET: "var(--quiet)",
    _ON_BAR: "var(--on-series)",
    **{f"#0102{0x10 + i:02x}": f"var(--s{i})" for i in range(1, SERIES + 1)},
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GRID,
    "axes.linewidth": 0.8,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
}
_STEPS = (1, 2, 5, 10)
_CHARACTER_IN = 0.078
"""The width of a character at this font size, rounded up."""


def colour(position: int) -> str:
    """The placeholder of the page's colour ``--s1``, ``--s2``, …"""
    return f"#0102{0x10 + 1 + position % SERIES:02x}"


def timeline(
    spans: Sequence[Span],
    lanes: Sequence[str | None],
    colours: dict[str, int],
    alt: str,
    *,
    chart_id: str,
    width_in: float,
) -> str:
    """A lane for each VM (None: the whole run), a bar for each phase; seconds since the first.

    A phase without an end is a dashed outline up to the last record.
    """
    labels = [_shorten(lane or "all", width_in) for lane in lanes]
    zero = min(span.start for span in spans)
    length = max(1e-3, *(span.until - zero for span in spans))
    left = 0.12 + _CHARACTER_IN * max(len(label) for label in labels)
    height = 0.30 * len(lanes) + 0.5
    with mpl.rc_context({**_STYLE, "svg.hashsalt": chart_id}):
        figure = Figure(figsize=(width_in, height))
        axes = figure.add_axes(
            (left / width_in, 0.46 / height, 1 - (left + 0.12) / width_in, 1 - 0.5 / height)
        )
        axes.set_xlim(0, length * 1.005)
        axes.set_ylim(len(lanes) - 0.5, -0.5)
        axes.set_yticks(range(len(lanes)), labels)
        axes.xaxis.set_major_locator(MaxNLocator(8 if width_in > 5 else 4, steps=_STEPS))
        axes.set_xlabel("seconds")
        _style_axes(axes, grid="x")
        shades = {name: colour(position) for name, position in colours.items()}
        per_inch = length / (width_in - left - 0.12)
        for span in spans:
            _bar(axes, span, lanes.index(span.vm), shades[span.name], zero=zero, per_inch=per_inch)
        return _inline(figure, chart_id, alt)


def losses(
    curves: Sequence[Curve],
    colours: dict[str, int | None],
    alt: str,
    *,
    chart_id: str,
    width_in: float,
) -> str:
    """The curves of one phase; ``colours`` are by label, None if there are too many."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": chart_id}):
        height = 2.9 if width_in > 5 else 2.4
        figure = Figure(figsize=(width_in, height))
        axes = figure.add_axes(
            (0.5 / width_in, 0.5 / height, 1 - 0.62 / width_in, 1 - 0.6 / height)
        )
        for curve in reversed(curves):  # the first, the chief, is drawn on top
            position = colours[curve.label]
            shade = _QUIET if position is None else colour(position)
            steps, values = zip(*curve.points, strict=True)
            marker = "o" if len(steps) < 3 else ""
            axes.plot(steps, values, color=shade, linewidth=1.6, marker=marker, markersize=4)
        if _needs_log([value for curve in curves for _, value in curve.points]):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: number(value))
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
        axes.xaxis.set_major_locator(
            MaxNLocator(8 if width_in > 5 else 4, steps=_STEPS, integer=True)
        )
        axes.set_xlabel("step")
        _style_axes(axes, grid="y")
        return _inline(figure, chart_id, alt)


def _bar(axes: Axes, span: Span, lane: int, shade: str, *, zero: float, per_inch: float) -> None:
    """``per_inch``: seconds per inch of the axis; a bar has a minimum width."""
    start = span.start - zero
    length = max(span.until - span.start, 0.025 * per_inch)
    if span.seconds is None:
        look: dict[str, Any] = {"facecolor": "none", "edgecolor": shade, "linestyle": "--"}
    elif span.ok:
        look = {"color": shade}
    else:
        look = {"facecolor": shade, "edgecolor": _ON_BAR, "hatch": "////"}
    axes.barh(lane, length, 0.62, left=start, **look)
    text = one_line(f"{title(span.name, span.group).lower()} {_short(span.seconds)}")
    available = length / per_inch - 0.1
    if _CHARACTER_IN * len(text) > available:
        text = _short(span.seconds)
    if text and _CHARACTER_IN * len(text) <= available:
        ink = _INK if span.seconds is None else _ON_BAR
        axes.text(start + length / 2, lane, text, color=ink, ha="center", va="center", fontsize=8.5)


def _short(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"


def _shorten(name: str, width_in: float) -> str:
    """Shortens a VM's name at its start, which is the same in a deployment."""
    name, longest = one_line(name), 28 if width_in > 5 else 12
    return name if len(name) <= longest else "…" + name[-(longest - 1) :]


def _style_axes(axes: Axes, grid: str) -> None:
    axes.set_axisbelow(True)
    axes.grid(axis="x" if grid == "x" else "y")
    for side in ("top", "right", "left" if grid == "x" else "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_visible(grid == "y")
    axes.spines["left"].set_visible(False)


def _needs_log(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) > 200


def _inline(figure: Figure, chart_id: str, alt: str) -> str:
    """The drawing as an element of an HTML page, with unique ids and the page's style."""
    out = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings():
        # The page's fonts draw the names, and not matplotlib's own, which lacks some characters.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(out, format="svg", transparent=True, metadata=no_metadata)
    svg = out.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]*>", lambda tag: _of_the_page(tag[0], chart_id), svg)  # not the labels
    box = re.search(r'viewBox="([^"]+)"', svg)
    opening = (
        f'<svg viewBox="{box[1] if box else ""}" role="img" aria-label="{escape(visible(alt))}" '
        'preserveAspectRatio="xMinYMin meet">'
    )
    return (opening + svg[svg.index(">") + 1 :]).strip()


def _of_the_page(tag: str, chart_id: str) -> str:
    """The tag with ids of its own, and the page's font and colours."""
    tag = re.sub(r'\bid="', f'id="{chart_id}-', tag)
    tag = tag.replace("url(#", f"url(#{chart_id}-").replace('xlink:href="#', f'href="#{chart_id}-')
    tag = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--sans)", tag)  # up to 3.10
    tag = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", tag)
    for placeholder, variable in _VARIABLES.items():
        tag = tag.replace(placeholder, variable)
    return tag


_WIDE_IN, _NARROW_IN = 9.6, 3.7
_MAX_COLOURED = 6
"""With more lines in a chart, only the chief's is coloured."""

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
    phases = dict.fromkeys(curve.phase for curve in run.curves if curve.points)
    ordered = sorted(phases, key=lambda phase: phase != "train")
    return tuple(_losses(run, phase, f"r{position}-l{i}") for i, phase in enumerate(ordered))


def _timeline(run: RunReport, group: Group, chart_id: str) -> Chart:
    spans = [span for span in run.spans if span.group == group]
    rows = [row for row in run.phases if row.group == group]
    colours = {row.name: position for position, row in enumerate(rows)}
    heading, about = _GROUPS[group]
    alt = f"{heading}: " + "; ".join(
        f"{row.title} {'not finished' if row.overall_s is None else duration(row.overall_s)}"
        for row in rows
    )
    lanes = _lanes(run, spans)
    wide, narrow = (
        Markup(  # noqa: S704 - matplotlib escapes what it draws
            timeline(
                spans,
                lanes,
                colours,
                alt,
                chart_id=f"{chart_id}-{kind}",
                width_in=width,
            )
        )
        for kind, width in (("w", _WIDE_IN), ("n", _NARROW_IN))
    )
    legend = tuple(Legend(row.title, _variable(colours[row.name])) for row in rows)
    return Chart(heading, about, alt, legend, wide, narrow)


def _lanes(run: RunReport, spans: Sequence[Span]) -> list[str | None]:
    present = {span.vm for span in spans}
    known: list[str | None] = [vm.name for vm in run.vms if vm.name in present]
    others = sorted({vm for vm in present if vm is not None} - set(known))
    return [*([None] if None in present else []), *known, *others]


def _losses(run: RunReport, phase: str, chart_id: str) -> Chart:
    curves = [curve for curve in run.curves if curve.phase == phase and curve.points]
    coloured = len(curves) <= _MAX_COLOURED
    colours = {c.label: i if coloured or i == 0 else None for i, c in enumerate(curves)}
    alt = _curve_label(curves[0])
    wide, narrow = (
        Markup(  # noqa: S704 - matplotlib escapes what it draws
            losses(curves, colours, alt, chart_id=f"{chart_id}-{kind}", width_in=width)
        )
        for kind, width in (("w", _WIDE_IN), ("n", _NARROW_IN))
    )
    heading = phase if curves[0].series is not None else title(phase)
    return Chart(heading, alt, alt, _loss_legend(curves, colours), wide, narrow)


def _loss_legend(curves: Sequence[Curve], colours: dict[str, int | None]) -> tuple[Legend, ...]:
    known = [Legend(label, _variable(i)) for label, i in colours.items() if i is not None]
    rest = len(curves) - len(known)
    return (*known, *([Legend(f"{rest} more", "var(--quiet)")] if rest else []))


def _curve_label(curve: Curve) -> str:
    (first, began), (last, ended) = curve.points[0], curve.points[-1]
    what = f"{curve.label}: {curve.what}"
    label = f"{what} {number(began)} at step {first}, {number(ended)} at step {last}"
    if curve.diverged_at is not None:
        return f"{label}; not a number from step {curve.diverged_at} on"
    return label


def _variable(position: int) -> str:
    return f"var(--s{1 + position % SERIES})"
