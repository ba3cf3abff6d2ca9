"""Image captioning: CNN features -> LSTM, alone or over several machines.

On one machine:
    python captioning.py --out out
On four, the same command on each, with TF_CONFIG naming all of them and which one this is:
    export TF_CONFIG='{"cluster": {"worker": ["a:2222", "b:2222", "c:2222", "d:2222"]},
                       "task": {"type": "worker", "index": 0}}'
    python captioning.py --out out
Real images, seen with VGG16 where its weights are at hand:
    python captioning.py --out out --data flickr8k/ --vgg16-weights vgg16.h5
A trained run put to use:
    python captioning.py caption bus.jpg --run out
    python captioning.py evaluate --run out --beam 3

The sizes are those of the paper's appendix D: features 4096, embedding 256, hidden 256, captions of
up to 15 words. Workers compute gradients on their own shard of the examples; they are summed.
workloads/README.md says what is written to --out.
"""

import argparse
import faulthandler
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import scenes
import seeing
import telling
from checkpoints import Checkpoints
from examples import PAD, Data, Shard
from records import Log
from speaking import DIM_IN, Captioner, build_encoder, score, seeing_loss
from starting import (
    BAD_INPUT,
    LOST_A_PEER,
    announce,
    choose_preset,
    common_options,
    leave,
    task,
    tensorflow,
    watch_the_start,
)

LOG_EVERY = 10
DROPPED = 0.4
SAMPLES = 12
PRESETS = {
    "quick": {"scenes": 9600, "encoder_steps": 480, "steps": 420, "batch_size": 96},
    "paper": {"scenes": 20000, "encoder_steps": 4000, "steps": 20000, "batch_size": 128},
}


def main() -> None:
    if telling.wanted():
        telling.main()
        return
    options = parse()
    worker, peers = task()
    started = watch_the_start(options.start_deadline_s, worker, peers)
    try:
        run(options, worker, peers, started)
    except (pictures.BadData, seeing.BadWeights) as error:
        leave(str(error), BAD_INPUT)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common_options(parser)
    parser.add_argument("--data", type=Path, help="images and captions as COCO or Flickr have them")
    parser.add_argument("--vgg16-weights", type=Path, metavar="FILE.h5", help="see with its fc2")
    parser.add_argument("--feature-cache", type=Path, metavar="DIR", help="keeps VGG16's features")
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--scenes", type=int, help="how many rendered scenes to train on")
    parser.add_argument("--encoder-steps", type=int)
    parser.add_argument("--steps", type=int, help="training steps of the captioner")
    parser.add_argument("--batch-size", type=int, help="examples per step, over all workers")
    parser.add_argument("--beam", type=int, default=3, help="scored beside greedy; 1: greedy alone")
    parser.add_argument("--checkpoint-every", type=int, default=100, metavar="STEPS")
    parser.add_argument(
        "--perturb-shard", type=int, metavar="WORKER", help="for tests: other images on that worker"
    )
    return choose_preset(parser, PRESETS)


def run(
    options: argparse.Namespace, worker: int, peers: Sequence[str], started: Callable[[], None]
) -> None:
    begun = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    log = Log(options.out / "timings.jsonl")
    workers = len(peers)
    if options.batch_size % workers:
        options.batch_size += workers - options.batch_size % workers
    with log.phase("data"):
        data = Data(options)
    tf, strategy = tensorflow(options, workers)
    started()
    announce(log, tf, options, worker, workers)
    shard = Shard(len(data.train), options.batch_size, worker, workers)
    shard.write(data, options.out, log)
    try:
        trainer = Trainer(tf, strategy, options, data, shard, log)
        trainer.train()
        if worker == 0:
            telling.write_model(
                options.out, data.words, data.length, real=data.real, options=options
            )
            evaluate(trainer, data, options, log)
        trainer.barrier()
    except tf.errors.OpError as error:
        if workers == 1:
            raise
        leave(f"another worker went away: {str(error).splitlines()[0][:200]}", LOST_A_PEER)
    log(
        "end",
        ok=True,
        steps=options.steps,
        seconds=round(time.monotonic() - begun, 3),
        weights_sha256=trainer.digest(),
    )


