"""One HTML file and a terminal table from a run's records, and from nothing else.

data = report.build([Path("runs/captioning-20261124-013000-ab12")])
report.write_html(data, Path("report.html"))
"""

from pathlib import Path

from gpuvm.report.build import build
from gpuvm.report.comparison import Comparison, Ratio, Side, Spread, compare
from gpuvm.report.model import SHUFFLED, ReportData, RunReport, Score
from gpuvm.report.text import markdown, steps_csv

__all__ = [
    "SHUFFLED",
    "Comparison",
    "Ratio",
    "ReportData",
    "RunReport",
    "Score",
    "Side",
    "Spread",
    "build",
    "compare",
    "markdown",
    "steps_csv",
    "write_html",
]


def write_html(data: ReportData, path: Path) -> None:
    """Writes one self-contained page that opens offline; see gpuvm.report.html."""
    # matplotlib takes half a second to import, which only this one function is worth.
    from gpuvm.report import html  # noqa: PLC0415

    html.write_html(data, path)
