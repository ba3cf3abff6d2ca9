"""Uses a trained captioning run: captions pictures, and computes its scores again.

python -m captioning caption bus.jpg street.jpg --run out
python -m captioning caption bus.jpg --run out --beam 3 --json
python -m captioning evaluate --run out --beam 3

A run with VGG16's features needs the same weights (--vgg16-weights), which are not in its output.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from captioning import features, images, scenes
from captioning.dataset import HELD_OUT, Dataset, sentence
from captioning.evaluate import score
from captioning.model import Captioner, build_encoder
from captioning.options import NAME, Options
from common.device import check_device, load_tensorflow
from common.errors import BadInput
from common.files import write_json
from common.options import add_device_options

MODEL = "model.json"


@dataclass(frozen=True)
class CaptionOptions:
    mode: str
    images: Sequence[Path]
    run: Path
    beam: int
    json: bool
    vgg16_weights: Path | None
    data: Path | None
    device: str
    cpu_threads: int


@dataclass(frozen=True)
class TrainedCaptioner:
    """A run's captioner and words; ``features`` maps uint8 images to [n, 4096]."""

    captioner: Captioner
    words: Sequence[str]
    features: Callable[[np.ndarray], np.ndarray]

    def captions(
        self, examples: Sequence[Any], image: Callable[[Any], np.ndarray], beam: int
    ) -> list[str]:
        """``image`` returns the pixels of an example; ``beam`` 1 decodes greedily."""
        captions = []
        for at in range(0, len(examples), features.BATCH):
            some = np.stack([image(one) for one in examples[at : at + features.BATCH]])
            found = self.features(some).astype(np.float32)
            decode = self.captioner
            numbers = decode.greedy(found) if beam == 1 else decode.beam(found, beam)
            captions += [sentence(self.words, row) for row in numbers]
        return captions


def main(arguments: Sequence[str] | None = None) -> None:
    """Raises BadInput, if possible before TensorFlow is loaded."""
    options = parse(arguments)
    model, checkpoint = _read(options.run)
    weights = _weights(model, options)
    examples, image = _examples(model, options)
    tf, _ = load_tensorflow(options.device, options.cpu_threads, 1)
    check_device(tf, options.device)
    trained = _load(tf, model, checkpoint, weights)
    captions = trained.captions(examples, image, options.beam)
    if options.mode == "caption":
        _print_captions(options.images, captions, as_json=options.json)
    else:
        scores = score(captions, [one.captions() for one in examples])
        _print_scores(scores, as_json=options.json)


def parse(arguments: Sequence[str] | None = None) -> CaptionOptions:
    parser = argparse.ArgumentParser(
        prog=NAME,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("mode", choices=("caption", "evaluate"))
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE")
    parser.add_argument("--run", type=Path, required=True, help="a run's --out folder")
    parser.add_argument("--beam", type=int, default=1, help="candidate sentences; 1: greedy")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--vgg16-weights", type=Path, metavar="FILE.h5", help="of a run with VGG16")
    parser.add_argument("--data", type=Path, help="evaluate: where the run's images are here")
    add_device_options(parser)
    options = CaptionOptions(**vars(parser.parse_args(arguments)))
    if options.mode == "caption" and not options.images:
        parser.error("caption: no pictures given")
    if options.beam < 1:
        parser.error("--beam must be at least 1")
    return options


def write_model(options: Options, data: Dataset, vgg16_sha256: str | None) -> None:
    """Writes what captioning needs in addition to the checkpoint."""
    model = {
        "words": list(data.words),
        "length": data.length,
        "real": data.real,
        "trained_on": _trained_on(data, options.data),
        "seed": options.seed,
        "data": str(options.data.resolve()) if options.data else None,
        "vgg16_weights": str(options.vgg16_weights.resolve()) if options.vgg16_weights else None,
        "vgg16_sha256": vgg16_sha256,
    }
    write_json(options.out / MODEL, model)


def _trained_on(data: Dataset, folder: Path | None) -> str:
    """What the pictures were, for whoever reads a caption."""
    if folder is None:
        return f"{len(data.train)} rendered scenes of coloured shapes, not photographs"
    return f"{len(data.train)} pictures of {folder.resolve().name}"


def _read(run: Path) -> tuple[dict[str, Any], Path]:
    """Reads the file of write_model and the path of the checkpoint."""
    file, latest = run / MODEL, run / "checkpoints" / "latest.json"
    try:
        model = json.loads(file.read_text(encoding="utf-8"))
        path = json.loads(latest.read_text(encoding="utf-8"))["path"]
    except (OSError, ValueError):
        raise BadInput(f"--run {run}: no finished captioning run there (no {MODEL})") from None
    return model, latest.parent / path


def _load(
    tf: Any, model: dict[str, Any], checkpoint: Path, weights: Path | None
) -> TrainedCaptioner:
    captioner = Captioner(tf, len(model["words"]), model["length"])
    outputs = len(model["words"]) if model["real"] else sum(scenes.LABELS)
    encoder, _ = build_encoder(tf, outputs)
    saved = tf.train.Checkpoint(encoder=encoder, captioner=captioner.checkpoint())
    saved.read(str(checkpoint)).expect_partial()
    network = features.Encoder(tf, encoder) if weights is None else features.VGG16(tf, weights)
    return TrainedCaptioner(captioner, model["words"], network)


def _weights(model: dict[str, Any], options: CaptionOptions) -> Path | None:
    """VGG16's weights that the run used, at their recorded path or at --vgg16-weights."""
    wanted, given = model["vgg16_sha256"], options.vgg16_weights
    if wanted is None:
        if given is not None:
            raise BadInput("--vgg16-weights: this run used an encoder of its own")
        return None
    file = given or Path(model["vgg16_weights"])
    if given is None and not file.is_file():
        raise BadInput(
            f"--run {options.run} used VGG16, whose weights are not at {file}: "
            f"--vgg16-weights FILE.h5 (SHA-256 {wanted}) is needed"
        )
    if features.sha256(file) != wanted:
        raise BadInput(f"{file}: not the weights that the run used (SHA-256 {wanted})")
    return file


def _examples(
    model: dict[str, Any], options: CaptionOptions
) -> tuple[Sequence[Any], Callable[[Any], np.ndarray]]:
    """The files or held-out examples, and a function that returns the image of one."""
    side = features.SIDE if model["vgg16_sha256"] else scenes.SIZE
    if options.mode == "caption":
        return options.images, lambda file: images.load(file, side)
    if not model["real"]:
        held_out = scenes.make_scenes(HELD_OUT, model["seed"], held_out=True)
        return held_out, lambda one: images.resized(scenes.render(one), side)
    folder = options.data or Path(model["data"])
    if options.data is None and not folder.is_dir():
        raise BadInput(f"the run's images are not at {folder}: set --data DIR")
    return images.read_pictures(folder).held_out, lambda one: images.load(one.file, side)


def _print_captions(files: Sequence[Path], captions: Sequence[str], *, as_json: bool) -> None:
    pairs = [{"image": str(f), "caption": c} for f, c in zip(files, captions, strict=True)]
    if as_json:
        print(json.dumps(pairs))
        return
    for pair in pairs:
        print(f"{pair['image']}: {pair['caption']}")


def _print_scores(scores: dict[str, float], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(scores))
        return
    for name, value in scores.items():
        print(f"{name:12s} {value:.3f}")
