"""Makes pictures with one network, and saves the state of each."""

import faulthandler
import hashlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from common.errors import BadInput
from common.program import Session
from style import images, saved_state, vgg19
from style.grid import Cell
from style.images import Pixels
from style.optimizers import LBFGS, OPTIMIZERS, Adam
from style.options import Options
from style.saved_state import SavedState

PARTS = ("content_loss", "style_loss", "variation")


class StyleTransfer:
    """``scores`` are the losses of the last picture and its style loss at the start; ``scored`` is
    that picture's title.
    """

    def __init__(
        self,
        session: Session,
        network: vgg19.Network,
        content: Pixels,
        style: Pixels,
        options: Options,
    ) -> None:
        self.session, self.options, self.tf = session, options, session.tf
        self.content, self.style = content, style
        self.scores: dict[str, float] = {}
        self.scored = ""
        self.evaluations = 0
        tf = self.tf
        self._made_with = made_with(network, content, style, options)
        style_image = tf.constant(style[np.newaxis])
        self.network = network if network.trained else network.fitted(style_image)
        content_image = tf.constant(content[np.newaxis])
        self._content_target = self.network.features(content_image)[vgg19.CONTENT_LAYER]
        style_features = self.network.features(style_image)
        self._grams = [self._gram(style_features[name]) for name in vgg19.STYLE_LAYERS]
        self._evaluate = tf.function(self._losses, jit_compile=options.xla)
        self._hash = hashlib.sha256()
        self._compiled = False

    def paint(self, cell: Cell, before: int, of: int) -> int:
        """Makes or resumes the picture; returns its number of iterations.

        ``before`` is the number of iterations of the previous pictures, ``of`` that of all.
        """
        state = self._saved_state(cell)
        optimizer = OPTIMIZERS[self.options.optimizer](
            lambda pixels: self._watched(pixels, cell), state.pixels, state.memory
        )
        first = self.evaluate(self.start(cell), cell)[2]
        optimization = Optimization(self, cell, optimizer, state.done, (before, of))
        optimization.run()
        last = self.evaluate(optimizer.pixels, cell)[2]
        self.scored = cell.title
        self.scores = dict(zip(PARTS, last, strict=True)) | {"style_loss_start": first[1]}
        self.evaluations += optimizer.evaluations
        self._hash.update(np.ascontiguousarray(optimizer.pixels).tobytes())
        return optimization.done

    def start(self, cell: Cell) -> Pixels:
        """The content, with a random network recoloured according to the weight of the style."""
        if self.network.trained or not cell.style:
            return self.content
        share = cell.style / (cell.content + cell.style)
        return images.recoloured(self.content, self.style, share)

    def evaluate(self, pixels: Pixels, cell: Cell) -> tuple[float, Pixels, tuple[float, ...]]:
        """The weighted loss, its gradient by pixel, and the three unweighted losses."""
        begun = time.monotonic()
        weights = (cell.content, cell.style, self.options.variation_weight)
        image = self.tf.constant(np.asarray(pixels, np.float32)[np.newaxis])
        loss, gradient, parts = self._evaluate(image, self.tf.constant(weights, self.tf.float32))
        if not self._compiled:
            self._compiled = True
            self.session.log("compile", seconds=round(time.monotonic() - begun, 3))
        return float(loss), gradient.numpy()[0], tuple(float(part) for part in parts)

    def save(self, cell: Cell, optimizer: LBFGS | Adam, done: int) -> str:
        """Writes the picture and its state; returns the state's path below --out."""
        path = f"checkpoints/{cell.name}.npz"
        state = SavedState(optimizer.pixels, done, optimizer.memory)
        saved_state.save(self.options.out / path, state, self._made_with_for(cell))
        images.write(self.options.out / cell.file, optimizer.pixels)
        return path

    def digest(self) -> str:
        """The hash of all finished pictures."""
        return self._hash.hexdigest()

    def _saved_state(self, cell: Cell) -> SavedState:
        file = self.options.out / f"checkpoints/{cell.name}.npz"
        try:
            state = saved_state.load(file, self._made_with_for(cell))
        except saved_state.Damaged as error:
            self.session.warn(f"{error}; restarting its picture")
            state = None
        if state is None:
            return SavedState(self.start(cell))
        wanted = self.options.rounds * self.options.iterations
        if state.done > wanted:
            raise BadInput(f"{file} has had {state.done} iterations, more than {wanted}")
        images.write(self.options.out / cell.file, state.pixels)
        return state

    def _made_with_for(self, cell: Cell) -> dict[str, str]:
        weights = {"content weight": str(cell.content), "style weight": str(cell.style)}
        return {**self._made_with, **weights}

    def _watched(self, pixels: Pixels, cell: Cell) -> tuple[float, Pixels]:
        """Evaluates with a time limit by faulthandler: a hanging TensorFlow holds the GIL."""
        faulthandler.dump_traceback_later(self.options.stall_s, exit=True)
        return self.evaluate(pixels, cell)[:2]

    def _losses(self, image: Any, weights: Any) -> tuple[Any, Any, Any]:
        tf = self.tf
        with tf.GradientTape() as tape:
            tape.watch(image)
            found = self.network.features(image)
            parts = (
                _relative(tf, found[vgg19.CONTENT_LAYER], self._content_target),
                self._style_loss(found),
                tf.reduce_mean(tf.image.total_variation(image))
                / tf.cast(tf.size(image), tf.float32),
            )
            loss = tf.reduce_sum(weights * tf.stack(parts))
        return loss, tape.gradient(loss, image), parts

    def _style_loss(self, found: dict[str, Any]) -> Any:
        layers = zip(self.network.style_weights, vgg19.STYLE_LAYERS, self._grams, strict=True)
        return self.tf.add_n(
            [
                weight * _relative(self.tf, self._gram(found[name]), wanted)
                for weight, name, wanted in layers
            ]
        )

    def _gram(self, features: Any) -> Any:
        """Products of channels, summed over the picture: [channels, channels]."""
        tf = self.tf
        flat = tf.reshape(features, (-1, features.shape[-1]))
        return tf.matmul(flat, flat, transpose_a=True) / tf.cast(tf.shape(flat)[0], tf.float32)


