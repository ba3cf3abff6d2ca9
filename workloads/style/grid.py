"""The pictures to make: one pair of weights, or a worker's share of a grid."""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

MAX_IN_A_ROW = 100


@dataclass(frozen=True)
class Cell:
    """A picture, defined by its two weights."""

    content: float
    style: float

    @property
    def name(self) -> str:
        return f"content{self.content:g}-style{self.style:g}"

    @property
    def title(self) -> str:
        return f"content {self.content:g}, style {self.style:g}"

    @property
    def file(self) -> str:
        return f"samples/{self.name}.png"


class Weights(Protocol):
    """One weight each, or several, which take precedence."""

    @property
    def content_weight(self) -> float: ...
    @property
    def style_weight(self) -> float: ...
    @property
    def content_weights(self) -> Sequence[float] | None: ...
    @property
    def style_weights(self) -> Sequence[float] | None: ...


def grid(options: Weights) -> list[Cell]:
    """A cell for each pair of weights."""
    contents = options.content_weights or [options.content_weight]
    styles = options.style_weights or [options.style_weight]
    return [Cell(content, style) for content in contents for style in styles]


def share(cells: Sequence[Cell], part: tuple[int, int]) -> list[Cell]:
    """Worker I of N makes every N-th cell from the I-th on."""
    return list(cells[part[0] :: part[1]])


def weight(top: float) -> Callable[[str], float]:
    """An argparse type: a weight from 0 to ``top``."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None
        if not 0 <= value <= top or math.isinf(value):
            between = f"between 0 and {top:g}" if math.isfinite(top) else "0 or more"
            raise argparse.ArgumentTypeError(f"{text} is not {between}")
        return value

    return read


def weights(top: float) -> Callable[[str], list[float]]:
    """An argparse type: ``0:2:5`` is 0, 0.5, 1, 1.5 and 2, none of them above ``top``."""

    def read(text: str) -> list[float]:
        try:
            first, last, number = text.split(":")
            start, end, count = float(first), float(last), int(number)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"'{text}' is not FROM:TO:COUNT, such as 0:{top:g}:5"
            ) from None
        for value in (first, last):
            weight(top)(value)
        if not 1 <= count <= MAX_IN_A_ROW:
            raise argparse.ArgumentTypeError(f"{text}: COUNT must be from 1 to {MAX_IN_A_ROW}")
        if count > 1 and start >= end:
            raise argparse.ArgumentTypeError(f"{text}: FROM must be below TO")
        return [round(float(value), 6) for value in np.linspace(start, end, count)]

    return read


def part(text: str) -> tuple[int, int]:
    """An argparse type: ``I/N`` is the I-th of N workers, from 0 on."""
    try:
        number, of = (int(value) for value in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not I/N, such as 0/4") from None
    if not 0 <= number < of:
        raise argparse.ArgumentTypeError(f"{text}: the first must be from 0 to {max(of, 1) - 1}")
    return number, of
