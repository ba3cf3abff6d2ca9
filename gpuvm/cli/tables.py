"""Tables that can be read, and copied from, on a narrow terminal.

A table that is wider than the terminal folds its columns of prose at spaces. If that is not enough,
each row becomes a block with a line for each column. Names are never broken or cut, and no column
is left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat

from rich.cells import cell_len
from rich.text import Text

from gpuvm.cli.console import cell

Rows = Sequence[Sequence[str]]

_EDGE, _GAP = " ", "  "
_HEADING = "bold dim"
_NARROWEST = 12
"""Of a column of prose: below this, blocks are easier to read."""
_TALLEST = 4
"""Of a folded row, in lines."""
_NO_BREAK = "\N{NO-BREAK SPACE}"


class Prose(str):
    """The heading of a column whose cells may be folded at spaces; cells of others are names."""

    __slots__ = ()


class Number(str):
    """The heading of a column that is aligned to the right."""

    __slots__ = ()


def unbroken(name: str) -> str:
    """Return a name with spaces as one word, for a column of prose; it is printed as it was."""
    return name.replace(" ", _NO_BREAK)


def draw(
    columns: Sequence[str], rows: Rows, width: int, styles: Mapping[int, str] | None = None
) -> Iterator[Text]:
    """Yield the lines of a table for a terminal of this width; ``styles`` are by row.

    The cells are plain text, with control characters escaped, because much of it comes from guests.
    """
    styles = styles or {}
    columns = [type(heading)(cell(heading)) for heading in columns]
    rows = [[_content(*pair) for pair in zip(columns, row, strict=True)] for row in rows]
    widths = _widths(columns, rows, width - len(_EDGE))
    if widths is not None and max(map(_height, rows, repeat(widths)), default=1) <= _TALLEST:
        for line in _lines(columns, columns, widths):
            yield Text(line, style=_HEADING)
        for number, row in enumerate(rows):
            for line in _lines(columns, row, widths):
                yield Text(line, style=styles.get(number, ""))
        return
    for number, row in enumerate(rows):
        if number:
            yield Text()
        yield from _block(columns, row, width, styles.get(number, ""))


def _content(heading: str, content: str) -> str:
    return cell(content) if isinstance(heading, Prose) else unbroken(cell(content))


def _widths(columns: Sequence[str], rows: Rows, width: int) -> list[int] | None:
    """Return the width of each column; None if the names alone are wider than the terminal."""
    cells = list(zip(columns, *rows, strict=True))
    widths = [max(map(cell_len, column)) for column in cells]
    least = [
        max(min(_NARROWEST, natural), *map(_longest_word, column))
        if isinstance(heading, Prose)
        else natural
        for heading, column, natural in zip(columns, cells, widths, strict=True)
    ]
    available = width - len(_GAP) * (len(columns) - 1)
    if sum(least) > available:
        return None
    while sum(widths) > available:
        shrinkable = [n for n, own in enumerate(widths) if own > least[n]]
        widths[max(shrinkable, key=lambda n: widths[n])] -= 1
    return widths


def _longest_word(content: str) -> int:
    return max(map(cell_len, content.split(" ")))


def _height(row: Sequence[str], widths: Sequence[int]) -> int:
    return max(len(_fold(content, width)) for content, width in zip(row, widths, strict=True))


def _lines(columns: Sequence[str], row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    folded = [_fold(content, width) for content, width in zip(row, widths, strict=True)]
    for number in range(max(map(len, folded))):
        parts = [
            _aligned(lines[number] if number < len(lines) else "", width, heading)
            for lines, width, heading in zip(folded, widths, columns, strict=True)
        ]
        yield f"{_EDGE}{_GAP.join(parts)}".rstrip()


def _aligned(text: str, width: int, heading: str) -> str:
    blanks = " " * (width - cell_len(text))
    return blanks + text if isinstance(heading, Number) else text + blanks


def _block(columns: Sequence[str], row: Sequence[str], width: int, style: str) -> Iterator[Text]:
    """Yield a line for each cell; a name that does not fit beside its heading goes below it."""
    indent = max(map(cell_len, columns)) + len(_GAP)
    beside = width - len(_EDGE) - indent
    for heading, content in zip(columns, row, strict=True):
        if not content:
            continue
        first = Text(_EDGE + heading.ljust(indent), style="dim")
        if _longest_word(content) > beside:
            yield Text(first.plain.rstrip(), style="dim")
            below, space = _fold(content, width - len(_EDGE + _GAP)), _EDGE + _GAP
        else:
            start, *below = _fold(content, beside)
            space = _EDGE + " " * indent
            yield first.append(start, style=style or "not dim")
        for line in below:
            yield Text(space + line, style=style)


def _fold(text: str, width: int) -> list[str]:
    """Fold at spaces; a longer word stays whole."""
    first, *words = text.split(" ")
    lines = [first]
    for word in words:
        longer = f"{lines[-1]} {word}"
        if lines[-1].strip() and cell_len(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [line.replace(_NO_BREAK, " ") for line in lines]
