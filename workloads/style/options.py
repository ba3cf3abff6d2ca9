"""style's command line."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import style
from common import options
from style.grid import part, weight, weights
from style.optimizers import OPTIMIZERS
from style.vgg19 import variation_weight

NAME = "style"
PRESETS = {
    "quick": {"size": 224, "rounds": 1, "iterations": 40, "save_every": 10},
    "paper": {"size": 512, "rounds": 50, "iterations": 10_000, "save_every": 100},
}


@dataclass(frozen=True)
class Options(options.Options):
    """``cells`` is (I, N): the I-th of N workers; ``parse`` fills in the variation weight."""

    content: Path | None
    style: Path | None
    content_weight: float
    style_weight: float
    variation_weight: float | None
    content_weights: Sequence[float] | None
    style_weights: Sequence[float] | None
    cells: tuple[int, int] | None
    gather: Sequence[Path] | None
    weights: str | None
    xla: bool
    optimizer: str
    preset: str
    size: int
    rounds: int
    iterations: int
    save_every: int


def parse(arguments: Sequence[str] | None = None) -> Options:
    parser = options.new_parser(NAME, style.__doc__)
    parser.add_argument("--content", type=Path, help="a picture; a sample when left out")
    parser.add_argument("--style", type=Path, help="a picture; one made by code when left out")
    parser.add_argument("--content-weight", type=weight(2), default=1.0, metavar="0..2")
    parser.add_argument("--style-weight", type=weight(10), default=5.0, metavar="0..10")
    parser.add_argument(
        "--variation-weight", type=weight(float("inf")), metavar="W", help="total variation"
    )
    parser.add_argument("--content-weights", type=weights(2), metavar="FROM:TO:COUNT")
    parser.add_argument("--style-weights", type=weights(10), metavar="FROM:TO:COUNT")
    parser.add_argument("--cells", metavar="I/N", type=part, help="of a grid only each N-th cell")
    parser.add_argument(
        "--gather", type=Path, nargs="+", metavar="DIR", help="one sheet from several --out folders"
    )
    parser.add_argument("--weights", metavar="FILE.h5|download", help="VGG19's; random without")
    parser.add_argument("--xla", action="store_true", help="compile loss and gradient")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="lbfgs")
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--size", type=int, help="pixels of the longer side")
    parser.add_argument("--rounds", type=int, help="L-BFGS starts from the picture in each")
    parser.add_argument("--iterations", type=int, help="of the optimizer in each round")
    parser.add_argument("--save-every", type=int, metavar="N", help="evaluations, and each round")
    given = options.parse(parser, Options, PRESETS, arguments)
    if given.variation_weight is None:
        return replace(given, variation_weight=variation_weight(given.weights))
    return given
