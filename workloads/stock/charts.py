"""Line charts as PNG with Pillow, so that a guest needs no plotting library."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

SIZE, MARGIN = (800, 420), (70, 40, 20, 40)  # left, top, right, bottom
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#8250df")
INK = "#444444"

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def line_chart(file: Path, series: Series, title: str, *, log: bool = False) -> None:
    """``series`` is name -> (xs, ys); with ``log`` the y axis is logarithmic."""
    image = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(image)
    scale = math.log10 if log else float
    xs = [x for one, _ in series.values() for x in one]
    ys = [scale(max(y, 1e-12)) if log else y for _, one in series.values() for y in one]
    area = _Area(min(xs), max(xs), min(ys), max(ys))
    _frame(pen, area, title, log=log)
    for number, (name, (x, y)) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        values = [scale(max(v, 1e-12)) if log else v for v in y]
        points = [area.at(a, b) for a, b in zip(x, values, strict=True)]
        pen.line(points, fill=colour, width=2)
        pen.text((MARGIN[0] + 10 + 170 * number, SIZE[1] - 18), name, fill=colour)
    image.save(file)


class _Area:
    """Maps values to pixels."""

    def __init__(self, left: float, right: float, low: float, high: float) -> None:
        self.left, self.right = left, right if right > left else left + 1
        self.low, self.high = low, high if high > low else low + 1

    def at(self, x: float, y: float) -> tuple[float, float]:
        width = SIZE[0] - MARGIN[0] - MARGIN[2]
        height = SIZE[1] - MARGIN[1] - MARGIN[3]
        across = (x - self.left) / (self.right - self.left)
        up = (y - self.low) / (self.high - self.low)
        return MARGIN[0] + across * width, SIZE[1] - MARGIN[3] - up * height


def _frame(pen: ImageDraw.ImageDraw, area: _Area, title: str, *, log: bool) -> None:
    pen.text((MARGIN[0], 14), title, fill="black")
    for step in range(5):
        value = area.low + (area.high - area.low) * step / 4
        x, y = area.at(area.left, value)
        pen.line([(x, y), (SIZE[0] - MARGIN[2], y)], fill="#e4e4e4")
        pen.text((6, y - 6), f"{10**value if log else value:.4g}", fill=INK)
    for x in (area.left, area.right):
        pen.text((area.at(x, area.low)[0] - 12, SIZE[1] - 34), f"{x:g}", fill=INK)
