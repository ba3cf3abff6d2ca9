"""Pictures by the two numbers that they were made with, such as the weights of style transfer."""

from collections.abc import Sequence
from dataclasses import dataclass

from gpuvm.report.model import RunReport, Sample

MOST = 10
"""Values of an axis that a page has room for; of more, so many are shown, evenly spread."""


@dataclass(frozen=True)
class Picture:
    """``run`` is the id of the run that made it, where the gallery has pictures of several."""

    sample: Sample
    run: str | None


@dataclass(frozen=True)
class Row:
    value: float
    cells: tuple[tuple[Picture, ...], ...]


@dataclass(frozen=True)
class Gallery:
    """``down`` and ``across`` name the axes; ``left_out`` pictures have no room."""

    down: str
    across: str
    columns: tuple[float, ...]
    rows: tuple[Row, ...]
    left_out: int


def gallery(runs: Sequence[RunReport]) -> Gallery | None:
    """The pictures of all runs that have the axes of the first; None if they are no grid."""
    found = [(run, one) for run in runs for one in run.samples if len(one.at) == 2 and one.image]
    if not found:
        return None
    down, across = (name for name, _ in found[0][1].at)
    several = len({run.run_id for run, _ in found}) > 1
    cells: dict[tuple[float, float], list[Picture]] = {}
    for run, one in found:
        at = dict(one.at)
        if set(at) == {down, across}:
            picture = Picture(one, run.run_id if several else None)
            cells.setdefault((at[down], at[across]), []).append(picture)
    if len(cells) < 2:
        return None
    rows = _spread(sorted({row for row, _ in cells}))
    columns = _spread(sorted({column for _, column in cells}))
    shown = tuple(
        Row(row, tuple(tuple(cells.get((row, column), ())) for column in columns)) for row in rows
    )
    count = sum(len(cell) for row in shown for cell in row.cells)
    return Gallery(down, across, tuple(columns), shown, sum(map(len, cells.values())) - count)


def _spread(values: Sequence[float]) -> list[float]:
    if len(values) <= MOST:
        return list(values)
    last = len(values) - 1
    return [values[round(number * last / (MOST - 1))] for number in range(MOST)]
