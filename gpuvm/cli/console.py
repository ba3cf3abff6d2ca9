"""The two consoles, through which everything but data for pipes reaches the terminal.

Much of the text comes from guests and vCenters. A string is shown as it is: it is never read as
rich's markup, and no control character of it reaches the terminal. Only ``rich.text.Text`` is
styled.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text
from typing_extensions import override

from gpuvm.text import visible

WIDE = 200
"""Columns if the output is no terminal, so that tables in logs and pipes are not wrapped."""
LONGEST_CELL = 1000
"""In characters."""


class PlainConsole(Console):
    """Prints strings as they are, without control characters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, soft_wrap=True, **options)

    @override
    def render_str(self, text: str, **look: Any) -> Text:
        """Also measures a table's cells, so what is escaped here has its place in the layout."""
        return super().render_str(visible(text), **look)

    @override
    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """All that is printed passes here; ``control`` segments are rich's own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def text(*parts: str | tuple[str, str]) -> Text:
    """One text of plain parts, and of pairs of a part and its style."""
    shown = [visible(one) if isinstance(one, str) else (visible(one[0]), one[1]) for one in parts]
    return Text.assemble(*shown)


def continued(message: str, *, by: int = 4) -> str:
    """Indents all lines but the first: no line of a foreign text looks like one of gpuvm's."""
    return visible(message).rstrip("\n").replace("\n", "\n" + " " * by)


def cell(content: str) -> str:
    """The text of a table's cell, on one line."""
    shown = visible(content).replace("\n", " ").replace("\t", " ")
    return shown if len(shown) <= LONGEST_CELL else f"{shown[: LONGEST_CELL - 1]}…"


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return PlainConsole(stderr=stderr, width=None if stream.isatty() else WIDE)


for _name in ("stdout", "stderr"):
    if getattr(sys, _name) is None:  # closed, as by `>&-`: what is printed is nobody's
        setattr(sys, _name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until the end
stdout, stderr = _console(stderr=False), _console(stderr=True)
