"""A trained run of captioning.py put to use: captions for pictures, and its scores again.

python captioning.py caption bus.jpg street.jpg --run out
python captioning.py caption bus.jpg --run out --beam 3 --json
python captioning.py evaluate --run out --beam 3
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import scenes
from examples import HELD_OUT, spoken
from seeing import SIDE, VGG16
from speaking import Captioner, build_encoder, score
from starting import BAD_INPUT, leave, tensorflow

MODEL = "model.json"


@dataclass
class Told:
    """A run's captioner, its words, and what it sees with."""

    captioner: Captioner
    words: Sequence[str]
    see: Any
    side: int
    about: dict[str, Any]

    def captions(self, images: np.ndarray, beam: int) -> list[str]:
        """uint8 [n, side, side, 3]; ``beam`` 1 decodes greedily."""
        features = self.see(images).astype(np.float32)
        speak = self.captioner
        numbers = speak.greedy(features) if beam == 1 else speak.beam(features, beam)
        return [spoken(self.words, row) for row in numbers]


def main() -> None:
    options = parse()
    tf, _ = tensorflow(options, 1)
    told = load(tf, options)
    if options.mode == "caption":
        caption(told, options)
    else:
        evaluate(told, options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="captioning.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("mode", choices=("caption", "evaluate"))
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE")
    parser.add_argument("--run", type=Path, required=True, help="a run's --out folder")
    parser.add_argument(
        "--beam", type=int, default=1, help="sentences kept side by side; 1: greedy"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--device", choices=("auto", "gpu", "cpu"), default="auto")
    parser.add_argument("--cpu-threads", type=int, default=0)
    options = parser.parse_args()
    if options.mode == "caption" and not options.images:
        parser.error("caption: which pictures?")
    if options.beam < 1:
        parser.error("--beam must be at least 1")
    return options


def write_model(
    out: Path, words: Sequence[str], length: int, *, real: bool, options: argparse.Namespace
) -> None:
    """What a finished run needs to be put to use, beside its checkpoint."""
    about = {
        "words": list(words),
        "length": length,
        "real": real,
        "seed": options.seed,
        "data": str(options.data.resolve()) if options.data else None,
        "vgg16_weights": str(options.vgg16_weights.resolve()) if options.vgg16_weights else None,
    }
    (out / MODEL).write_text(json.dumps(about) + "\n", encoding="utf-8")


def load(tf: Any, options: argparse.Namespace) -> Told:
    file, latest = options.run / MODEL, options.run / "checkpoints" / "latest.json"
    if not file.exists() or not latest.exists():
        leave(f"--run {options.run}: no finished captioning run there (no {MODEL})", BAD_INPUT)
    about = json.loads(file.read_text(encoding="utf-8"))
    captioner = Captioner(tf, len(about["words"]), about["length"])
    outputs = len(about["words"]) if about["real"] else sum(scenes.LABELS)
    encoder, _ = build_encoder(tf, outputs)
    kept = tf.train.Checkpoint(encoder=encoder, captioner=captioner.parts())
    path = json.loads(latest.read_text(encoding="utf-8"))["path"]
    kept.read(str(latest.parent / path)).expect_partial()
    if about["vgg16_weights"]:
        see, side = VGG16(tf, Path(about["vgg16_weights"])), SIDE
    else:
        see, side = _by_encoder(tf, encoder), scenes.SIZE
    return Told(captioner, about["words"], see, side, about)


def caption(told: Told, options: argparse.Namespace) -> None:
    try:
        images = np.stack([pictures.load(file, told.side) for file in options.images])
    except pictures.BadData as error:
        leave(str(error), BAD_INPUT)
    said = told.captions(images, options.beam)
    pairs = [{"image": str(f), "caption": c} for f, c in zip(options.images, said, strict=True)]
    if options.json:
        print(json.dumps(pairs))
    else:
        for pair in pairs:
            print(f"{pair['image']}: {pair['caption']}")


def evaluate(told: Told, options: argparse.Namespace) -> None:
    """On the examples that were held out of the training, as the run itself did."""
    if told.about["real"]:
        _, held = pictures.read_pictures(Path(told.about["data"]))
        images = np.stack([pictures.load(one.file, told.side) for one in held])
    else:
        held = scenes.make_scenes(HELD_OUT, told.about["seed"], held_out=True)
        images = np.stack([pictures.sized(scenes.render(one), told.side) for one in held])
    scores = score(told.captions(images, options.beam), [one.captions() for one in held])
    if options.json:
        print(json.dumps(scores))
        return
    for name, value in scores.items():
        print(f"{name:12s} {value:.3f}")


def _by_encoder(tf: Any, encoder: Any) -> Any:
    def see(images: np.ndarray) -> np.ndarray:
        scaled = tf.constant(images.astype(np.float32) / 127.5 - 1)
        return np.asarray(encoder(scaled), np.float16)

    return see


def wanted() -> bool:
    """The command line asks for one of these instead of a training."""
    return len(sys.argv) > 1 and sys.argv[1] in ("caption", "evaluate")
