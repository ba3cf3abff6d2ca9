"""A trained run of captioning.py put to use: captions for pictures, and its scores again.

python captioning.py caption bus.jpg street.jpg --run out
python captioning.py caption bus.jpg --run out --beam 3 --json
python captioning.py evaluate --run out --beam 3

A run that saw with VGG16 needs the same weights again (--vgg16-weights), which it does not copy.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import scenes
from examples import HELD_OUT, spoken
from learning import Trainer
from scoring import score
from seeing import AT_ONCE, SIDE, VGG16, BadWeights, Encoder, sha256
from speaking import Captioner, build_encoder
from starting import BAD_INPUT, check_device, leave, tensorflow

MODEL = "model.json"


@dataclass
class Told:
    """A run's captioner, its words, and what it sees with."""

    captioner: Captioner
    words: Sequence[str]
    see: Any
    side: int
    about: dict[str, Any]

    def captions(
        self, files: Sequence[Any], image: Callable[[Any], np.ndarray], beam: int
    ) -> list[str]:
        """``image`` gives uint8 [side, side, 3] of one of them; ``beam`` 1 decodes greedily."""
        said = []
        for at in range(0, len(files), AT_ONCE):
            images = np.stack([image(file) for file in files[at : at + AT_ONCE]])
            features = self.see(images).astype(np.float32)
            speak = self.captioner
            numbers = speak.greedy(features) if beam == 1 else speak.beam(features, beam)
            said += [spoken(self.words, row) for row in numbers]
        return said


def main() -> None:
    """Raises BadData and BadWeights."""
    options = parse()
    tf, _ = tensorflow(options, 1)
    check_device(tf, options)
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
    parser.add_argument("--vgg16-weights", type=Path, metavar="FILE.h5", help="of a run with VGG16")
    parser.add_argument("--data", type=Path, help="evaluate: where the run's images are here")
    parser.add_argument("--device", choices=("auto", "gpu", "cpu"), default="auto")
    parser.add_argument("--cpu-threads", type=int, default=0)
    options = parser.parse_args()
    if options.mode == "caption" and not options.images:
        parser.error("caption: which pictures?")
    if options.beam < 1:
        parser.error("--beam must be at least 1")
    return options


def write_model(trainer: Trainer, options: argparse.Namespace) -> None:
    """What a finished run needs to be put to use, beside its checkpoint."""
    data, network = trainer.data, trainer.vgg16
    about = {
        "words": list(data.words),
        "length": data.length,
        "real": data.real,
        "seed": options.seed,
        "data": str(options.data.resolve()) if options.data else None,
        "vgg16_weights": str(options.vgg16_weights.resolve()) if network else None,
        "vgg16_sha256": network.sha256 if network else None,
    }
    (options.out / MODEL).write_text(json.dumps(about) + "\n", encoding="utf-8")


def load(tf: Any, options: argparse.Namespace) -> Told:
    file, latest = options.run / MODEL, options.run / "checkpoints" / "latest.json"
    if not file.exists() or not latest.exists():
        leave(f"--run {options.run}: no finished captioning run there (no {MODEL})", BAD_INPUT)
    about = json.loads(file.read_text(encoding="utf-8"))
    weights = _weights(about, options)
    captioner = Captioner(tf, len(about["words"]), about["length"])
    outputs = len(about["words"]) if about["real"] else sum(scenes.LABELS)
    encoder, _ = build_encoder(tf, outputs)
    kept = tf.train.Checkpoint(encoder=encoder, captioner=captioner.parts())
    path = json.loads(latest.read_text(encoding="utf-8"))["path"]
    kept.read(str(latest.parent / path)).expect_partial()
    if weights is not None:
        return Told(captioner, about["words"], VGG16(tf, weights), SIDE, about)
    return Told(captioner, about["words"], Encoder(tf, encoder), scenes.SIZE, about)


def caption(told: Told, options: argparse.Namespace) -> None:
    said = told.captions(options.images, lambda file: pictures.load(file, told.side), options.beam)
    pairs = [{"image": str(f), "caption": c} for f, c in zip(options.images, said, strict=True)]
    if options.json:
        print(json.dumps(pairs))
    else:
        for pair in pairs:
            print(f"{pair['image']}: {pair['caption']}")


def evaluate(told: Told, options: argparse.Namespace) -> None:
    """On the examples that were held out of the training, as the run itself did."""
    held, image = _held_out(told, options)
    scores = score(told.captions(held, image, options.beam), [one.captions() for one in held])
    if options.json:
        print(json.dumps(scores))
        return
    for name, value in scores.items():
        print(f"{name:12s} {value:.3f}")


def _weights(about: dict[str, Any], options: argparse.Namespace) -> Path | None:
    """The file that the run saw with: where it was, or where the command line says."""
    wanted, given = about["vgg16_sha256"], options.vgg16_weights
    if wanted is None:
        if given is not None:
            leave("--vgg16-weights: this run saw with an encoder of its own", BAD_INPUT)
        return None
    file = given or Path(about["vgg16_weights"])
    if given is None and not file.is_file():
        raise BadWeights(
            f"--run {options.run} saw with VGG16, whose weights are not at {file}: "
            f"--vgg16-weights FILE.h5 (SHA-256 {wanted}) is needed"
        )
    if sha256(file) != wanted:
        raise BadWeights(f"{file}: not the weights that the run saw with (SHA-256 {wanted})")
    return file


def _held_out(
    told: Told, options: argparse.Namespace
) -> tuple[Sequence[Any], Callable[[Any], np.ndarray]]:
    """The examples, and what gives the image of one."""
    if not told.about["real"]:
        held = scenes.make_scenes(HELD_OUT, told.about["seed"], held_out=True)
        return held, lambda one: pictures.sized(scenes.render(one), told.side)
    folder = options.data or Path(told.about["data"])
    if options.data is None and not folder.is_dir():
        raise pictures.BadData(
            f"the run's images are not at {folder}: --data DIR says where they are here"
        )
    return pictures.read_pictures(folder)[1], lambda one: pictures.load(one.file, told.side)
