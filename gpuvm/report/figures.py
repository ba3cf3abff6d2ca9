"""Which charts a report shows, each drawn twice, with its legend and a sentence in its place."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from gpuvm.report import charts
from gpuvm.report.format import duration, number
from gpuvm.report.model import Curve, Group, RunReport, Span
from gpuvm.report.phases import title

_WIDE_IN, _NARROW_IN = 9.6, 3.7
_TOLD_APART = 6
"""More lines than this in a chart are drawn alike, except the chief's."""

_GROUPS: dict[Group, tuple[str, str]] = {
    "provisioning": ("Provisioning", "From the plan until every guest was ready."),
    "run": ("Run", "What gpuvm did; the workload itself ran during “train”."),
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
    """``alt`` says in words what the drawing shows."""

    heading: str
    about: str
    alt: str
    legend: tuple[Legend, ...]
    wide: Markup
    narrow: Markup


def timeline_figures(run: RunReport, position: int) -> tuple[Chart, ...]:
    """One for each group of phases that was recorded; ``position`` keeps ids apart in the page."""
    return tuple(
        _timeline(run, group, f"r{position}-{group}")
        for group in _GROUPS
        if any(span.group == group for span in run.spans)
    )


def loss_figures(run: RunReport, position: int) -> tuple[Chart, ...]:
    """One for each phase that logged losses, training first."""
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
            charts.timeline(
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
    there = {span.vm for span in spans}
    known: list[str | None] = [vm.name for vm in run.vms if vm.name in there]
    strangers = sorted({vm for vm in there if vm is not None} - set(known))
    return [*([None] if None in there else []), *known, *strangers]


def _losses(run: RunReport, phase: str, chart_id: str) -> Chart:
    curves = [curve for curve in run.curves if curve.phase == phase and curve.points]
    told_apart = len(curves) <= _TOLD_APART
    colours = {c.vm: i if told_apart or i == 0 else None for i, c in enumerate(curves)}
    alt = _told(curves[0])
    wide, narrow = (
        Markup(  # noqa: S704 - matplotlib escapes what it draws
            charts.losses(curves, colours, alt, chart_id=f"{chart_id}-{kind}", width_in=width)
        )
        for kind, width in (("w", _WIDE_IN), ("n", _NARROW_IN))
    )
    return Chart(title(phase), alt, alt, _loss_legend(curves, colours), wide, narrow)


def _loss_legend(curves: Sequence[Curve], colours: dict[str, int | None]) -> tuple[Legend, ...]:
    known = [Legend(vm, _variable(i)) for vm, i in colours.items() if i is not None]
    rest = len(curves) - len(known)
    return (*known, *([Legend(f"{rest} more", "var(--quiet)")] if rest else []))


def _told(curve: Curve) -> str:
    (first, began), (last, ended) = curve.points[0], curve.points[-1]
    told = f"{curve.vm}: loss {number(began)} at step {first}, {number(ended)} at step {last}"
    if curve.diverged_at is not None:
        return f"{told}; not a number from step {curve.diverged_at} on"
    return told


def _variable(position: int) -> str:
    return f"var(--s{1 + position % charts.SERIES})"
