"""style's results.json, and contact sheets: a grid of pictures by their weights."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from common.errors import BadInput
from common.files import replacing
from common.results import sample
from common.results import write_results as write
from style.grid import Cell
from style.options import NAME

TITLE_LENGTH = 110

Grid = Mapping[tuple[float, float], Path | None]
"""Pictures by content and style weight; None for one that was not made."""


def write_results(
    out: Path,
    made: Sequence[Cell],
    cells: Sequence[Cell],
    scores: Mapping[str, float],
    notes: Sequence[str],
) -> None:
    """results.json, and samples/sheet.png when the grid ``cells`` has more than one picture."""
    samples = [sample(c.file, c.title, at={"content": c.content, "style": c.style}) for c in made]
    if made and len(cells) > 1:
        files = {(c.content, c.style): out / c.file if c in made else None for c in cells}
        contact_sheet(out / "samples" / "sheet.png", files, notes[0][:TITLE_LENGTH])
        which = "all" if len(made) == len(cells) else f"{len(made)}"
        whole = f"{which} of the grid's {len(cells)}"
        samples.insert(0, sample("samples/sheet.png", whole, sheet=True))
    write(out, NAME, scores, samples, notes)


def gather(folders: Sequence[Path], out: Path) -> Path:
    """Writes one contact sheet of all pictures in the folders. Raises BadInput."""
    files: dict[tuple[float, float], Path | None] = {}
    title = ""
    for folder in folders:
        results = _results(folder)
        title = title or results["notes"][0][:TITLE_LENGTH]
        for one in results["samples"]:
            found = re.fullmatch(r"content (\S+), style (\S+)", one["caption"])
            if found:
                files[float(found[1]), float(found[2])] = folder / one["image"]
    if not files:
        raise BadInput("--gather: there is no picture in any of the folders")
    contact_sheet(out / "sheet.png", files, title)
    return out / "sheet.png"


def contact_sheet(file: Path, cells: Grid, title: str, *, cell: int = 160) -> None:
    """A labelled grid: content weights down, style weights across; missing pictures are grey."""
    contents = sorted({content for content, _ in cells})
    styles = sorted({style for _, style in cells})
    left, top, high = 80, 50, round(cell * _aspect(cells))
    sheet = Image.new("RGB", (left + cell * len(styles), top + high * len(contents)), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((8, 6), title, fill="black")
    for across, style in enumerate(styles):
        pen.text((left + across * cell + 4, 32), f"style {style:g}", fill="black")
    for down, content in enumerate(contents):
        pen.text((6, top + down * high + high // 2), f"content {content:g}", fill="black")
        for across, style in enumerate(styles):
            corner = (left + across * cell, top + down * high)
            sheet.paste(_cell(cells.get((content, style)), (cell - 4, high - 4)), corner)
    with replacing(file) as partial:
        sheet.save(partial, optimize=True)


def _aspect(cells: Grid) -> float:
    """The aspect ratio (height / width) of the first existing picture."""
    for file in cells.values():
        if file is not None and file.exists():
            with Image.open(file) as image:
                return image.height / image.width
    return 1.0


def _cell(file: Path | None, size: tuple[int, int]) -> Image.Image:
    if file is None or not file.exists():
        return Image.new("RGB", size, "#dddddd")
    with Image.open(file) as image:
        return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _results(folder: Path) -> dict[str, Any]:
    file = folder / "results.json"
    if not file.exists():
        raise BadInput(f"--gather {folder}: no results.json there")
    try:
        results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{file} is damaged: {error}") from None
    return results