class Trainer:
    """Two models in one strategy: the encoder learns to see, then the captioner to speak."""

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
            self.encoder_optimizer = adam(tf, options.encoder_steps)
            self.optimizer = adam(tf, options.steps)
            self.encoder_optimizer.build(self._seeing())
            self.optimizer.build(self.captioner.trainable())
        self._vgg16 = seeing.VGG16(tf, options.vgg16_weights) if options.vgg16_weights else None
        self._cache = seeing.Cache(options.feature_cache)
        self.done = {"encoder": 0, "train": 0}
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
        self.done = self._kept_state.restore() or self.done

    def train(self) -> None:
        if self._vgg16 is None:
            with self.log.phase("encoder"):
                self._loop("encoder", self.options.encoder_steps, self._see, self._images_at)
        with self.log.phase("features"):
            self._normalise()
            members = self.shard.members()
            found = self.features([self.data.train[i] for i in members], perturb=self._perturbed())
            self._features = dict(zip(members, found, strict=True))
        with self.log.phase("train"):
            self._loop("train", self.options.steps, self._speak, self._captions_at)

    def features(self, examples: Sequence[Any], *, perturb: bool = False) -> np.ndarray:
        """float16 [n, 4096]: each image goes through the encoder once."""
        if self._vgg16 is not None:
            return self._seen_by_vgg16(self._vgg16, examples, perturb=perturb)
        parts = [
            self.encoder(self._pixels(examples[at : at + 200], perturb=perturb)).numpy()
            for at in range(0, len(examples), 200)
        ]
        return np.concatenate(parts).astype(np.float16)

    def _seen_by_vgg16(
        self, network: seeing.VGG16, examples: Sequence[Any], *, perturb: bool
    ) -> np.ndarray:
        """In small parts: pictures of 224 pixels are large, their features are not."""
        parts = []
        for at in range(0, len(examples), seeing.BATCH):
            some = examples[at : at + seeing.BATCH]
            images = self.data.images(some, perturb=perturb, size=seeing.SIDE)
            parts.append(self._cache.features(images, f"vgg16-{network.id}", network))
        return np.concatenate(parts)

    def barrier(self) -> None:
        """Nobody leaves before the chief is done: its leaving would look like a death."""
        if self.shard.workers > 1:
            self._sum(self.tf.constant(1.0))

    def digest(self) -> str:
        variables = [*self._seeing(), *self.captioner.trainable()]
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
        for step in range(self.done[phase], steps):
            faulthandler.dump_traceback_later(self.options.stall_s, exit=True)
            loss = step_function(*batch_at(step))
            self.done[phase] = step + 1
            if first:
                float(loss)
                self.log("compile", seconds=round(time.monotonic() - since, 3))
                since, logged, first = time.monotonic(), step + 1, False
            elif (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
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
        share = self.options.batch_size / self.shard.workers
        self.log(
            "step",
            phase=phase,
            step=step,
            steps=steps,
            loss=loss,
            step_seconds=round(took, 6),
            examples_per_second=round(share / took, 3),
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

    def _see(self, images: Any, targets: Any) -> Any:
        tf = self.tf
        with tf.GradientTape() as tape:
            logits = self.head(self.encoder(images, training=True))
            loss = tf.reduce_sum(seeing_loss(tf, logits, targets, real=self.data.real))
            loss /= self.options.batch_size
        self._apply(tape, loss, self._seeing(), self.encoder_optimizer)
        return loss

    def _speak(self, features: Any, inputs: Any, outputs: Any, kept: Any) -> Any:
        tf = self.tf
        with tf.GradientTape() as tape:
            logits = self.captioner(features, inputs, kept)
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(outputs, logits)
            said = tf.cast(outputs != PAD, tf.float32)
            loss = tf.reduce_sum(each * said) / (self.options.batch_size * self.data.length)
        self._apply(tape, loss, self.captioner.trainable(), self.optimizer)
        return loss

    def _apply(self, tape: Any, loss: Any, variables: Sequence[Any], optimizer: Any) -> None:
        """Keras sums the gradients over workers itself, hence the loss over the global batch."""
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        optimizer.apply(gradients, variables)

    def _seeing(self) -> list[Any]:
        return [*self.encoder.trainable_variables, *self.head.trainable_variables]

    def _images_at(self, step: int) -> tuple[Any, ...]:
        examples = [self.data.train[i] for i in self.shard.at(step, self.options.seed)]
        pixels = self._pixels(examples, perturb=self._perturbed())
        return pixels, self.tf.constant(self.data.targets(examples))

    def _captions_at(self, step: int) -> tuple[Any, ...]:
        chosen = self.shard.at(step, self.options.seed + 1)
        pairs = [self.data.tokens(self.data.train[i], step + i) for i in chosen]
        features = np.stack([self._features[i] for i in chosen]).astype(np.float32)
        inputs = np.array([pair[0] for pair in pairs], np.int32)
        outputs = np.array([pair[1] for pair in pairs], np.int32)
        kept = np.stack([self._kept(step, i) for i in chosen])
        return tuple(self.tf.constant(part) for part in (features, inputs, outputs, kept))

    def _kept(self, step: int, example: int) -> np.ndarray:
        """By the example, so that it is the same whichever worker has it."""
        draw = np.random.default_rng([self.options.seed, step, example])
        return (draw.random(DIM_IN, np.float32) >= DROPPED) / np.float32(1 - DROPPED)

    def _pixels(self, examples: Sequence[Any], *, perturb: bool = False) -> Any:
        images = self.data.images(examples, perturb=perturb)
        return self.tf.constant(images.astype(np.float32) / 127.5 - 1)

    def _normalise(self) -> None:
        """By the same few training images on every worker, so that all agree without asking."""
        found = self.features(self.data.train[:256]).astype(np.float32)
        self.captioner.normalise(found.mean(0), found.std(0) + 1e-3)

    def _perturbed(self) -> bool:
        return self.options.perturb_shard == self.shard.worker

    def _wish(self) -> str:
        """What a checkpoint must have been made with to go on from it."""
        return f"words {len(self.data.words)} length {self.data.length} seed {self.options.seed}"

    def _save(self, phase: str, step: int) -> None:
        """All of the variables are the same everywhere, so the chief's are everybody's."""
        path = self._kept_state.save(f"{phase}-{step}", self.done)
        if path is not None:
            self.log("checkpoint", step=step, path=path)


def adam(tf: Any, steps: int) -> Any:
    """Falls to a twentieth along a cosine, so that the last steps settle."""
    return tf.keras.optimizers.Adam(tf.keras.optimizers.schedules.CosineDecay(2e-3, steps, 0.05))


def evaluate(trainer: Trainer, data: Data, options: argparse.Namespace, log: Log) -> None:
    """Captions for held-out images, scored; and again with the images dealt out anew."""
    with log.phase("evaluate"):
        features = trainer.features(data.held_out).astype(np.float32)
        references = [example.captions() for example in data.held_out]
        numbers = trainer.captioner.greedy(features)
        said = [data.text(row) for row in numbers]
        scores = with_shuffled(said, references)
        _log_scores(log, scores, "greedy", len(said))
        if options.beam > 1:
            by_beam = [data.text(row) for row in trainer.captioner.beam(features, options.beam)]
            decoder = f"beam {options.beam}"
            _log_scores(log, with_shuffled(by_beam, references), decoder, len(said))
        write_results(options.out, data, said, scores)


def with_shuffled(said: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """What language alone gives is the score of captions that were dealt to other images."""
    dealt = np.roll(np.arange(len(said)), len(said) // 2)
    shuffled = score([said[i] for i in dealt], references)
    return score(said, references) | {f"{name}_shuffled": v for name, v in shuffled.items()}


def _log_scores(log: Log, scores: dict[str, float], decoder: str, examples: int) -> None:
    for name, value in scores.items():
        log("score", name=name, value=value, split="held_out", decoder=decoder, examples=examples)


def write_results(out: Path, data: Data, said: Sequence[str], scores: dict[str, float]) -> None:
    from PIL import Image

    (out / "samples").mkdir(exist_ok=True)
    samples = []
    for number, example in enumerate(data.held_out[:SAMPLES]):
        file = f"samples/{number:03d}.png"
        image = Image.fromarray(data.images([example])[0])
        image.resize((192, 192), Image.Resampling.NEAREST).save(out / file)
        references = list(example.captions())
        exact = said[number] in references
        samples.append(
            {"image": file, "caption": said[number], "references": references, "exact": exact}
        )
    held = (
        "a tenth of the images, by a hash of their id"
        if data.real
        else ("combinations of colours, shapes and places that never occur in training")
    )
    results = {
        "workload": "captioning",
        "scores": scores,
        "samples": samples,
        "notes": [f"held out: {held}", "decoded greedily"],
    }
    text = json.dumps(results, indent=2) + "\n"
    (out / "results.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
