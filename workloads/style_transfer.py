"""Style transfer: one picture's content in another one's style, as in the paper's use case 1.

    python style_transfer.py --out out
    python style_transfer.py --out out --content bridge.jpg --style night.jpg --weights vgg19.h5
    python style_transfer.py --out out --content-weights 0:2:5 --style-weights 0:10:5
    python style_transfer.py --out all --gather out-of-vm-1 out-of-vm-2

Features are VGG19's. Each loss is divided by the norm of its target, so that the paper's ranges,
content 0 to 2 and style 0 to 10, mean the same for every pair of pictures. A grid of weights makes
one picture for each pair and a contact sheet (figures 3 to 6); over several workers each takes its
share of the grid. workloads/README.md says what is written to --out.
"""

import argparse
import faulthandler
import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paintings
import vgg
from optimizing import LBFGS, Adam
from records import Log
from starting import BAD_INPUT, announce, choose_preset, common_options, leave, task, tensorflow

PRESETS = {
    "quick": {"size": 224, "rounds": 4, "iterations": 10},
    "paper": {"size": 512, "rounds": 50, "iterations": 10_000},
}


@dataclass(frozen=True)
class Cell:
    """One picture to make, by its two weights."""

    content: float
    style: float

    @property
    def file(self) -> str:
        return f"samples/content{self.content:g}-style{self.style:g}.png"


def main() -> None:
    options = parse()
    try:
        if options.gather:
            gather(options)
        else:
            run(options)
    except (paintings.BadPicture, vgg.BadWeights) as error:
        leave(str(error), BAD_INPUT)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common_options(parser)
    parser.add_argument("--content", type=Path, help="a picture; a sample when left out")
    parser.add_argument("--style", type=Path, help="a picture; one made by code when left out")
    parser.add_argument("--content-weight", type=_weight(2), default=1.0, metavar="0..2")
    parser.add_argument("--style-weight", type=_weight(10), default=5.0, metavar="0..10")
    parser.add_argument("--variation-weight", type=float, default=0.4, help="total variation")
    parser.add_argument("--content-weights", type=_range, metavar="FROM:TO:COUNT")
    parser.add_argument("--style-weights", type=_range, metavar="FROM:TO:COUNT")
    parser.add_argument("--cells", metavar="I/N", type=_share, help="of a grid only each N-th cell")
    parser.add_argument(
        "--gather", type=Path, nargs="+", metavar="DIR", help="one sheet from several --out folders"
    )
    parser.add_argument("--weights", metavar="FILE.h5|download", help="VGG19's; random without")
    parser.add_argument("--optimizer", choices=("lbfgs", "adam"), default="lbfgs")
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--size", type=int, help="pixels of the longer side")
    parser.add_argument("--rounds", type=int, help="the picture is saved after each")
    parser.add_argument("--iterations", type=int, help="of the optimizer in each round")
    return choose_preset(parser, PRESETS)


def run(options: argparse.Namespace) -> None:
    begun = time.monotonic()
    worker, peers = task()
    options.out.mkdir(parents=True, exist_ok=True)
    log = Log(options.out / "timings.jsonl")
    with log.phase("data"):
        content, style, origins = pictures(options)
    tf, _ = tensorflow(options, 1)
    network = vgg.network(tf, options.weights, options.seed)
    announce(log, tf, options, worker, len(peers))
    cells = grid(options)
    mine = share(cells, options.cells or (worker, len(peers)))
    painter = Painter(tf, network, content, style, options, log)
    steps = 0
    with log.phase("paint"):
        for number, cell in enumerate(mine):
            steps += painter.paint(cell, number, len(mine))
    with log.phase("evaluate"):
        scores = painter.scores
        for name, value in scores.items():
            log("score", name=name, value=value, split="image")
        write_results(options, mine, cells, scores, [network.origin, *origins])
    seconds = round(time.monotonic() - begun, 3)
    log("end", ok=True, steps=steps, seconds=seconds, weights_sha256=painter.digest())


