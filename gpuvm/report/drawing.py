"""What all drawings of a report share: colours, style, and how one becomes part of a page.

A page has inline SVG in its own colours and its own font. matplotlib draws with placeholder
colours, which are replaced by CSS variables, so that one drawing works in light and dark mode.
"""

import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpuvm.text import visible

SERIES = 8
"""The number of colours for series, in a page ``--s1`` to ``--s8``."""


@dataclass(frozen=True)
class Palette:
    """``on_bar`` is the colour of text on a bar; ``quiet`` that of lines which are many."""

    ink: str
    grid: str
    quiet: str
    on_bar: str
    series: tuple[str, ...]

    def colour(self, position: int | None) -> str:
        return self.quiet if position is None else self.series[position % SERIES]

    def style(self, options: Mapping[Any, Any] = MappingProxyType({})) -> Any:
        """A context in which figures are drawn."""
        return mpl.rc_context({**_STYLE, **self._colours(), **options})

    def _colours(self) -> dict[Any, Any]:
        ink = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
        grid = ("axes.edgecolor", "grid.color")
        return {**dict.fromkeys(ink, self.ink), **dict.fromkeys(grid, self.grid)}


PAGE = Palette(
    ink="#010203",
    grid="#010204",
    quiet="#010205",
    on_bar="#010206",
    series=tuple(f"#0102{0x10 + i:02x}" for i in range(1, SERIES + 1)),
)
"""Placeholders of the page's variables."""
PAPER = Palette(
    ink="#333c47",
    grid="#e1e5ea",
    quiet="#b8c0c9",
    on_bar="#ffffff",
    series=(
        "#2a6fc9",
        "#d2661b",
        "#16866a",
        "#8a4fc2",
        "#a87b00",
        "#c23a72",
        "#5d6f82",
        "#5c8a1c",
    ),
)
"""The page's colours in light mode (templates/report.css), for a picture."""

_VARIABLES = {
    PAGE.ink: "var(--ink-soft)",
    PAGE.grid: "var(--line)",
    PAGE.quiet: "var(--quiet)",
    PAGE.on_bar: "var(--on-series)",
    **{shade: f"var(--s{i})" for i, shade in enumerate(PAGE.series, start=1)},
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.5,
    "axes.linewidth": 0.8,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
}


def variable(position: int | None) -> str:
    """The page's colour as a CSS value."""
    return "var(--quiet)" if position is None else f"var(--s{1 + position % SERIES})"


def style_axes(axes: Axes, grid: str) -> None:
    axes.set_axisbelow(True)
    axes.grid(axis="x" if grid == "x" else "y")
    for side in ("top", "right", "left" if grid == "x" else "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_visible(grid == "y")
    axes.spines["left"].set_visible(False)


def inline(figure: Figure, chart_id: str, alt: str) -> str:
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