def made_with(
    network: vgg19.Network, content: Pixels, style: Pixels, options: Options
) -> Mapping[str, str]:
    """Everything that affects a picture except its two weights, by a name for messages."""
    return {
        "size": str(options.size),
        "content": saved_state.digest(content),
        "style": saved_state.digest(style),
        "network": network.digest(),
        "variation weight": str(options.variation_weight),
        "optimizer": options.optimizer,
        "number of iterations a round": str(options.iterations),
    }


class Optimization:
    """Optimizes one picture in rounds; saves after each round and every ``save_every`` evaluations.

    ``done`` is its number of iterations. ``place`` are the number of iterations of the previous
    pictures and that of all.
    """

    def __init__(
        self,
        transfer: StyleTransfer,
        cell: Cell,
        optimizer: LBFGS | Adam,
        done: int,
        place: tuple[int, int],
    ) -> None:
        self.transfer, self.cell, self.optimizer, self.done = transfer, cell, optimizer, done
        self._options, (self._before, self._of) = transfer.options, place
        self._saved = (done, 0, time.monotonic())

    def run(self) -> None:
        length = self._options.iterations
        while self.done < self._options.rounds * length and not self._stopped():
            end = (self.done // length + 1) * length
            loss = self.optimizer.run(end - self.done, self._after)
            if not self._stopped():
                self.done = end  # L-BFGS may end a round early when it has converged
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
        path = self.transfer.save(self.cell, self.optimizer, self.done)
        step, log = self._before + self.done, self.transfer.session.log
        log("checkpoint", step=step, path=path)
        log(
            "step",
            phase="paint",
            step=step,
            steps=self._of,
            of=self.cell.title,
            loss=loss,
            step_seconds=round(took, 6),
            examples_per_second=round(1 / took, 3),
        )
        self._saved = (self.done, self.optimizer.evaluations, time.monotonic())


def _relative(tf: Any, found: Any, wanted: Any) -> Any:
    return tf.reduce_sum((found - wanted) ** 2) / tf.maximum(tf.reduce_sum(wanted**2), 1e-9)
