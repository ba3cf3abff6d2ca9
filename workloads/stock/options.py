"""stock's command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import stock
from common import options
from stock.dataset import ROWS, STOCKS

NAME = "stock"
PRESETS = {
    "quick": {"minutes": 20_000, "stocks": 500, "epochs": 8, "batch_size": 256},
    "paper": {"minutes": ROWS, "stocks": STOCKS, "epochs": 10, "batch_size": 256},
}


@dataclass(frozen=True)
class Options(options.Options):
    data: Path | None
    gaps: str
    preset: str
    minutes: int
    stocks: int
    epochs: int
    batch_size: int
    eval_precision: str
    xla: bool
    checkpoint_every: int
    average_every: int


def parse(arguments: Sequence[str] | None = None) -> Options:
    parser = options.new_parser(NAME, stock.__doc__)
    parser.add_argument("--data", type=Path, help="a CSV file: DATE, the index, the stocks")
    parser.add_argument(
        "--gaps",
        choices=("fail", "previous"),
        default="fail",
        help="a price that is missing ends the run, or is that of the row before",
    )
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--minutes", type=int, help="rows to generate without --data")
    parser.add_argument("--stocks", type=int, help="columns to generate without --data")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch-size", type=int, help="examples per step, over all workers")
    parser.add_argument("--eval-precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--xla", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--checkpoint-every", type=int, default=100, metavar="STEPS")
    options.add_average_option(parser, 25)
    return options.parse(parser, Options, PRESETS, arguments)