def gather(options: argparse.Namespace) -> None:
    """One contact sheet of all pictures that the folders have; prints where it is."""
    files, notes = {}, []
    for folder in options.gather:
        results = folder / "results.json"
        if not results.exists():
            raise paintings.BadPicture(f"--gather {folder}: no results.json there")
        told = json.loads(results.read_text(encoding="utf-8"))
        notes = notes or told["notes"]
        for sample in told["samples"]:
            found = re.fullmatch(r"content ([\d.]+), style ([\d.]+)", sample["caption"])
            if found:
                files[float(found[1]), float(found[2])] = folder / sample["image"]
    options.out.mkdir(parents=True, exist_ok=True)
    sheet = options.out / "sheet.png"
    paintings.contact_sheet(sheet, files, notes[0][:110])
    print(sheet)


def pictures(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Content and style, and where each is from."""
    if options.content:
        content, shown = paintings.read(options.content, options.size), str(options.content)
    else:
        content, shown = paintings.sample_content(options.size)
    if options.style:
        style, painted = paintings.read(options.style, options.size), str(options.style)
    else:
        style, painted = paintings.sample_style(options.size)
    return content, style, [f"content: {shown}", f"style: {painted}"]


def grid(options: argparse.Namespace) -> list[Cell]:
    contents = options.content_weights or [options.content_weight]
    styles = options.style_weights or [options.style_weight]
    return [Cell(content, style) for content in contents for style in styles]


def share(cells: Sequence[Cell], part: tuple[int, int]) -> list[Cell]:
    """Worker I of N takes every N-th cell from the I-th on."""
    return list(cells[part[0] :: part[1]])


class Painter:
    """``scores`` are those of the last picture: losses at the end, each over that at the start."""

    def __init__(
        self,
        tf: Any,
        network: vgg.Network,
        content: np.ndarray,
        style: np.ndarray,
        options: argparse.Namespace,
        log: Log,
    ) -> None:
        self.tf, self.network, self.options, self.log = tf, network, options, log
        self.content, self.scores = content, {}
        seen = network.features(tf.constant(content[np.newaxis]))[vgg.CONTENT_LAYER]
        painted = network.features(tf.constant(style[np.newaxis]))
        self._seen, self._grams = seen, [self._gram(painted[name]) for name in vgg.STYLE_LAYERS]
        self._evaluate = tf.function(self._losses)
        self._hash = hashlib.sha256()
        self._compiled = False

    def paint(self, cell: Cell, number: int, of: int) -> int:
        """Makes the picture, round by round, from what is there of it; the evaluations it took."""
        file, done = self.options.out / cell.file, self._done(cell)
        start = paintings.read(file, self.options.size) if done else self.content
        optimizer = {"lbfgs": LBFGS, "adam": Adam}[self.options.optimizer](
            lambda pixels: self.evaluate(pixels, cell)[:2], start
        )
        first = self.evaluate(self.content, cell)[2]
        total = self.options.rounds
        for turn in range(done, total):
            faulthandler.dump_traceback_later(self.options.stall_s, exit=True)
            begun, before = time.monotonic(), optimizer.evaluations
            loss = optimizer.run(self.options.iterations)
            took = (time.monotonic() - begun) / max(1, optimizer.evaluations - before)
            paintings.write(file, optimizer.pixels)
            self._keep(cell, turn + 1)
            self._log(number * total + turn + 1, of * total, loss, took)
            if self.options.stop_after == number * total + turn + 1:
                break
        faulthandler.cancel_dump_traceback_later()
        last = self.evaluate(optimizer.pixels, cell)[2]
        names = ("content_loss", "style_loss", "variation")
        self.scores = dict(zip(names, last, strict=True))
        self.scores["style_loss_start"] = first[1]
        self._hash.update(np.ascontiguousarray(optimizer.pixels).tobytes())
        return optimizer.evaluations

    def evaluate(
        self, pixels: np.ndarray, cell: Cell
    ) -> tuple[float, np.ndarray, tuple[float, ...]]:
        """The weighted loss, its gradient by pixel, and the three losses unweighted."""
        begun = time.monotonic()
        weights = (cell.content, cell.style, self.options.variation_weight)
        image = self.tf.constant(np.asarray(pixels, np.float32)[np.newaxis])
        loss, gradient, parts = self._evaluate(image, self.tf.constant(weights, self.tf.float32))
        if not self._compiled:
            self._compiled = True
            self.log("compile", seconds=round(time.monotonic() - begun, 3))
        return float(loss), gradient.numpy()[0], tuple(float(part) for part in parts)

    def digest(self) -> str:
        return self._hash.hexdigest()

    def _losses(self, image: Any, weights: Any) -> tuple[Any, Any, Any]:
        tf = self.tf
        with tf.GradientTape() as tape:
            tape.watch(image)
            found = self.network.features(image)
            parts = (
                _relative(tf, found[vgg.CONTENT_LAYER], self._seen),
                tf.add_n(
                    [
                        _relative(tf, self._gram(found[name]), wanted)
                        for name, wanted in zip(vgg.STYLE_LAYERS, self._grams, strict=True)
                    ]
                )
                / len(vgg.STYLE_LAYERS),
                tf.reduce_mean(tf.image.total_variation(image))
                / tf.cast(tf.size(image), tf.float32),
            )
            loss = tf.reduce_sum(weights * tf.stack(parts))
        return loss, tape.gradient(loss, image), parts

    def _gram(self, features: Any) -> Any:
        """Which channels go together, wherever in the picture."""
        tf = self.tf
        flat = tf.reshape(features, (-1, features.shape[-1]))
        return tf.matmul(flat, flat, transpose_a=True) / tf.cast(tf.shape(flat)[0], tf.float32)

    def _log(self, step: int, steps: int, loss: float, took: float) -> None:
        self.log(
            "step",
            phase="paint",
            step=step,
            steps=steps,
            loss=loss,
            step_seconds=round(took, 6),
            examples_per_second=round(1 / took, 3),
        )

    def _state(self, cell: Cell) -> Path:
        return (self.options.out / cell.file).with_suffix(".json")

    def _keep(self, cell: Cell, rounds: int) -> None:
        """The picture itself is the checkpoint: scipy's L-BFGS begins anew from it."""
        state = {"rounds": rounds, "wish": self._wish()}
        self._state(cell).write_text(json.dumps(state), encoding="utf-8")
        self.log("checkpoint", step=rounds, path=cell.file)

    def _done(self, cell: Cell) -> int:
        if not self._state(cell).exists():
            return 0
        state = json.loads(self._state(cell).read_text(encoding="utf-8"))
        if state["wish"] != self._wish():
            leave(f"{self._state(cell)} is of another run ({state['wish']})", BAD_INPUT)
        return min(int(state["rounds"]), self.options.rounds)

    def _wish(self) -> str:
        o = self.options
        return f"{self.network.origin}, {o.size} px, {o.optimizer}, seed {o.seed}"


def write_results(
    options: argparse.Namespace,
    mine: Sequence[Cell],
    cells: Sequence[Cell],
    scores: dict[str, float],
    notes: list[str],
) -> None:
    samples = [
        {
            "image": cell.file,
            "caption": f"content {cell.content:g}, style {cell.style:g}",
            "references": [],
            "exact": None,
        }
        for cell in mine
    ]
    if len(cells) > 1:
        files = {(c.content, c.style): options.out / c.file for c in cells}
        sheet = options.out / "samples" / "sheet.png"
        paintings.contact_sheet(sheet, files, notes[0][:110])
        samples.insert(
            0,
            {
                "image": "samples/sheet.png",
                "caption": "all of them",
                "references": [],
                "exact": None,
            },
        )
    results = {"workload": "style_transfer", "scores": scores, "samples": samples, "notes": notes}
    text = json.dumps(results, indent=2) + "\n"
    (options.out / "results.json").write_text(text, encoding="utf-8")


def _relative(tf: Any, found: Any, wanted: Any) -> Any:
    return tf.reduce_sum((found - wanted) ** 2) / tf.reduce_sum(wanted**2)


def _weight(top: float) -> Callable[[str], float]:
    def weight(text: str) -> float:
        value = float(text)
        if not 0 <= value <= top:
            raise argparse.ArgumentTypeError(f"{text} is not between 0 and {top:g}")
        return value

    return weight


def _range(text: str) -> list[float]:
    """``0:2:5`` is 0, 0.5, 1, 1.5 and 2."""
    try:
        start, end, count = text.split(":")
        return [round(float(v), 6) for v in np.linspace(float(start), float(end), int(count))]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not FROM:TO:COUNT, such as 0:2:5") from None


def _share(text: str) -> tuple[int, int]:
    try:
        number, of = (int(part) for part in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not I/N, such as 0/4") from None
    if not 0 <= number < of:
        raise argparse.ArgumentTypeError(f"{text}: the first must be from 0 to {of - 1}")
    return number, of


if __name__ == "__main__":
    main()
