"""write_html(): a self-contained page without external references.

The records are not trusted: every value is escaped, and has no control characters (``_shown``).
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from gpuvm.errors import BadInput
from gpuvm.files import write_atomic
from gpuvm.paths import resource
from gpuvm.report.charts import loss_figures, rate_figures, timeline_figures
from gpuvm.report.comparison import Comparison, compare
from gpuvm.report.format import (
    data_size,
    duration,
    energy,
    figure,
    milliseconds,
    number,
    percent,
    when,
)
from gpuvm.report.gallery import gallery
from gpuvm.report.model import SHUFFLED, ReportData, RunReport
from gpuvm.report.scores import media_type
from gpuvm.report.usage_charts import gpu_names, usage_figures
from gpuvm.text import counted, visible

_TEXTS: dict[str, Callable[[float], str]] = {
    "duration": duration,
    "energy": energy,
    "figure": figure,
    "milliseconds": milliseconds,
    "number": number,
}


@dataclass(frozen=True)
class Tile:
    """A key figure at the top of the page."""

    label: str
    value: str
    aside: str = ""


def write_html(data: ReportData, path: Path) -> None:
    """Writes the page, or leaves an earlier one at ``path`` unchanged."""
    template = _environment().get_template("report.html.j2")
    title = ", ".join(run.run_id for run in data.runs) or "no run"
    page = template.render(
        data=data,
        shuffled=SHUFFLED,
        title=title,
        comparison=_comparison(data),
        gallery=gallery(data.runs),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page, 0o644)


def _comparison(data: ReportData) -> Comparison | None:
    """None for one run, and for runs that cannot be compared."""
    try:
        return compare(data.runs) if len(data.runs) > 1 else None
    except BadInput:
        return None


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resource("templates")),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": duration,
        "data_size": data_size,
        "energy": energy,
        "percent": percent,
        "gpu_names": gpu_names,
        "gpu_charts": usage_figures,
        "rates": rate_figures,
        "figure": figure,
        "number": number,
        "when": when,
        "picture": picture,
        "tiles": tiles,
        "spread": lambda found, text: "—" if found is None else found.shown(_TEXTS[text]),
        "timelines": timeline_figures,
        "losses": loss_figures,
    }
    return environment


def _shown(value: Any) -> Any:
    """What the template prints, before it is escaped; ``Markup`` is the page's own."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def picture(image: Path) -> Markup:
    """The file as a ``data:`` URI."""
    data = image.read_bytes()
    encoded = base64.b64encode(data).decode()
    return Markup(f"data:{media_type(data)};base64,{encoded}")  # noqa: S704 - base64


def tiles(run: RunReport) -> Sequence[Tile]:
    """The main scores, run time, rate and loss, as far as they are recorded."""
    scores = [
        Tile(
            " ".join(filter(None, (s.title, s.decoder))),
            figure(s.value),
            "" if s.shuffled is None else f"images shuffled: {figure(s.shuffled)}",
        )
        for s in run.main_scores
    ]
    return [*scores, *_time(run), *_rate(run), *_loss(run), *_gpus(run)]


def _time(run: RunReport) -> list[Tile]:
    if run.seconds is None:
        return []
    vms = counted(len(run.vms), "VM")
    return [Tile("Run time", duration(run.seconds), f"on {vms}")]


def _rate(run: RunReport) -> list[Tile]:
    rates = [r for vm in run.vms if (r := vm.examples_per_second) is not None]
    if not rates:
        return []
    low, high = number(min(rates)), number(max(rates))
    return [Tile("Examples/s", low if low == high else f"{low} to {high}", "median of each VM")]


def _gpus(run: RunReport) -> list[Tile]:
    """Energy as far as it may be computed."""
    if run.energy_wh is None:
        return []
    busy = [gpu.utilization for gpu in run.gpu_usage if gpu.utilization is not None]
    aside = f"utilisation {percent(sum(busy) / len(busy))}" if busy else ""
    return [Tile("GPU energy", energy(run.energy_wh), aside)]


def _loss(run: RunReport) -> list[Tile]:
    """Of the contract's phase ``train``, or the first loss that TensorBoard would show."""
    train = [
        curve
        for curve in run.curves
        if curve.points
        and (curve.phase == "train" if curve.series is None else "loss" in curve.phase)
    ]
    if not train:
        return []
    (first, began), (last, ended) = train[0].points[0], train[0].points[-1]
    label = "Training loss" if train[0].series is None else f"{train[0].phase}, {train[0].series}"
    return [Tile(label, number(ended), f"step {last}; {number(began)} at step {first}")]
