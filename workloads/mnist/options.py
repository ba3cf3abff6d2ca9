"""mnist's command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import mnist
from common import options

NAME = "mnist"
PRESETS = {
    "quick": {"epochs": 12, "batch_size": 32},
    "paper": {"epochs": 20, "batch_size": 128},
}


@dataclass(frozen=True)
class Options(options.Options):
    data: str | None
    preset: str
    epochs: int
    batch_size: int
    xla: bool
    mixed_precision: bool
    checkpoint_every: int
    average_every: int


def parse(arguments: Sequence[str] | None = None) -> Options:
    parser = options.new_parser(NAME, mnist.__doc__)
    parser.add_argument(
        "--data",
        metavar="PATH|download",
        help="an mnist.npz or a folder of idx files; default: offline",
    )
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch-size", type=int, help="examples per step, over all workers")
    parser.add_argument("--xla", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--mixed-precision", action="store_true", help="float16 where it is safe")
    parser.add_argument("--checkpoint-every", type=int, default=100, metavar="STEPS")
    options.add_average_option(parser, 16)
    return options.parse(parser, Options, PRESETS, arguments)
