"""An HTML file and a terminal table from a run's records alone.

data = report.build([Path("runs/captioning-20261124-013000-ab12")])
report.write_html(data, Path("report.html"))
"""

from pathlib import Path

from gpuvm.report.build import build, first_score
from gpuvm.report.comparison import Comparison, Ratio, Side, Spread, compare
from gpuvm.report.distribution_model import Distribution, WorkerTimes
from gpuvm.report.model import SHUFFLED, ReportData, RunReport, Score
from gpuvm.report.text import markdown, steps_csv

__all__ = [
    "SHUFFLED",
    "Comparison",
    "Distribution",
    "Ratio",
    "ReportData",
    "RunReport",
    "Score",
    "Side",
    "Spread",
    "WorkerTimes",
    "build",
    "compare",
    "first_score",
    "markdown",
    "steps_csv",
    "write_html",
    "write_png",
]


def write_html(data: ReportData, path: Path) -> None:
    """Writes a self-contained page that opens offline; see gpuvm.report.html."""
    # matplotlib takes half a second to import, and only this function needs it.
    from gpuvm.report import html  # noqa: PLC0415

    html.write_html(data, path)


def write_png(data: ReportData, path: Path) -> None:
    """Writes one picture of what a report shows first; see gpuvm.report.picture."""
    from gpuvm.report import picture  # noqa: PLC0415 - as above

    picture.write_png(data, path)
