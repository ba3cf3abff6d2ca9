"""How captioning.py learns: the encoder to see, then the captioner to speak.

What a batch holds is derived from (seed, step), what is dropped from the features too, and both by
the place in the global batch: the same whatever the number of workers, and after a resume.
"""

import argparse
import faulthandler
import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scenes
import seeing
from checkpoints import Checkpoints
from examples import PAD, START, Data, Shard
from prefetch import prefetch
from records import Log
from speaking import DIM_IN, Captioner, build_encoder, seeing_loss

LOG_EVERY, MOST_LOGGED = 10, 3000
DROPPED = 0.4
ENCODER_RATE = 2e-3
SETTLED_BY = 256


class Trainer:
    """Two models in one strategy."""

    def __init__(
        self,
        tf: Any,
        strategy: Any,
        options: argparse.Namespace,
        data: Data,
        shard: Shard,
        log: Log,
    ) -> None:
        self.tf, self.strategy, self.options = tf, strategy, options
        self.data, self.shard, self.log = data, shard, log
        tf.keras.utils.set_random_seed(options.seed)
        outputs = len(data.words) if data.real else sum(scenes.LABELS)
        with strategy.scope():
            self.encoder, self.head = build_encoder(tf, outputs)
            self.captioner = Captioner(tf, len(data.words), data.length)
            self.encoder_optimizer = adam(tf, ENCODER_RATE, options.encoder_steps)
            self.optimizer = adam(tf, options.learning_rate, options.steps)
            self.encoder_optimizer.build(self.encoder_variables())
            self.optimizer.build(self.captioner.trainable())
        self._spoken = tf.function(self.caption_loss, jit_compile=True) if options.xla else None
        self.vgg16 = seeing.VGG16(tf, options.vgg16_weights) if options.vgg16_weights else None
        self._cache = seeing.Cache(options.feature_cache)
        checkpoint = tf.train.Checkpoint(
            encoder=self.encoder,
            head=self.head,
            captioner=self.captioner.parts(),
            encoder_optimizer=self.encoder_optimizer,
            optimizer=self.optimizer,
        )
        self._kept_state = Checkpoints(
            checkpoint, options.out, self._wish(), chief=shard.worker == 0
        )
        self.done = self._kept_state.restore() or {"encoder": 0, "train": 0}

    def train(self) -> None:
        if self.vgg16 is None:
            with self.log.phase("images"):
                self.data.keep([self.data.train[i] for i in self._looked_at()])
            with self.log.phase("encoder"):
                self._loop(
                    "encoder", self.options.encoder_steps, self.encoder_step, self._images_at
                )
        with self.log.phase("features"):
            self._look()
            self.data.keep([])
        with self.log.phase("train"):
            self._loop("train", self.options.steps, self.caption_step, self._captions_at)

    def features(self, examples: Sequence[Any], *, perturb: bool = False) -> np.ndarray:
        """float16 [n, 4096]; in parts, since pictures are large and their features are not."""
        found = np.empty((len(examples), DIM_IN), np.float16)
        size = scenes.SIZE if self.vgg16 is None else seeing.SIDE
        for at in range(0, len(examples), seeing.AT_ONCE):
            some = examples[at : at + seeing.AT_ONCE]
            images = self.data.images(some, perturb=perturb, size=size)
            found[at : at + len(some)] = self._seen(images)
        return found

    def barrier(self) -> None:
        """Nobody leaves before the chief is done: its leaving would look like a death."""
        if self.shard.workers > 1:
            self._sum(self.tf.constant(1.0))

    def digest(self) -> str:
        variables = [*self.encoder_variables(), *self.captioner.trainable()]
        joined = hashlib.sha256()
        for variable in variables:
            joined.update(np.ascontiguousarray(variable.numpy()).tobytes())
        return joined.hexdigest()

    def _loop(
        self,
        phase: str,
        steps: int,
        compute: Callable[..., Any],
        batch_at: Callable[[int], tuple[Any, ...]],
    ) -> None:
        step_function = self._distributed(compute)
        since, first = time.monotonic(), True
        log_every = max(LOG_EVERY, steps // MOST_LOGGED)
        for step, batch in prefetch(batch_at, range(self.done[phase], steps)):
            faulthandler.dump_traceback_later(self.options.stall_s, exit=True)
            loss = step_function(*batch)
            self.done[phase] = step + 1
            if first:
                float(loss)
                self.log("compile", seconds=round(time.monotonic() - since, 3))
                since, logged, first = time.monotonic(), step + 1, False
            elif (step + 1) % log_every == 0 or step + 1 == steps:
                value = float(loss)
                took = (time.monotonic() - since) / (step + 1 - logged)
                self._log_step(phase, step + 1, steps, value, took)
                since, logged = time.monotonic(), step + 1
            last = step + 1 in (steps, self.options.stop_after if phase == "train" else None)
            if last or (step + 1) % self.options.checkpoint_every == 0:
                self._save(phase, step + 1)
            if last:
                break
        faulthandler.cancel_dump_traceback_later()

    def _log_step(self, phase: str, step: int, steps: int, loss: float, took: float) -> None:
        batch = self.options.batch_size if phase == "train" else self.options.encoder_batch_size
        self.log(
            "step",
            phase=phase,
            step=step,
            steps=steps,
            loss=loss,
            step_seconds=round(took, 6),
            examples_per_second=round(batch / self.shard.workers / took, 3),
        )

    def _distributed(self, compute: Callable[..., Any]) -> Any:
        """Per worker on its own part of the batch; the logged loss is the sum over all."""

        @self.tf.function
        def step(*batch: Any) -> Any:
            return self._reduced(self.strategy.run(compute, args=batch))

        return step

    def _sum(self, value: Any) -> Any:
        return self.tf.function(lambda v: self._reduced(self.strategy.run(lambda x: x, (v,))))(
            value
        )

    def _reduced(self, value: Any) -> Any:
        return self.strategy.reduce("SUM", value, axis=None)

    def encoder_step(self, images: Any, targets: Any) -> Any:
        tf = self.tf
        with tf.GradientTape() as tape:
            logits = self.head(self.encoder(seeing.scaled(tf, images), training=True))
            loss = tf.reduce_sum(seeing_loss(tf, logits, targets, real=self.data.real))
            loss /= self.options.encoder_batch_size
        # Keras sums the gradients over workers itself, hence the losses over the global batch.
        gradients = tape.gradient(loss, [variable.value for variable in self.encoder_variables()])
        self.encoder_optimizer.apply(gradients, self.encoder_variables())
        return loss

    def caption_step(self, features: Any, outputs: Any, step: Any) -> Any:
        loss, gradients = (self._spoken or self.caption_loss)(features, outputs, step)
        self.optimizer.apply(gradients, self.captioner.trainable())
        return loss

    def caption_loss(self, features: Any, outputs: Any, step: Any) -> tuple[Any, Any]:
        """What XLA may compile as one: all but the update, which asks the other workers."""
        tf = self.tf
        features, kept = tf.cast(features, tf.float32), self._kept(step)
        inputs = tf.pad(outputs[:, :-1], [[0, 0], [1, 0]], constant_values=START)
        with tf.GradientTape() as tape:
            logits = self.captioner(features, inputs, kept)
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(outputs, logits)
            said = tf.cast(outputs != PAD, tf.float32)
            loss = tf.reduce_sum(each * said) / (self.options.batch_size * self.data.length)
        variables = [variable.value for variable in self.captioner.trainable()]
        return loss, tape.gradient(loss, variables)

    def _kept(self, step: Any) -> Any:
        """Drawn for the global batch, of which each worker takes its own rows."""
        tf, batch = self.tf, self.options.batch_size
        seed = tf.stack([tf.constant(self.options.seed, tf.int64), tf.cast(step, tf.int64)])
        draw = tf.random.stateless_uniform((batch, DIM_IN), seed)
        mine = draw[self.shard.rows.start : self.shard.rows.stop]
        return tf.cast(mine >= DROPPED, tf.float32) / (1 - DROPPED)

    def encoder_variables(self) -> list[Any]:
        return [*self.encoder.trainable_variables, *self.head.trainable_variables]

    def _images_at(self, step: int) -> tuple[Any, ...]:
        """An encoder's batch is some of the captioner's, one after another."""
        many = self.options.encoder_batch_size // self.options.batch_size
        rounds = range(step * many, (step + 1) * many)
        chosen = [i for one in rounds for i in self.shard.at(one, self.options.seed)]
        examples = [self.data.train[i] for i in chosen]
        images = self.data.images(examples, perturb=self._perturbed())
        return self.tf.constant(images), self.tf.constant(self.data.targets(examples))

    def _captions_at(self, step: int) -> tuple[Any, ...]:
        chosen = self.shard.at(step, self.options.seed + 1)
        rows = [self._rows[i] for i in chosen]
        texts = [self._said[row] for row in rows]
        said = np.stack([t[(step + i) % len(t)] for i, t in zip(chosen, texts, strict=True)])
        return tuple(self.tf.constant(part) for part in (self._features[rows], said, step))

    def _look(self) -> None:
        """Each image goes through the network once."""
        indices = self._looked_at()
        examples = [self.data.train[i] for i in indices]
        self._features = self.features(examples)
        self._normalise(self._features[:SETTLED_BY].astype(np.float32))
        if self._perturbed():
            self._features = self.features(examples, perturb=True)
        self._rows = {i: row for row, i in enumerate(indices)}
        self._said = [self.data.tokens(example) for example in examples]

    def _normalise(self, first: np.ndarray) -> None:
        """What is almost never there would become huge where it is, and drown the rest."""
        deviation = first.std(0)
        least = np.median(deviation) + 1e-3
        self.captioner.normalise(first.mean(0), np.maximum(deviation, least))

    def _looked_at(self) -> list[int]:
        """The own examples, and the first ones, by which all workers normalise without asking."""
        return sorted({*range(min(SETTLED_BY, self.shard.total)), *self.shard.members()})

    def _seen(self, images: np.ndarray) -> np.ndarray:
        if self.vgg16 is None:
            return seeing.Encoder(self.tf, self.encoder)(images)
        return self._cache.features(images, f"vgg16-{self.vgg16.sha256[:16]}", self.vgg16)

    def _perturbed(self) -> bool:
        return self.options.perturb_shard == self.shard.worker

    def _wish(self) -> str:
        """All that shapes the result: what a checkpoint must have been made with to go on from."""
        options = self.options
        seen = f"encoder of {options.encoder_steps} steps of {options.encoder_batch_size}"
        if self.vgg16 is not None:
            seen = f"VGG16 {self.vgg16.sha256[:16]}"
        return (
            f"{len(self.data.train)} examples ({self.data.digest()}), seed {options.seed}, {seen}, "
            f"{options.steps} steps of {options.batch_size} at {options.learning_rate:g}"
            f"{', compiled' if options.xla else ''}"
        )

    def _save(self, phase: str, step: int) -> None:
        """All of the variables are the same everywhere, so the chief's are everybody's."""
        path = self._kept_state.save(f"{phase}-{step}", self.done)
        if path is not None:
            self.log("checkpoint", step=step, path=path)


def adam(tf: Any, rate: float, steps: int) -> Any:
    """Falls to a twentieth along a cosine, so that the last steps settle."""
    return tf.keras.optimizers.Adam(tf.keras.optimizers.schedules.CosineDecay(rate, steps, 0.05))
