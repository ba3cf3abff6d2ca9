"""Handwritten digits with a small convolutional network: the demo of "Virtualizing Deep Learning".

    python mnist.py --out out                        # scikit-learn's digits, offline
    python mnist.py --out out --data mnist.npz
    python mnist.py --out out --data download --preset paper

workloads/README.md says what is written to --out.
"""

import argparse
import faulthandler
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import digits
import numpy as np
from checkpoints import Checkpoints
from records import Log
from starting import (
    BAD_INPUT,
    LOST_A_PEER,
    announce,
    check_same_step,
    choose_preset,
    common_options,
    exit_with,
    start_watchdog,
    task,
    tensorflow,
)

LOG_EVERY = 20
SAMPLES = 12
PRESETS = {
    "quick": {"epochs": 12, "batch_size": 32},
    "paper": {"epochs": 20, "batch_size": 128},
}


def main() -> None:
    options = parse()
    worker, peers = task()
    started = start_watchdog(options.start_deadline_s, worker, peers)
    try:
        run(options, worker, peers, started)
    except digits.BadData as error:
        exit_with(str(error), BAD_INPUT)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common_options(parser)
    parser.add_argument("--data", metavar="FILE|download", help="an mnist.npz; default: offline")
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch-size", type=int, help="examples per step, over all workers")
    parser.add_argument("--xla", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--mixed-precision", action="store_true", help="float16 where it is safe")
    parser.add_argument("--checkpoint-every", type=int, default=100, metavar="STEPS")
    return choose_preset(parser, PRESETS)


def run(
    options: argparse.Namespace, worker: int, peers: Sequence[str], started: Callable[[], None]
) -> None:
    begun = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    log = Log(options.out / "timings.jsonl")
    with log.phase("data"):
        data = digits.load(options.data)
        if len(data.train_y) < options.batch_size:
            raise digits.BadData(
                f"--batch-size {options.batch_size}: only {len(data.train_y)} images to train on"
            )
    tf, strategy = tensorflow(options, len(peers))
    started()
    announce(log, tf, options, worker, len(peers))
    trainer = Trainer(tf, strategy, options, data, log, worker, len(peers))
    try:
        trainer.train()
        if worker == 0:
            evaluate(trainer, data, options, log)
        trainer.barrier()
    except tf.errors.OpError as error:
        if len(peers) == 1:
            raise
        exit_with(f"another worker went away: {str(error).splitlines()[0][:200]}", LOST_A_PEER)
    seconds = round(time.monotonic() - begun, 3)
    log("end", ok=True, steps=trainer.done, seconds=seconds, weights_sha256=trainer.digest())


class Trainer:
    def __init__(
        self,
        tf: Any,
        strategy: Any,
        options: argparse.Namespace,
        data: digits.Digits,
        log: Log,
        worker: int,
        workers: int,
    ) -> None:
        self.tf, self.strategy, self.options, self.log = tf, strategy, options, log
        self.data, self.worker, self.workers = data, worker, workers
        if options.mixed_precision:
            tf.keras.mixed_precision.set_global_policy("mixed_float16")
        tf.keras.utils.set_random_seed(options.seed)
        with strategy.scope():
            self.model = build(tf, data.side)
            optimizer = tf.keras.optimizers.Adam(1e-3)
            if options.mixed_precision:
                optimizer = tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
            self.optimizer = optimizer
            self.optimizer.build(self.model.trainable_variables)
        checkpoint = tf.train.Checkpoint(model=self.model, optimizer=self.optimizer)
        wish = (
            f"digits {data.sha256()[:12]}, batch {options.batch_size}, seed {options.seed}"
            f"{', mixed precision' if options.mixed_precision else ''}"
        )
        self.kept = Checkpoints(checkpoint, options.out, wish, chief=worker == 0)
        self.done = self._saved = self.kept.restore() or 0
        check_same_step(tf, strategy, self.done, workers)
        self.per_epoch = len(data.train_y) // options.batch_size
        self._step = tf.function(self._distributed)
        self._shuffled = (-1, np.zeros(0, np.int64))

    def train(self) -> None:
        options, steps = self.options, self.options.epochs * self.per_epoch
        with self.log.phase("train"):
            since, logged, first = time.monotonic(), self.done, True
            for step in range(self.done, steps):
                faulthandler.dump_traceback_later(options.stall_s, exit=True)
                loss = self._step(*self._batch(step))
                self.done = step + 1
                if first:
                    self._log_first(float(loss), steps, time.monotonic() - since)
                    since, logged, first = time.monotonic(), self.done, False
                elif self.done % LOG_EVERY == 0 or self.done == steps:
                    self._log(float(loss), steps, (time.monotonic() - since) / (self.done - logged))
                    since, logged = time.monotonic(), self.done
                if self.done % options.checkpoint_every == 0:
                    self._save()
                if self.done == options.stop_after:
                    break
            if self.done > self._saved:
                self._save()
            faulthandler.cancel_dump_traceback_later()

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The digit that each is taken for."""
        parts = [self.model(images[at : at + 500]).numpy() for at in range(0, len(images), 500)]
        return np.concatenate(parts).argmax(1)

    def barrier(self) -> None:
        """Nobody leaves before the chief is done: its leaving would look like a death."""
        if self.workers > 1:
            one = self.tf.constant(1.0)
            self.tf.function(
                lambda: self.strategy.reduce("SUM", self.strategy.run(lambda: one), axis=None)
            )()

    def digest(self) -> str:
        joined = hashlib.sha256()
        for variable in self.model.trainable_variables:
            joined.update(np.ascontiguousarray(variable.numpy()).tobytes())
        return joined.hexdigest()

    def _distributed(self, x: Any, y: Any) -> Any:
        compute = self.tf.function(self._compute, jit_compile=True) if self.options.xla else None
        return self.strategy.reduce(
            "SUM", self.strategy.run(self._apply, args=(x, y, compute or self._compute)), axis=None
        )

    def _compute(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Loss and gradients; the loss is over the global batch, since Keras sums over workers."""
        tf = self.tf
        with tf.GradientTape() as tape:
            logits = tf.cast(self.model(x, training=True), tf.float32)
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
            loss = tf.reduce_sum(each) / self.options.batch_size
            scaled = self.optimizer.scale_loss(loss)
        variables = [variable.value for variable in self.model.trainable_variables]
        return loss, tape.gradient(scaled, variables)

    def _apply(self, x: Any, y: Any, compute: Callable[..., tuple[Any, Any]]) -> Any:
        loss, gradients = compute(x, y)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return loss

    def _batch(self, step: int) -> tuple[Any, Any]:
        """By seed and step, so that a resumed run sees what the first one would have seen."""
        epoch, at = divmod(step, self.per_epoch)
        if epoch != self._shuffled[0]:
            draw = np.random.default_rng([self.options.seed, epoch])
            self._shuffled = (epoch, draw.permutation(len(self.data.train_y)))
        size = self.options.batch_size
        rows = self._shuffled[1][at * size : (at + 1) * size][self.worker :: self.workers]
        return self.tf.constant(self.data.train_x[rows]), self.tf.constant(self.data.train_y[rows])

    def _log_first(self, loss: float, steps: int, took: float) -> None:
        """Of the first step no rate: it is the compiler's."""
        self.log("compile", seconds=round(took, 3))
        self.log("step", phase="train", step=self.done, steps=steps, loss=loss)

    def _log(self, loss: float, steps: int, took: float) -> None:
        share = len(range(self.worker, self.options.batch_size, self.workers))
        self.log(
            "step",
            phase="train",
            step=self.done,
            steps=steps,
            loss=loss,
            step_seconds=round(took, 6),
            examples_per_second=round(share / took, 3),
        )

    def _save(self) -> None:
        path = self.kept.save(f"train-{self.done}", self.done)
        self._saved = self.done
        if path is not None:
            self.log("checkpoint", step=self.done, path=path)


def build(tf: Any, side: int) -> Any:
    """Two convolutions and a dense layer; ``side`` is 8 for the small digits, 28 for MNIST."""
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            tf.keras.Input((side, side, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10, dtype="float32"),
        ]
    )


