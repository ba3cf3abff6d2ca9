"""captioning's command line for training; that for a trained run is in caption.py."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import captioning
from common import options
from common.lockstep import WIRES

NAME = "captioning"
MODES = ("train", "caption", "evaluate")
QUICK = {
    "scenes": 9600,
    "encoder_steps": 900,
    "steps": 900,
    "batch_size": 96,
    "learning_rate": 4e-3,
    "checkpoint_every": 100,
}
# 150 epochs of 20,000 steps, one example each, at the rate of appendix D. The encoder replaces
# the paper's pretrained VGG16 and has its own sizes.
PAPER = {
    "scenes": 20_000,
    "encoder_steps": 6000,
    "encoder_batch_size": 128,
    "steps": 150 * 20_000,
    "batch_size": 1,
    "learning_rate": 1e-3,
    "checkpoint_every": 20_000,
}
PRESETS = {"quick": QUICK, "paper": PAPER}


@dataclass(frozen=True)
class Options(options.Options):
    """``batch_size`` and ``encoder_batch_size`` are a worker's, or with ``global_batch`` those of
    all workers together.
    """

    mode: str
    data: Path | None
    vgg16_weights: Path | None
    feature_cache: Path | None
    preset: str
    scenes: int
    encoder_steps: int
    encoder_batch_size: int
    steps: int
    batch_size: int
    learning_rate: float
    xla: bool
    beam: int
    checkpoint_every: int
    perturb_shard: int | None
    average_every: int
    global_batch: bool
    wire: str
    trace_examples: bool


def parse(arguments: Sequence[str] | None = None) -> Options:
    parser = options.new_parser(NAME, captioning.__doc__)
    parser.add_argument("mode", nargs="?", choices=MODES, default="train")
    parser.add_argument(
        "--data", type=Path, help="images and captions in COCO's or Flickr's layout"
    )
    parser.add_argument("--vgg16-weights", type=Path, metavar="FILE.h5", help="use VGG16's fc2")
    parser.add_argument("--feature-cache", type=Path, metavar="DIR", help="keeps VGG16's features")
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--scenes", type=int, help="how many rendered scenes to train on")
    parser.add_argument("--encoder-steps", type=int)
    parser.add_argument("--encoder-batch-size", type=int, help="default: --batch-size")
    parser.add_argument("--steps", type=int, help="training steps of the captioner")
    parser.add_argument("--batch-size", type=int, help="examples in a worker's step")
    parser.add_argument("--learning-rate", type=float, help="of the captioner, at its first step")
    parser.add_argument("--xla", action="store_true", help="compile the captioner's loss")
    parser.add_argument(
        "--beam", type=int, default=3, help="decodes the samples; greedy is scored too"
    )
    parser.add_argument("--checkpoint-every", type=int, metavar="STEPS")
    parser.add_argument(
        "--perturb-shard", type=int, metavar="WORKER", help="for tests: other images on that worker"
    )
    options.add_average_option(parser, 16)
    parser.add_argument(
        "--global-batch", action="store_true", help="workers in lockstep share each batch"
    )
    parser.add_argument(
        "--wire",
        choices=WIRES,
        default=WIRES[0],
        help="the type in which gradients travel in lockstep",
    )
    parser.add_argument(
        "--trace-examples", action="store_true", help="for tests: seen.jsonl has each step's"
    )
    given = options.parse(parser, Options, PRESETS, arguments)
    if given.mode != "train":
        parser.error(f"{given.mode} must come first: {NAME} {given.mode} ... --run OUT")
    for name in ("learning_rate", "beam", "encoder_batch_size"):
        if (value := getattr(given, name)) is not None and not value > 0:
            parser.error(f"--{name.replace('_', '-')} must be more than 0")
    batch = _multiple(given.encoder_batch_size or given.batch_size, given.batch_size)
    return dataclasses.replace(given, encoder_batch_size=batch)


def _multiple(number: int, of: int) -> int:
    """The smallest multiple of ``of`` that is at least ``number``."""
    return -(-number // of) * of
