"""Makes one picture after another with one network, and keeps what there is of each."""

import argparse
import faulthandler
import hashlib
import sys
import time
from collections.abc import Callable
from typing import Any

import keeping
import numpy as np
import paintings
import vgg
from grids import Cell
from optimizing import LBFGS, Adam

OPTIMIZERS = {"lbfgs": LBFGS, "adam": Adam}
PARTS = ("content_loss", "style_loss", "variation")

Pixels = np.ndarray


class StyleTransfer:
    """``scores`` are those of the last picture: losses at the end, each over that at the start."""

    def __init__(
        self,
        tf: Any,
        network: vgg.Network,
        content: Pixels,
        style: Pixels,
        options: argparse.Namespace,
        log: Callable[..., None],
    ) -> None:
        self.tf, self.options, self.log = tf, options, log
        self.content, self.style = content, style
        self.scores: dict[str, float] = {}
        self.evaluations = 0
        self._wish = wish(network, content, style, options)
        painted = tf.constant(style[np.newaxis])
        self.network = network if network.trained else network.fitted(painted)
        self._seen = self.network.features(tf.constant(content[np.newaxis]))[vgg.CONTENT_LAYER]
        wanted = self.network.features(painted)
        self._grams = [self._gram(wanted[name]) for name in vgg.STYLE_LAYERS]
        self._evaluate = tf.function(self._losses, jit_compile=options.xla)
        self._hash = hashlib.sha256()
        self._compiled = False

    def paint(self, cell: Cell, before: int, of: int) -> int:
        """Makes the picture from what there is of it; the iterations that it has had then.

        ``before`` were made on other pictures, and ``of`` are to be made in all.
        """
        kept = self._kept(cell)
        optimizer = OPTIMIZERS[self.options.optimizer](
            lambda pixels: self._watched(pixels, cell), kept.pixels, kept.memory
        )
        first = self.evaluate(self.start(cell), cell)[2]
        sitting = Optimization(self, cell, optimizer, kept.done, (before, of))
        sitting.run()
        last = self.evaluate(optimizer.pixels, cell)[2]
        self.scores = dict(zip(PARTS, last, strict=True)) | {"style_loss_start": first[1]}
        self.evaluations += optimizer.evaluations
        self._hash.update(np.ascontiguousarray(optimizer.pixels).tobytes())
        return sitting.done

    def start(self, cell: Cell) -> Pixels:
        """The content; a random network needs help with colours, as much as the style weighs."""
        if self.network.trained or not cell.style:
            return self.content
        share = cell.style / (cell.content + cell.style)
        return paintings.recoloured(self.content, self.style, share)

    def evaluate(self, pixels: Pixels, cell: Cell) -> tuple[float, Pixels, tuple[float, ...]]:
        """The weighted loss, its gradient by pixel, and the three losses unweighted."""
        begun = time.monotonic()
        weights = (cell.content, cell.style, self.options.variation_weight)
        image = self.tf.constant(np.asarray(pixels, np.float32)[np.newaxis])
        loss, gradient, parts = self._evaluate(image, self.tf.constant(weights, self.tf.float32))
        if not self._compiled:
            self._compiled = True
            self.log("compile", seconds=round(time.monotonic() - begun, 3))
        return float(loss), gradient.numpy()[0], tuple(float(part) for part in parts)

    def save(self, cell: Cell, optimizer: Any, done: int) -> str:
        """The picture for people, and what goes on from it; where that is, below --out."""
        path = f"checkpoints/{cell.name}.npz"
        kept = keeping.SavedState(optimizer.pixels, done, optimizer.memory)
        keeping.keep(self.options.out / path, kept, self._wish_for(cell))
        paintings.write(self.options.out / cell.file, optimizer.pixels)
        return path

    def digest(self) -> str:
        return self._hash.hexdigest()

    def _kept(self, cell: Cell) -> keeping.SavedState:
        file = self.options.out / f"checkpoints/{cell.name}.npz"
        try:
            kept = keeping.find(file, self._wish_for(cell))
        except keeping.Damaged as error:
            print(f"{error}; its picture is begun anew", file=sys.stderr, flush=True)
            kept = None
        if kept is None:
            return keeping.SavedState(self.start(cell))
        asked = self.options.rounds * self.options.iterations
        if kept.done > asked:
            raise keeping.OtherWish(f"{file} has had {kept.done} iterations, more than {asked}")
        paintings.write(self.options.out / cell.file, kept.pixels)
        return kept

    def _wish_for(self, cell: Cell) -> dict[str, str]:
        return self._wish | {"content weight": str(cell.content), "style weight": str(cell.style)}

    def _watched(self, pixels: Pixels, cell: Cell) -> tuple[float, Pixels]:
        """TensorFlow holds the interpreter while it hangs; faulthandler's thread ends it yet."""
        faulthandler.dump_traceback_later(self.options.stall_s, exit=True)
        return self.evaluate(pixels, cell)[:2]

    def _losses(self, image: Any, weights: Any) -> tuple[Any, Any, Any]:
        tf = self.tf
        with tf.GradientTape() as tape:
            tape.watch(image)
            found = self.network.features(image)
            parts = (
                _relative(tf, found[vgg.CONTENT_LAYER], self._seen),
                self._style_loss(found),
                tf.reduce_mean(tf.image.total_variation(image))
                / tf.cast(tf.size(image), tf.float32),
            )
            loss = tf.reduce_sum(weights * tf.stack(parts))
        return loss, tape.gradient(loss, image), parts

    def _style_loss(self, found: dict[str, Any]) -> Any:
        layers = zip(self.network.style_weights, vgg.STYLE_LAYERS, self._grams, strict=True)
        return self.tf.add_n(
            [
                weight * _relative(self.tf, self._gram(found[name]), wanted)
                for weight, name, wanted in layers
            ]
        )

    def _gram(self, features: Any) -> Any:
        """Which channels go together, wherever in the picture."""
        tf = self.tf
        flat = tf.reshape(features, (-1, features.shape[-1]))
        return tf.matmul(flat, flat, transpose_a=True) / tf.cast(tf.shape(flat)[0], tf.float32)


