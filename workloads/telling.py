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
from starting import BAD_INPUT, check_device, exit_with, tensorflow

MODEL = "model.json"


@dataclass
class TrainedCaptioner:
    """A run's captioner, its words, and what it sees with."""

    captioner: Captioner
    words: Sequence[str]
    see: Callable[[np.ndarray], np.ndarray]

    def captions(
        self, files: Sequence[Any], image: Callable[[Any], np.ndarray], beam: int
    ) -> list[str]:
        """``image`` gives the pixels of one of them; ``beam`` 1 decodes greedily."""
        said = []
        for at in range(0, len(files), AT_ONCE):
            images = np.stack([image(file) for file in files[at : at + AT_ONCE]])
            features = self.see(images).astype(np.float32)
            speak = self.captioner
            numbers = speak.greedy(features) if beam == 1 else speak.beam(features, beam)
            said += [spoken(self.words, row) for row in numbers]
        return said


def main() -> None:
    """Raises BadData and BadWeights, before TensorFlow is loaded where that is possible."""
    options = parse()
    about, checkpoint = read(options.run)
    weights = _weights(about, options)
    examples, image = _images(about, options)
    tf, _ = tensorflow(options, 1)
    check_device(tf, options)
    told = load(tf, about, checkpoint, weights)
    said = told.captions(examples, image, options.beam)
    if options.mode == "caption":
        show(options.images, said, json_wanted=options.json)
    else:
        show_scores(score(said, [one.captions() for one in examples]), json_wanted=options.json)


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


def read(run: Path) -> tuple[dict[str, Any], Path]:
    """What write_model wrote, and the checkpoint beside it."""
    file, latest = run / MODEL, run / "checkpoints" / "latest.json"
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        path = json.loads(latest.read_text(encoding="utf-8"))["path"]
    except (OSError, ValueError):
        exit_with(f"--run {run}: no finished captioning run there (no {MODEL})", BAD_INPUT)
    return about, latest.parent / path


def load(
    tf: Any, about: dict[str, Any], checkpoint: Path, weights: Path | None
) -> TrainedCaptioner:
    captioner = Captioner(tf, len(about["words"]), about["length"])
    outputs = len(about["words"]) if about["real"] else sum(scenes.LABELS)
    encoder, _ = build_encoder(tf, outputs)
    kept = tf.train.Checkpoint(encoder=encoder, captioner=captioner.parts())
    kept.read(str(checkpoint)).expect_partial()
    see = Encoder(tf, encoder) if weights is None else VGG16(tf, weights)
    return TrainedCaptioner(captioner, about["words"], see)


def show(images: Sequence[Path], said: Sequence[str], *, json_wanted: bool) -> None:
    pairs = [{"image": str(f), "caption": c} for f, c in zip(images, said, strict=True)]
    if json_wanted:
        print(json.dumps(pairs))
        return
    for pair in pairs:
        print(f"{pair['image']}: {pair['caption']}")


def show_scores(scores: dict[str, float], *, json_wanted: bool) -> None:
    if json_wanted:
        print(json.dumps(scores))
        return
    for name, value in scores.items():
        print(f"{name:12s} {value:.3f}")


def _weights(about: dict[str, Any], options: argparse.Namespace) -> Path | None:
    """The file that the run saw with: where it was, or where the command line says."""
    wanted, given = about["vgg16_sha256"], options.vgg16_weights
    if wanted is None:
        if given is not None:
            exit_with("--vgg16-weights: this run saw with an encoder of its own", BAD_INPUT)
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


def _images(
    about: dict[str, Any], options: argparse.Namespace
) -> tuple[Sequence[Any], Callable[[Any], np.ndarray]]:
    """What is captioned, and what gives the image of one: files, or the examples held out."""
    side = SIDE if about["vgg16_sha256"] else scenes.SIZE
    if options.mode == "caption":
        return options.images, lambda file: pictures.load(file, side)
    if not about["real"]:
        held = scenes.make_scenes(HELD_OUT, about["seed"], held_out=True)
        return held, lambda one: pictures.sized(scenes.render(one), side)
    folder = options.data or Path(about["data"])
    if options.data is None and not folder.is_dir():
        raise pictures.BadData(
            f"the run's images are not at {folder}: --data DIR says where they are here"
        )
    return pictures.read_pictures(folder)[1], lambda one: pictures.load(one.file, side)
