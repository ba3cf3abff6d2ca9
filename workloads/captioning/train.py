"""captioning's training: the encoder first, then the captioner.

Batches and dropout are determined by seed, step and position in the global batch: they do not
depend on the number of workers, and are the same after a resume.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from captioning import caption, features, scenes
from captioning.dataset import PAD, START, Dataset, Shard
from captioning.evaluate import evaluate
from captioning.model import DIM_IN, Captioner, build_encoder, encoder_loss
from captioning.options import Options
from common import training
from common.checkpoints import Checkpoints
from common.files import sha256
from common.program import EndFields, Session

LOG_EVERY, MAX_RECORDS = 10, 3000
DROPOUT = 0.4
ENCODER_RATE = 2e-3
NORMALIZED_BY = 256  # examples whose features give mean and deviation


def work(session: Session, options: Options, data: Dataset) -> EndFields:
    cluster = session.cluster
    shard = Shard(len(data.train), options.batch_size, cluster.worker, cluster.workers)
    shard.write(session, data)
    session.log("split", train=len(data.train), held_out=len(data.held_out), by=data.split)
    print(f"{len(data.train)} to train on, {len(data.held_out)} held out: {data.split}", flush=True)
    trainer = Trainer(session, options, data, shard)
    trainer.train()
    if session.is_chief:
        weights = None if trainer.vgg16 is None else trainer.vgg16.sha256
        caption.write_model(options, data, weights)
        evaluate(session, trainer, data, options.beam)
    return {"steps": trainer.done["train"], "weights_sha256": trainer.digest()}


class Trainer:
    """Two models in one strategy; ``done`` is the number of steps done of each."""

    def __init__(self, session: Session, options: Options, data: Dataset, shard: Shard) -> None:
        self.session, self.options, self.data, self.shard = session, options, data, shard
        self.tf, self.strategy = session.tf, session.strategy
        tf = self.tf
        self.encoder_batch = options.encoder_batch_size or options.batch_size
        tf.keras.utils.set_random_seed(options.seed)
        outputs = len(data.words) if data.real else sum(scenes.LABELS)
        with self.strategy.scope():
            self.encoder, self.head = build_encoder(tf, outputs)
            self.captioner = Captioner(tf, len(data.words), data.length)
            self.encoder_optimizer = _adam(tf, ENCODER_RATE, options.encoder_steps)
            self.optimizer = _adam(tf, options.learning_rate, options.steps)
            self.encoder_optimizer.build(self.encoder_variables())
            self.optimizer.build(self.captioner.trainable_variables())
        self._compiled = tf.function(self.caption_loss, jit_compile=True) if options.xla else None
        weights = options.vgg16_weights
        self.vgg16 = None if weights is None else features.VGG16(tf, weights)
        self._cache = features.Cache(options.feature_cache)
        checkpoint = tf.train.Checkpoint(
            encoder=self.encoder,
            head=self.head,
            captioner=self.captioner.checkpoint(),
            encoder_optimizer=self.encoder_optimizer,
            optimizer=self.optimizer,
        )
        self._checkpoints = Checkpoints(
            checkpoint,
            session.out,
            self._made_with(),
            chief=session.is_chief,
            warn=session.warn,
        )
        self.done: dict[str, int] = self._checkpoints.restore() or {"encoder": 0, "train": 0}
        training.check_same_step(tf, self.strategy, sum(self.done.values()))

    def train(self) -> None:
        options, log = self.options, self.session.log
        if self.vgg16 is None:
            with log.phase("images"):
                self.data.cache([self.data.train[i] for i in self._needed()])
            with log.phase("encoder"):
                self._train("encoder", self.encoder_step, self.images_at, options.encoder_steps)
        with log.phase("features"):
            self.compute_features()
            self.data.cache([])
        with log.phase("train"):
            self._train("train", self.caption_step, self.captions_at, options.steps)

    def features(self, examples: Sequence[Any], *, perturb: bool = False) -> np.ndarray:
        """float16 [n, 4096], computed in parts to save memory."""
        found = np.empty((len(examples), DIM_IN), np.float16)
        size = scenes.SIZE if self.vgg16 is None else features.SIDE
        for at in range(0, len(examples), features.BATCH):
            some = examples[at : at + features.BATCH]
            images = self.data.images(some, perturb=perturb, size=size)
            found[at : at + len(some)] = self._features_of(images)
        return found

    def digest(self) -> str:
        variables = [*self.encoder_variables(), *self.captioner.trainable_variables()]
        return sha256(variable.numpy() for variable in variables)

    def compute_features(self) -> None:
        """Features of all examples that this worker needs; each image is computed once."""
        indices = self._needed()
        examples = [self.data.train[i] for i in indices]
        self._features = self.features(examples)
        self._normalize(self._features[:NORMALIZED_BY].astype(np.float32))
        if self._perturbed:
            self._features = self.features(examples, perturb=True)
        self._rows = {i: row for row, i in enumerate(indices)}
        self._tokens = [self.data.tokens(example) for example in examples]

    def images_at(self, step: int) -> tuple[Any, ...]:
        """The encoder's batch: several consecutive batches of the captioner."""
        many = self.encoder_batch // self.options.batch_size
        rounds = range(step * many, (step + 1) * many)
        chosen = [i for one in rounds for i in self.shard.at(one, self.options.seed)]
        examples = [self.data.train[i] for i in chosen]
        images = self.data.images(examples, perturb=self._perturbed)
        return self.tf.constant(images), self.tf.constant(self.data.targets(examples))

    def captions_at(self, step: int) -> tuple[Any, ...]:
        """Features, the tokens of one caption of each image, and the step."""
        chosen = self.shard.at(step, self.options.seed + 1)
        rows = [self._rows[i] for i in chosen]
        texts = [self._tokens[row] for row in rows]
        tokens = np.stack([t[(step + i) % len(t)] for i, t in zip(chosen, texts, strict=True)])
        return tuple(self.tf.constant(part) for part in (self._features[rows], tokens, step))

    def distributed(self, compute: Callable[..., Any]) -> Any:
        """``compute`` on each worker's part of the batch; returns the sum of the losses."""

        @self.tf.function  # type: ignore[untyped-decorator]
        def step(*batch: Any) -> Any:
            return self.strategy.reduce("SUM", self.strategy.run(compute, args=batch), axis=None)

        return step

    def encoder_step(self, images: Any, targets: Any) -> Any:
        tf = self.tf
        with tf.GradientTape() as tape:
            logits = self.head(self.encoder(features.scaled(tf, images), training=True))
            loss = tf.reduce_sum(encoder_loss(tf, logits, targets, real=self.data.real))
            loss /= self.encoder_batch
        # Keras sums gradients over workers, so the loss is divided by the global batch size.
        gradients = tape.gradient(loss, [variable.value for variable in self.encoder_variables()])
        self.encoder_optimizer.apply(gradients, self.encoder_variables())
        return loss

    def caption_step(self, features: Any, outputs: Any, step: Any) -> Any:
        loss, gradients = (self._compiled or self.caption_loss)(features, outputs, step)
        self.optimizer.apply(gradients, self.captioner.trainable_variables())
        return loss

    def caption_loss(self, features: Any, outputs: Any, step: Any) -> tuple[Any, Any]:
        """The step without the update, which needs other workers and which XLA cannot compile."""
        tf = self.tf
        features, kept = tf.cast(features, tf.float32), self._dropout(step)
        inputs = tf.pad(outputs[:, :-1], [[0, 0], [1, 0]], constant_values=START)
        with tf.GradientTape() as tape:
            logits = self.captioner(features, inputs, kept)
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(outputs, logits)
            is_word = tf.cast(outputs != PAD, tf.float32)
            loss = tf.reduce_sum(each * is_word) / (self.options.batch_size * self.data.length)
        variables = [variable.value for variable in self.captioner.trainable_variables()]
        return loss, tape.gradient(loss, variables)

    def encoder_variables(self) -> list[Any]:
        return [*self.encoder.trainable_variables, *self.head.trainable_variables]

    def _train(
        self,
        name: str,
        compute: Callable[..., Any],
        batch_at: Callable[[int], tuple[Any, ...]],
        steps: int,
    ) -> None:
        options, done = self.options, self.done[name]
        batch = options.batch_size if name == "train" else self.encoder_batch
        stop_after = options.stop_after if name == "train" else None
        phase = training.Phase(
            name, steps, batch // self.shard.workers, options.checkpoint_every, options.stall_s
        )
        stop, log_every = min(steps, stop_after or steps), max(LOG_EVERY, steps // MAX_RECORDS)
        training.train(
            self.session.log,
            phase,
            done,
            training.calls(batch_at, done, stop, phase, log_every),
            self.distributed(compute),
            lambda now: self._save(name, now),
        )

    def _save(self, phase: str, done: int) -> str | None:
        self.done[phase] = done
        return self._checkpoints.save(f"{phase}-{done}", self.done)

    def _dropout(self, step: Any) -> Any:
        """Drawn for the global batch; each worker uses its own rows."""
        tf, batch = self.tf, self.options.batch_size
        seed = tf.stack([tf.constant(self.options.seed, tf.int64), tf.cast(step, tf.int64)])
        draw = tf.random.stateless_uniform((batch, DIM_IN), seed)
        own = draw[self.shard.rows.start : self.shard.rows.stop]
        return tf.cast(own >= DROPOUT, tf.float32) / (1 - DROPOUT)

    def _normalize(self, first: np.ndarray) -> None:
        """Uses at least the median deviation: a feature that is almost always zero would otherwise
        get huge values.
        """
        deviation = first.std(0)
        least = np.median(deviation) + 1e-3
        self.captioner.set_normalization(first.mean(0), np.maximum(deviation, least))

    def _needed(self) -> list[int]:
        """The worker's examples, and the first ones, which all workers use for normalization."""
        return sorted({*range(min(NORMALIZED_BY, self.shard.total)), *self.shard.members()})

    def _features_of(self, images: np.ndarray) -> np.ndarray:
        if self.vgg16 is None:
            return features.Encoder(self.tf, self.encoder)(images)
        return self._cache.features(images, f"vgg16-{self.vgg16.sha256[:16]}", self.vgg16)

    @property
    def _perturbed(self) -> bool:
        return self.options.perturb_shard == self.shard.worker

    def _made_with(self) -> str:
        """Everything that affects the weights."""
        options = self.options
        encoder = f"encoder of {options.encoder_steps} steps of {self.encoder_batch}"
        if self.vgg16 is not None:
            encoder = f"VGG16 {self.vgg16.sha256[:16]}"
        return (
            f"{len(self.data.train)} examples ({self.data.digest()}), seed {options.seed}, "
            f"{encoder}, {options.steps} steps of {options.batch_size} at "
            f"{options.learning_rate:g}{', compiled' if options.xla else ''}"
        )


def _adam(tf: Any, rate: float, steps: int) -> Any:
    """The learning rate decays to a twentieth along a cosine."""
    return tf.keras.optimizers.Adam(tf.keras.optimizers.schedules.CosineDecay(rate, steps, 0.05))
