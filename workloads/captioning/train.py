"""captioning's training: the encoder first, then the captioner.

Batches and dropout are determined by seed, step and position in the global batch: they do not
depend on the number of workers, and are the same after a resume.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from captioning import caption, features, scenes
from captioning.dataset import PAD, START, Dataset, Shard
from captioning.evaluate import evaluate
from captioning.model import DIM_IN, Captioner, build_encoder, encoder_loss
from captioning.options import Options
from common import training
from common.checkpoints import Checkpoints
from common.deal import Round
from common.files import sha256
from common.local_sgd import LocalSGD
from common.program import EndFields, Session

LOG_EVERY, MAX_RECORDS = 10, 3000
DROPOUT = 0.4
ENCODER_RATE = 2e-3
AHEAD = 1 << 32  # between the seeds of two workers
NORMALIZED_BY = 256  # examples whose features give mean and deviation


def work(session: Session, options: Options, data: Dataset) -> EndFields:
    cluster = session.cluster
    shard = None
    if session.averaging is None:
        shard = Shard(len(data.train), options.batch_size, cluster.worker, cluster.workers)
        shard.write(session, data)
    session.log("split", train=len(data.train), held_out=len(data.held_out), by=data.split)
    print(f"{len(data.train)} to train on, {len(data.held_out)} held out: {data.split}", flush=True)
    trainer = Trainer(session, options, data, shard)
    trainer.train()

    def conclude() -> None:
        weights = None if trainer.vgg16 is None else trainer.vgg16.sha256
        caption.write_model(options, data, weights)
        evaluate(session, trainer, data, options.beam)

    session.by_chief(conclude)
    return {"steps": trainer.done["train"], "weights_sha256": trainer.digest()}


class Trainer:
    """Two models in one strategy; ``done`` is the number of steps done of each."""

    def __init__(
        self, session: Session, options: Options, data: Dataset, shard: Shard | None
    ) -> None:
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
            chief=session.keeps_checkpoints,
            warn=session.warn,
        )
        self.done: dict[str, Any] = self._checkpoints.restore() or {"encoder": 0, "train": 0}
        self.rounds: dict[str, list[dict[str, Any]]] = self.done.pop("rounds", {})
        training.check_same_step(tf, self.strategy, sum(self.done.values()))

    def train(self) -> None:
        options, log = self.options, self.session.log
        if self.vgg16 is None:
            encoder = self._phase("encoder", options.encoder_steps, self.encoder_batch)
            with log.phase("images"):
                self.data.cache([self.data.train[i] for i in encoder.needed])
            with log.phase("encoder"):
                self._train(encoder, self.encoder_step, self.images, lambda _: None)
        train = self._phase("train", options.steps, options.batch_size)
        with log.phase("features"):
            self.compute_features(train.needed)
            self.data.cache([])
        with log.phase("train"):
            self._train(train, self.caption_step, self.captions, self.add_features)

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

    def compute_features(self, indices: Sequence[int]) -> None:
        """Features of these examples and of the first ones, which all workers use for the
        normalization; each image is computed once.
        """
        first = range(min(NORMALIZED_BY, len(self.data.train)))
        indices = sorted({*first, *map(int, indices)})
        examples = [self.data.train[i] for i in indices]
        self._features = self.features(examples)
        self._normalize(self._features[: len(first)].astype(np.float32))
        if self._perturbed:
            self._features = self.features(examples, perturb=True)
        self._rows = {i: row for row, i in enumerate(indices)}
        self._tokens = [self.data.tokens(example) for example in examples]

    def add_features(self, indices: Sequence[int]) -> None:
        """Features of those of the examples that this worker has got from another one."""
        more = [i for i in map(int, indices) if i not in self._rows]
        if more:
            examples = [self.data.train[i] for i in more]
            self._rows |= {i: len(self._tokens) + row for row, i in enumerate(more)}
            self._features = np.concatenate([self._features, self.features(examples)])
            self._tokens += [self.data.tokens(example) for example in examples]

    def images(self, chosen: Sequence[int], _: int) -> tuple[Any, ...]:
        examples = [self.data.train[i] for i in chosen]
        images = self.data.images(examples, perturb=self._perturbed)
        return self.tf.constant(images), self.tf.constant(self.data.targets(examples))

    def captions(self, chosen: Sequence[int], step: int) -> tuple[Any, ...]:
        """Features, the tokens of one caption of each image, and the step."""
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

    def _phase(self, name: str, steps: int, batch: int) -> "Phase":
        """Where weights are averaged, this waits for the other workers."""
        options, averaging = self.options, self.session.averaging
        is_encoder = name == "encoder"
        local = None
        if averaging is not None:
            local = LocalSGD(
                averaging,
                self.session.log,
                name,
                self.encoder_variables() if is_encoder else self.captioner.trainable_variables(),
                self.encoder_optimizer if is_encoder else self.optimizer,
                total=len(self.data.train),
                steps=steps,
                batch=batch,
                every=options.average_every,
                seed=options.seed + (not is_encoder),
                rounds=[Round.of(one) for one in self.rounds.get(name, [])],
            )
        return Phase(name, steps, batch, self.shard, local)

    def _train(
        self,
        phase: "Phase",
        compute: Callable[..., Any],
        batch_of: Callable[[Sequence[int], int], tuple[Any, ...]],
        prepare: Callable[[Sequence[int]], None],
    ) -> None:
        options, done = self.options, self.done[phase.name]
        log_every = max(LOG_EVERY, phase.steps // MAX_RECORDS)
        trained = training.Phase(
            phase.name,
            phase.steps,
            phase.batch // self.session.cluster.workers,
            options.checkpoint_every,
            options.stall_s,
        )
        if phase.local is not None:
            calls = phase.local.calls(batch_of, prepare, log_every)
            done = phase.local.done
        else:
            stop_after = options.stop_after if phase.name == "train" else None
            stop = min(phase.steps, stop_after or phase.steps)

            def batch_at(step: int) -> tuple[Any, ...]:
                return batch_of(self._chosen(phase, step), step)

            calls = training.calls(batch_at, done, stop, trained, log_every)
        training.train(
            self.session.log,
            trained,
            done,
            calls,
            self.distributed(compute),
            lambda now: self._save(phase, now),
        )

    def _chosen(self, phase: "Phase", step: int) -> list[int]:
        """The encoder's batch is several consecutive batches of the captioner."""
        many = phase.batch // self.options.batch_size
        seed = self.options.seed + (phase.name != "encoder")
        return [
            i for one in range(step * many, (step + 1) * many) for i in self.shard.at(one, seed)
        ]

    def _save(self, phase: "Phase", done: int) -> str | None:
        self.done[phase.name] = done
        if phase.local is not None:
            self.rounds[phase.name] = [vars(one) for one in phase.local.topic.rounds]
        return self._checkpoints.save(f"{phase.name}-{done}", {**self.done, "rounds": self.rounds})

    def _dropout(self, step: Any) -> Any:
        """Drawn for the global batch, of which each worker uses its own rows; with local SGD
        for this worker's batch.
        """
        tf, batch = self.tf, self.options.batch_size
        seed = tf.stack([tf.constant(self.options.seed, tf.int64), tf.cast(step, tf.int64)])
        if self.shard is None:
            seed += self.session.cluster.worker * AHEAD
        draw = tf.random.stateless_uniform((batch, DIM_IN), seed)
        own = draw if self.shard is None else draw[self.shard.rows.start : self.shard.rows.stop]
        return tf.cast(own >= DROPOUT, tf.float32) / (1 - DROPOUT)

    def _normalize(self, first: np.ndarray) -> None:
        """Uses at least the median deviation: a feature that is almost always zero would otherwise
        get huge values.
        """
        deviation = first.std(0)
        least = np.median(deviation) + 1e-3
        self.captioner.set_normalization(first.mean(0), np.maximum(deviation, least))

    def _features_of(self, images: np.ndarray) -> np.ndarray:
        if self.vgg16 is None:
            return features.Encoder(self.tf, self.encoder)(images)
        return self._cache.features(images, f"vgg16-{self.vgg16.sha256[:16]}", self.vgg16)

    @property
    def _perturbed(self) -> bool:
        return self.options.perturb_shard == self.session.cluster.worker

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


@dataclass(frozen=True)
class Phase:
    """One of the two models' training: in lockstep on a shard, or in rounds."""

    name: str
    steps: int
    batch: int
    shard: Shard | None
    local: LocalSGD | None

    @property
    def needed(self) -> Sequence[int]:
        """The examples that this worker needs."""
        return self.shard.members() if self.shard is not None else list(self.local.own)


def _adam(tf: Any, rate: float, steps: int) -> Any:
    """The learning rate decays to a twentieth along a cosine."""
    return tf.keras.optimizers.Adam(tf.keras.optimizers.schedules.CosineDecay(rate, steps, 0.05))
