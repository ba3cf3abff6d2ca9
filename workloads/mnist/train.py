"""mnist's network, its training, and its scores."""

from collections.abc import Callable
from typing import Any

import numpy as np

from common import training
from common.checkpoints import Checkpoints
from common.files import sha256
from common.local_sgd import LocalSGD, rounds_of
from common.program import EndFields, Session
from common.results import sample, write_results
from mnist.dataset import Digits
from mnist.options import NAME, Options

LOG_EVERY = 20
SAMPLES = 12


def work(session: Session, options: Options, data: Digits) -> EndFields:
    trainer = Trainer(session, options, data)
    trainer.train()
    session.by_chief(lambda: evaluate(session, trainer, data))
    return {"steps": trainer.done, "weights_sha256": trainer.digest()}


class Trainer:
    """``done`` is the number of steps done; ``per_epoch`` the steps of an epoch."""

    def __init__(self, session: Session, options: Options, data: Digits) -> None:
        self.tf, self.strategy = session.tf, session.strategy
        self.session, self.options, self.data = session, options, data
        tf = self.tf
        if options.mixed_precision:
            tf.keras.mixed_precision.set_global_policy("mixed_float16")
        tf.keras.utils.set_random_seed(options.seed)
        with self.strategy.scope():
            self.model = build(tf, data.side)
            optimizer = tf.keras.optimizers.Adam(1e-3)
            if options.mixed_precision:
                optimizer = tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
            self.optimizer = optimizer
            self.optimizer.build(self.model.trainable_variables)
        made_with = (
            f"digits {data.sha256()[:12]}, batch {options.batch_size}, seed {options.seed}"
            f"{', mixed precision' if options.mixed_precision else ''}"
        )
        self._checkpoints = Checkpoints(
            tf.train.Checkpoint(model=self.model, optimizer=self.optimizer),
            session.out,
            made_with,
            chief=session.keeps_checkpoints,
            warn=session.warn,
        )
        state = self._checkpoints.restore() or 0
        self._state = state if isinstance(state, dict) else {"step": state}  # as in older runs
        self.done = int(self._state["step"])
        training.check_same_step(tf, self.strategy, self.done)
        self.per_epoch = len(data.train_y) // options.batch_size
        self.step = tf.function(self._distributed)
        self._order = (-1, np.zeros(0, np.int64))

    def train(self) -> None:
        options, steps = self.options, self.options.epochs * self.per_epoch
        cluster = self.session.cluster
        phase = training.Phase(
            "train",
            steps,
            len(range(cluster.worker, options.batch_size, cluster.workers)),
            options.checkpoint_every,
            options.stall_s,
        )
        stop = min(steps, options.stop_after or steps)
        local = self._local(stop)
        if local is None:
            calls = training.calls(self.batch_at, self.done, stop, phase, LOG_EVERY)
        else:
            calls = local.calls(lambda rows, _: self._batch(rows), lambda _: None, LOG_EVERY)
            self.done = local.done

        def save(done: int) -> str | None:
            state = {"step": done} if local is None else local.state
            return self._checkpoints.save(f"train-{state['step']}", state)

        with self.session.log.phase("train"):
            done = training.train(self.session.log, phase, self.done, calls, self.step, save)
        self.done = done if local is None else local.done

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The most likely digit of each image; int64 [n]."""
        parts = [self.model(images[at : at + 500]).numpy() for at in range(0, len(images), 500)]
        return np.asarray(np.concatenate(parts).argmax(1))

    def digest(self) -> str:
        return sha256(variable.numpy() for variable in self.model.trainable_variables)

    def batch_at(self, step: int) -> tuple[Any, Any]:
        """The batch of a step, determined by seed and step, so that resumed runs have the same."""
        epoch, at = divmod(step, self.per_epoch)
        if epoch != self._order[0]:
            draw = np.random.default_rng([self.options.seed, epoch])
            self._order = (epoch, draw.permutation(len(self.data.train_y)))
        size, cluster = self.options.batch_size, self.session.cluster
        rows = self._order[1][at * size : (at + 1) * size][cluster.worker :: cluster.workers]
        return self._batch(rows)

    def _batch(self, rows: np.ndarray) -> tuple[Any, Any]:
        return self.tf.constant(self.data.train_x[rows]), self.tf.constant(self.data.train_y[rows])

    def _local(self, steps: int) -> LocalSGD | None:
        """Where weights are averaged, this waits for the other workers."""
        if self.session.averaging is None:
            return None
        return LocalSGD(
            self.session.averaging,
            self.session.log,
            "train",
            self.model.trainable_variables,
            total=len(self.data.train_y),
            steps=steps,
            batch=self.options.batch_size,
            every=self.options.average_every,
            seed=self.options.seed,
            rounds=rounds_of(self._state),
        )

    def _distributed(self, x: Any, y: Any) -> Any:
        compute = self.tf.function(self._compute, jit_compile=True) if self.options.xla else None
        return self.strategy.reduce(
            "SUM", self.strategy.run(self._apply, args=(x, y, compute or self._compute)), axis=None
        )

    def _compute(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Loss and gradients; divides by the global batch size, since Keras sums gradients."""
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


def evaluate(session: Session, trainer: Trainer, data: Digits) -> None:
    """Scores of the test set, and of always predicting the most frequent digit."""
    with session.log.phase("evaluate"):
        predicted = trainer.predict(data.test_x)
        right = float((predicted == data.test_y).mean())
        often = float((data.test_y == np.bincount(data.train_y).argmax()).mean())
        scores = {"accuracy": right, "accuracy_commonest": often}
        commonest = {"baseline_of": "accuracy", "means": "always predicting the commonest digit"}
        for name, value in scores.items():
            more = commonest if name == "accuracy_commonest" else {}
            of = {"split": "test", "examples": len(predicted)}
            session.log("score", name=name, value=value, **of, **more)
        samples = _write_samples(session, data, predicted)
    notes = [f"data: {data.origin}", f"always predicting the most frequent digit: {often:.3f}"]
    write_results(session.out, NAME, scores, samples, notes)


def _write_samples(session: Session, data: Digits, predicted: np.ndarray) -> list[dict[str, Any]]:
    """Wrong predictions first, since they are more interesting."""
    from PIL import Image

    (session.out / "samples").mkdir(exist_ok=True)
    wrong = np.flatnonzero(predicted != data.test_y)
    others = np.flatnonzero(predicted == data.test_y)
    samples = []
    for number, at in enumerate([*wrong[: SAMPLES // 2], *others][:SAMPLES]):
        file = f"samples/{number:03d}.png"
        pixels = (data.test_x[at, :, :, 0] * 255).astype(np.uint8)
        Image.fromarray(pixels).resize((96, 96), Image.Resampling.NEAREST).save(session.out / file)
        exact = bool(predicted[at] == data.test_y[at])
        samples.append(sample(file, str(predicted[at]), [str(data.test_y[at])], exact=exact))
    return samples
