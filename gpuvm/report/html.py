"""write_html(): a self-contained page without external references.

The records are not trusted: every value is escaped, and has no control characters (``_shown``).
"""

import base64
from collections.abc import Callable
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
    times,
    when,
)
from gpuvm.report.gallery import gallery
from gpuvm.report.model import SHUFFLED, ReportData
from gpuvm.report.scores import media_type
from gpuvm.report.tiles import tiles
from gpuvm.report.usage_charts import gpu_names, usage_figures
from gpuvm.text import visible

_TEXTS: dict[str, Callable[[float], str]] = {
    "duration": duration,
    "energy": energy,
    "figure": figure,
    "milliseconds": milliseconds,
    "number": number,
}


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
        "milliseconds": milliseconds,
        "number": number,
        "times": times,
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
