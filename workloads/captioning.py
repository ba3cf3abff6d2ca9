"""Image captioning: CNN features -> LSTM, alone or over several machines.

On one machine (or captioning.py train --out out):
    python captioning.py --out out
On four, the same command on each, with TF_CONFIG naming all of them and which one this is:
    export TF_CONFIG='{"cluster": {"worker": ["a:2222", "b:2222", "c:2222", "d:2222"]},
                       "task": {"type": "worker", "index": 0}}'
    python captioning.py --out out
Real images, seen with VGG16 where its weights are at hand:
    python captioning.py --out out --data flickr8k/ --vgg16-weights vgg16.h5
A trained run put to use:
    python captioning.py caption bus.jpg --run out
    python captioning.py evaluate --run out --beam 3

The sizes are those of the paper's appendix D: features 4096, embedding 256, hidden 256, captions of
up to 15 words. Workers compute gradients on their own shard of the examples; they are summed.
workloads/README.md says what is written to --out.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pictures
import seeing
import telling
from examples import Data, Shard
from learning import Trainer
from records import Log
from scoring import evaluate
from starting import (
    BAD_INPUT,
    LOST_A_PEER,
    announce,
    choose_preset,
    common_options,
    exit_with,
    start_watchdog,
    task,
    tensorflow,
)

MODES = ("train", "caption", "evaluate")
QUICK = {
    "scenes": 9600,
    "encoder_steps": 900,
    "steps": 900,
    "batch_size": 96,
    "learning_rate": 4e-3,
    "checkpoint_every": 100,
}
# 150 epochs of 20,000 steps, one example each, at the rate of appendix D. The encoder stands where
# the paper has VGG16, trained by others, and has sizes of its own.
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


def main() -> None:
    try:
        if sys.argv[1:2] in (["caption"], ["evaluate"]):
            telling.main()
        else:
            train()
    except (pictures.BadData, seeing.BadWeights) as error:
        exit_with(str(error), BAD_INPUT)


def train() -> None:
    options = parse()
    worker, peers = task()
    run(options, worker, peers, start_watchdog(options.start_deadline_s, worker, peers))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mode", nargs="?", choices=MODES, default="train")
    common_options(parser)
    parser.add_argument("--data", type=Path, help="images and captions as COCO or Flickr have them")
    parser.add_argument("--vgg16-weights", type=Path, metavar="FILE.h5", help="see with its fc2")
    parser.add_argument("--feature-cache", type=Path, metavar="DIR", help="keeps VGG16's features")
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--scenes", type=int, help="how many rendered scenes to train on")
    parser.add_argument("--encoder-steps", type=int)
    parser.add_argument(
        "--encoder-batch-size", type=int, help="as --batch-size, which it is if left out"
    )
    parser.add_argument("--steps", type=int, help="training steps of the captioner")
    parser.add_argument("--batch-size", type=int, help="examples per step, over all workers")
    parser.add_argument("--learning-rate", type=float, help="of the captioner, at its first step")
    parser.add_argument("--xla", action="store_true", help="compile the captioner's loss")
    parser.add_argument(
        "--beam", type=int, default=3, help="decodes the samples; greedy is scored too"
    )
    parser.add_argument("--checkpoint-every", type=int, metavar="STEPS")
    parser.add_argument(
        "--perturb-shard", type=int, metavar="WORKER", help="for tests: other images on that worker"
    )
    options = choose_preset(parser, PRESETS)
    if options.mode != "train":
        parser.error(f"{options.mode} must come first: captioning.py {options.mode} ... --run OUT")
    for name in ("learning_rate", "beam", "encoder_batch_size"):
        if (value := getattr(options, name)) is not None and not value > 0:
            parser.error(f"--{name.replace('_', '-')} must be more than 0")
    return options


def run(
    options: argparse.Namespace, worker: int, peers: Sequence[str], started: Callable[[], None]
) -> None:
    begun = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    log = Log(options.out / "timings.jsonl")
    workers = len(peers)
    options.batch_size = multiple(options.batch_size, workers)
    seen = options.encoder_batch_size or options.batch_size
    options.encoder_batch_size = multiple(seen, options.batch_size)
    with log.phase("data"):
        data = Data(options)
    tf, strategy = tensorflow(options, workers)
    started()
    announce(log, tf, options, worker, workers)
    shard = Shard(len(data.train), options.batch_size, worker, workers)
    shard.write(data, options.out, log)
    try:
        trainer = Trainer(tf, strategy, options, data, shard, log)
        trainer.train()
        if worker == 0:
            telling.write_model(trainer, options)
            evaluate(trainer, data, options, log)
        trainer.barrier()
    except tf.errors.OpError as error:
        if workers == 1:
            raise
        exit_with(f"another worker went away: {str(error).splitlines()[0][:200]}", LOST_A_PEER)
    log(
        "end",
        ok=True,
        steps=options.steps,
        seconds=round(time.monotonic() - begun, 3),
        weights_sha256=trainer.digest(),
    )


def multiple(number: int, of: int) -> int:
    """The least one that is not below ``number``: batches are shared out in equal parts."""
    return -(-number // of) * of


if __name__ == "__main__":
    main()