def evaluate(trainer: Trainer, data: digits.Digits, options: argparse.Namespace, log: Log) -> None:
    with log.phase("evaluate"):
        said = trainer.predict(data.test_x)
        right = float((said == data.test_y).mean())
        often = float((data.test_y == np.bincount(data.train_y).argmax()).mean())
        for name, value in (("accuracy", right), ("accuracy_commonest", often)):
            log("score", name=name, value=value, split="test", examples=len(said))
        samples = write_samples(options, data, said)
    results = {
        "workload": "mnist",
        "scores": {"accuracy": right, "accuracy_commonest": often},
        "samples": samples,
        "notes": [f"data: {data.origin}", f"always saying the commonest digit: {often:.3f}"],
    }
    text = json.dumps(results, indent=2) + "\n"
    (options.out / "results.json").write_text(text, encoding="utf-8")


def write_samples(
    options: argparse.Namespace, data: digits.Digits, said: np.ndarray
) -> list[dict[str, Any]]:
    """Wrong ones first: they are the ones worth a look."""
    from PIL import Image

    (options.out / "samples").mkdir(exist_ok=True)
    wrong = np.flatnonzero(said != data.test_y)
    others = np.flatnonzero(said == data.test_y)
    samples = []
    for number, at in enumerate([*wrong[: SAMPLES // 2], *others][:SAMPLES]):
        file = f"samples/{number:03d}.png"
        pixels = (data.test_x[at, :, :, 0] * 255).astype(np.uint8)
        Image.fromarray(pixels).resize((96, 96), Image.Resampling.NEAREST).save(options.out / file)
        real = str(data.test_y[at])
        exact = bool(said[at] == data.test_y[at])
        samples.append(
            {"image": file, "caption": str(said[at]), "references": [real], "exact": exact}
        )
    return samples


if __name__ == "__main__":
    main()
