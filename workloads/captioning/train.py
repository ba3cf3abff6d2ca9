"""captioning's training: the encoder first, then the captioner.

Batches and dropout are determined by seed, step and position in the batch of all workers: they are
the same after a resume, and with --global-batch do not depend on the number of workers.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from captioning import caption, features, scenes
from captioning.dataset import PAD, START, Dataset, Shard, write_shard
from captioning.evaluate import evaluate
from captioning.model import DIM_IN, Captioner, build_encoder, encoder_loss
from captioning.options import Options
from common import training
from common.checkpoints import Checkpoints
from common.deal import Round
from common.files import sha256
from common.local_sgd import LocalSGD
from common.lockstep import Lockstep, Step, rate_for
from common.program import EndFields, Session

LOG_EVERY, MAX_RECORDS = 10, 3000
DROPOUT = 0.4
ENCODER_RATE = 2e-3
AHEAD = 1 << 32  # between the seeds of two workers
PHILOX = 1  # TensorFlow's number of this generator
NORMALIZED_BY = 256  # examples whose features give mean and deviation


def work(session: Session, options: Options, data: Dataset) -> EndFields:
    session.log("split", train=len(data.train), held_out=len(data.held_out), by=data.split)
    print(f"{len(data.train)} to train on, {len(data.held_out)} held out: {data.split}", flush=True)
    trainer = Trainer(session, options, data)
    trainer.train()

    def conclude() -> None:
        weights = None if trainer.vgg16 is None else trainer.vgg16.sha256
        caption.write_model(options, data, weights)
        evaluate(session, trainer, data, options.beam)

    session.by_chief(conclude)
    return {"steps": trainer.done["train"], "weights_sha256": trainer.digest()}


class Trainer:
    """Two models in one strategy; ``done`` is the number of steps done of each."""

    def __init__(self, session: Session, options: Options, data: Dataset) -> None:
        self.session, self.options, self.data = session, options, data
        self.first_row, self.in_shards, self._shard_is_written = 0, False, False
        self.tf, self.strategy = session.tf, session.strategy
        tf = self.tf
        tf.keras.utils.set_random_seed(options.seed)
        outputs = len(data.words) if data.real else sum(scenes.LABELS)
        with self.strategy.scope():
            self.encoder, self.head = build_encoder(tf, outputs)
            self.captioner = Captioner(tf, len(data.words), data.length)
            self.encoder_optimizer = self._adam(ENCODER_RATE, options.encoder_steps)
            self.optimizer = self._adam(options.learning_rate, options.steps)
            self.encoder_optimizer.build(self.encoder_variables())
            self.optimizer.build(self.captioner.trainable_variables())
        self._compiled = (
            tf.function(self._caption_gradients, jit_compile=True) if options.xla else None
        )
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
        if session.averaging is None:
            self._agree()

    def train(self) -> None:
        options, log = self.options, self.session.log
        if self.vgg16 is None:
            encoder = self._phase("encoder", options.encoder_steps, options.encoder_batch_size)
            with log.phase("images"):
                self.data.cache([self.data.train[i] for i in encoder.needed])
            with log.phase("encoder"):
                self._train(encoder, self.encoder_gradients, self.images, lambda _: None)
        train = self._phase("train", options.steps, options.batch_size)
        with log.phase("features"):
            self.compute_features(train.needed)
            self.data.cache([])
        with log.phase("train"):
            self._train(train, self.caption_gradients, self.captions, self.add_features)

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
        places = np.arange(self.first_row, self.first_row + len(rows))
        return tuple(
            self.tf.constant(part) for part in (self._features[rows], tokens, places, step)
        )

    def step(self, phase: "Phase", gradients: Callable[..., Any]) -> Step:
        return Step(
            self.tf,
            self.strategy,
            lambda *batch: gradients(phase.batch_of_all, *batch),
            *self._model(phase.name),
            wire=self.options.wire,
        )

    def encoder_gradients(self, count: int, images: Any, targets: Any) -> tuple[Any, Any]:
        """The gradients of some of the ``count`` examples of a step."""
        tf = self.tf
        with tf.GradientTape() as tape:
            logits = self.head(self.encoder(features.scaled(tf, images), training=True))
            loss = tf.reduce_sum(encoder_loss(tf, logits, targets, real=self.data.real))
            loss /= count
        variables = [variable.value for variable in self.encoder_variables()]
        return loss, tape.gradient(loss, variables)

    def caption_gradients(
        self, count: int, features: Any, outputs: Any, places: Any, step: Any
    ) -> tuple[Any, Any]:
        """Those of the rows ``places`` of the ``count`` of a step."""
        kept = self._dropout(places, step)
        return (self._compiled or self._caption_gradients)(features, outputs, kept, float(count))

    def _caption_gradients(
        self, features: Any, outputs: Any, kept: Any, count: float
    ) -> tuple[Any, Any]:
        tf = self.tf
        features = tf.cast(features, tf.float32)
        inputs = tf.pad(outputs[:, :-1], [[0, 0], [1, 0]], constant_values=START)
        with tf.GradientTape() as tape:
            logits = self.captioner(features, inputs, kept)
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(outputs, logits)
            is_word = tf.cast(outputs != PAD, tf.float32)
            loss = tf.reduce_sum(each * is_word) / (count * self.data.length)
        variables = [variable.value for variable in self.captioner.trainable_variables()]
        return loss, tape.gradient(loss, variables)

    def encoder_variables(self) -> list[Any]:
        return [*self.encoder.trainable_variables, *self.head.trainable_variables]

    def _phase(self, name: str, steps: int, batch: int) -> "Phase":
        """Where weights are averaged, this waits for the other workers."""
        averaging, cluster = self.session.averaging, self.session.cluster
        seed = self.options.seed + (name != "encoder")
        total, rounds = len(self.data.train), [Round.of(one) for one in self.rounds.get(name, [])]
        optimizer, variables = self._model(name)
        if averaging is not None:
            local = LocalSGD(
                averaging,
                self.session.log,
                name,
                variables,
                optimizer,
                total=total,
                steps=steps,
                batch=batch,
                every=self.options.average_every,
                seed=seed,
                rounds=rounds,
            )
            if not local.topic.rounds:  # later the examples are dealt anew
                self._write_shard(local.deal.home(cluster.worker).tolist())
            return Phase(name, steps, batch, batch, local=local)
        if self.in_shards:
            shard = Shard(total, self.options.batch_size, cluster.worker, cluster.workers)
            self._write_shard(shard.members())
            self.first_row = shard.rows.start
            return Phase(name, steps, batch, batch, shard=shard)
        lockstep = Lockstep(
            cluster.worker,
            cluster.workers,
            optimizer,
            total=total,
            steps=steps,
            batch=batch,
            seed=seed,
            rounds=rounds,
        )
        self._write_shard(lockstep.deal.home(cluster.worker).tolist())
        self.first_row = cluster.worker * batch
        return Phase(name, steps, batch, batch * cluster.workers, lockstep=lockstep)

    def _train(
        self,
        phase: "Phase",
        gradients: Callable[..., Any],
        batch_of: Callable[[Sequence[int], int], tuple[Any, ...]],
        prepare: Callable[[Sequence[int]], None],
    ) -> None:
        options, done = self.options, self.done[phase.name]
        log_every = max(LOG_EVERY, phase.steps // MAX_RECORDS)
        trained = training.Phase(
            phase.name,
            phase.steps,
            phase.batch / self.session.cluster.workers,
            options.checkpoint_every,
            options.stall_s,
        )
        step = self.step(phase, gradients)
        communication = step.communication if self.session.cluster.workers > 1 else None
        stop_after = options.stop_after if phase.name == "train" else None
        stop = min(phase.steps, stop_after or phase.steps)
        if options.trace_examples:
            batch_of = self._traced(phase.name, batch_of)
        if phase.local is not None:
            calls = phase.local.calls(
                lambda rows, step: batch_of(rows.tolist(), step),
                lambda rows: prepare(rows.tolist()),
                log_every,
            )
            done, communication = phase.local.done, phase.local.communication
        elif phase.lockstep is not None:
            calls = phase.lockstep.calls(batch_of, stop, log_every)
        else:
            shard: Any = phase.shard

            def batch_at(step: int) -> tuple[Any, ...]:
                return batch_of(self._chosen(phase, shard, step), step)

            calls = training.calls(batch_at, done, stop, trained, log_every)
        training.train(
            self.session.log,
            trained,
            done,
            calls,
            step,
            lambda now: self._save(phase, now),
            communication=communication,
        )

    def _chosen(self, phase: "Phase", shard: Shard, step: int) -> list[int]:
        """The encoder's batch is several consecutive batches of the captioner."""
        many = phase.batch // self.options.batch_size
        seed = self.options.seed + (phase.name != "encoder")
        return [i for one in range(step * many, (step + 1) * many) for i in shard.at(one, seed)]

    def _save(self, phase: "Phase", done: int) -> str | None:
        self.done[phase.name] = done
        if phase.local is not None:
            self.rounds[phase.name] = [vars(one) for one in phase.local.topic.rounds]
        elif phase.lockstep is not None:
            self.rounds[phase.name] = [vars(one) for one in phase.lockstep.rounds(done)]
        return self._checkpoints.save(f"{phase.name}-{done}", {**self.done, "rounds": self.rounds})

    def _agree(self) -> None:
        """All workers go on from the furthest one's checkpoint, in shards if it was made so."""
        cluster, workers = self.session.cluster, self.session.cluster.workers
        variables = [
            *self.encoder_variables(),
            *self.captioner.all_variables(),
            *self.encoder_optimizer.variables,
            *self.optimizer.variables,
        ]
        state = {"total": sum(self.done.values()), "done": self.done, "rounds": self.rounds}
        state = training.from_furthest(
            self.tf, self.strategy, cluster.worker, workers, variables, state
        )
        self.done, self.rounds = state["done"], state["rounds"]
        self.in_shards = self.options.global_batch or workers == 1
        if state["total"]:
            self.in_shards = not any(self.rounds.values())
        if self.in_shards != (self.options.global_batch or workers == 1) and workers > 1:
            how = "share a batch" if self.in_shards else "have a batch each"
            self.session.warn(f"the workers {how}, as before the checkpoint")

    def _write_shard(self, members: Sequence[int]) -> None:
        if not self._shard_is_written:
            write_shard(self.session, self.data, members)
        self._shard_is_written = True

    def _traced(
        self, phase: str, batch_of: Callable[[Sequence[int], int], tuple[Any, ...]]
    ) -> Callable[[Sequence[int], int], tuple[Any, ...]]:
        """Writes the examples of each step, and how many steps were done before it."""
        file = self.session.out / "seen.jsonl"

        def traced(chosen: Sequence[int], done: int) -> tuple[Any, ...]:
            record = {"phase": phase, "after": done, "examples": [int(i) for i in chosen]}
            with file.open("a", encoding="utf-8") as seen:
                seen.write(json.dumps(record) + "\n")
            return batch_of(chosen, done)

        return traced

    def _model(self, phase: str) -> tuple[Any, list[Any]]:
        """The optimizer, and what it trains."""
        if phase == "encoder":
            return self.encoder_optimizer, self.encoder_variables()
        return self.optimizer, self.captioner.trainable_variables()

    def _dropout(self, places: Any, step: Any) -> Any:
        """Those rows of the mask of a step of all workers: only they are drawn.

        Philox, TensorFlow's generator, makes four numbers at each value of its counter, so that a
        draw can begin anywhere. With local SGD the mask is that of this worker's batch.
        """
        tf, raw = self.tf, self.tf.raw_ops
        seed = tf.stack([tf.constant(self.options.seed, tf.int64), tf.cast(step, tf.int64)])
        if self.session.averaging is not None:
            seed += self.session.cluster.worker * AHEAD
        begin = raw.StatelessRandomGetKeyCounter(seed=seed)
        ahead = tf.cast(places[0] * (DIM_IN // 4), tf.uint64)
        draw = raw.StatelessRandomUniformV2(
            shape=(tf.shape(places)[0], DIM_IN),
            key=begin.key,
            counter=begin.counter + tf.stack([ahead, tf.zeros((), tf.uint64)]),
            alg=PHILOX,
        )
        return tf.cast(draw >= DROPOUT, tf.float32) / (1 - DROPOUT)

    def _adam(self, rate: float, steps: int) -> Any:
        """Its rate decays to a twentieth along a cosine; it is larger for a larger batch."""
        tf, session = self.tf, self.session
        schedule = tf.keras.optimizers.schedules.CosineDecay(rate, steps, 0.05)
        if session.averaging is None and not self.options.global_batch:
            schedule = rate_for(tf, schedule, session.cluster.workers, steps)
        return tf.keras.optimizers.Adam(schedule)

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
        encoder = f"encoder of {options.encoder_steps} steps of {options.encoder_batch_size}"
        if self.vgg16 is not None:
            encoder = f"VGG16 {self.vgg16.sha256[:16]}"
        return (
            f"{len(self.data.train)} examples ({self.data.digest()}), seed {options.seed}, "
            f"{encoder}, {options.steps} steps of {options.batch_size} at "
            f"{options.learning_rate:g}{', compiled' if options.xla else ''}"
        )


@dataclass(frozen=True)
class Phase:
    """One of the two models' training: each worker with a batch of its own, in lockstep or in
    rounds; or on shards of the same batch. ``batch_of_all`` are the examples whose gradients are
    summed.
    """

    name: str
    steps: int
    batch: int
    batch_of_all: int
    shard: Shard | None = None
    local: LocalSGD | None = None
    lockstep: Lockstep | None = None

    @property
    def needed(self) -> Sequence[int]:
        """The examples that this worker needs."""
        if self.shard is not None:
            return self.shard.members()
        dealt: Any = self.local or self.lockstep
        return [int(i) for i in dealt.own]