def wish(
    network: vgg.Network, content: Pixels, style: Pixels, options: argparse.Namespace
) -> dict[str, str]:
    """All that shapes a picture but its own two weights, and by which name it is told apart."""
    return {
        "size": str(options.size),
        "content": keeping.digest(content),
        "style": keeping.digest(style),
        "network": network.digest(),
        "variation weight": str(options.variation_weight),
        "optimizer": options.optimizer,
        "number of iterations a round": str(options.iterations),
    }


class Optimization:
    """One picture while it is made: round by round, saved every so many evaluations."""

    def __init__(
        self, painter: StyleTransfer, cell: Cell, optimizer: Any, done: int, place: tuple[int, int]
    ) -> None:
        self.painter, self.cell, self.optimizer, self.done = painter, cell, optimizer, done
        self._options, (self._before, self._of) = painter.options, place
        self._saved = (done, 0, time.monotonic())

    def run(self) -> None:
        length = self._options.iterations
        while self.done < self._options.rounds * length and not self._stopped():
            end = (self.done // length + 1) * length
            loss = self.optimizer.run(end - self.done, self._after)
            if not self._stopped():
                self.done = end  # before the last iteration when it found nothing better
            self._save(loss)
        faulthandler.cancel_dump_traceback_later()

    def _after(self, loss: float) -> bool:
        self.done += 1
        if self.optimizer.evaluations - self._saved[1] >= self._options.save_every:
            self._save(loss)
        return self._stopped()

    def _stopped(self) -> bool:
        return 0 < (self._options.stop_after or 0) <= self._before + self.done

    def _save(self, loss: float) -> None:
        done, evaluations, begun = self._saved
        if self.done == done:
            return
        took = (time.monotonic() - begun) / max(1, self.optimizer.evaluations - evaluations)
        path = self.painter.save(self.cell, self.optimizer, self.done)
        step = self._before + self.done
        self.painter.log("checkpoint", step=step, path=path)
        self.painter.log(
            "step",
            phase="paint",
            step=step,
            steps=self._of,
            loss=loss,
            step_seconds=round(took, 6),
            examples_per_second=round(1 / took, 3),
        )
        self._saved = (self.done, self.optimizer.evaluations, time.monotonic())


def _relative(tf: Any, found: Any, wanted: Any) -> Any:
    return tf.reduce_sum((found - wanted) ** 2) / tf.maximum(tf.reduce_sum(wanted**2), 1e-9)
