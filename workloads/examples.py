"""The examples of captioning.py: their words, their images, and which worker has which of them."""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import scenes
from starting import BAD_INPUT, exit_with

MAX_WORDS = 15
HELD_OUT = 400
MOST_KEPT = 512 * 2**20
PAD, START, END, UNKNOWN = 0, 1, 2, 3
SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")


class Data:
    """Training and held-out examples, their vocabulary, and their images on demand."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.real = options.data is not None
        if self.real:
            self.train, self.held_out = pictures.read_pictures(options.data)
        else:
            self.train = scenes.make_scenes(options.scenes, options.seed, held_out=False)
            self.held_out = scenes.make_scenes(HELD_OUT, options.seed, held_out=True)
        words = {w for example in self.train for text in example.captions() for w in text.split()}
        self.words = (*SPECIAL, *sorted(words))
        self._index = {word: number for number, word in enumerate(self.words)}
        longest = max(len(t.split()) for example in self.train for t in example.captions())
        self.length = min(longest, MAX_WORDS) + 1
        self._pixels = np.empty((0, scenes.SIZE, scenes.SIZE, 3), np.uint8)
        self._rows: dict[str, int] = {}

    def digest(self) -> str:
        """Of what is trained on: another data set, or more of the same, is another digest."""
        said = hashlib.sha256()
        for example in self.train:
            said.update("\n".join((example.id, *example.captions(), "")).encode())
        return said.hexdigest()[:12]

    def keep(self, examples: Sequence[Any]) -> None:
        """Their small images stay in memory, as many as MOST_KEPT allows; no examples: none do."""
        self._rows, few = {}, examples[: MOST_KEPT // (3 * scenes.SIZE**2)]
        self._pixels = np.empty((len(few), scenes.SIZE, scenes.SIZE, 3), np.uint8)
        for row, example in enumerate(few):
            self._pixels[row] = self._image(example, scenes.SIZE)
        self._rows = {example.id: row for row, example in enumerate(few)}

    def images(
        self, examples: Sequence[Any], *, perturb: bool = False, size: int = scenes.SIZE
    ) -> np.ndarray:
        """uint8 [n, size, size, 3]."""
        found = np.stack([self._image(example, size) for example in examples])
        return 255 - found if perturb else found

    def tokens(self, example: Any) -> np.ndarray:
        """What should come out of the LSTM, a caption a row, padded to ``length``."""
        texts = example.captions()
        said = np.full((len(texts), self.length), PAD, np.int32)
        for row, text in enumerate(texts):
            words = text.split()[: self.length - 1]
            numbers = [self._index.get(word, UNKNOWN) for word in words]
            said[row, : len(numbers) + 1] = [*numbers, END]
        return said

    def text(self, numbers: Sequence[int]) -> str:
        return spoken(self.words, numbers)

    def targets(self, examples: Sequence[Any]) -> np.ndarray:
        """What the encoder learns to see: the scene's attributes, or which words are said."""
        if not self.real:
            return np.array([example.labels() for example in examples], np.int32)
        said = np.zeros((len(examples), len(self.words)), np.float32)
        for row, example in enumerate(examples):
            for text in example.captions():
                said[row, [self._index.get(word, UNKNOWN) for word in text.split()]] = 1
        return said

    def _image(self, example: Any, size: int) -> np.ndarray:
        if size == scenes.SIZE and example.id in self._rows:
            return self._pixels[self._rows[example.id]]
        if self.real:
            return pictures.load(example.file, size)
        return pictures.sized(scenes.render(example), size)


def spoken(words: Sequence[str], numbers: Sequence[int]) -> str:
    """The words up to the end of the sentence."""
    said = []
    for number in numbers:
        if number in (END, PAD):
            break
        said.append(words[number])
    return " ".join(said)


class Shard:
    """Which examples this worker sees, and which of them at each step.

    Example i belongs to lane i % batch; a worker owns batch / workers neighbouring lanes. So the
    union over workers is the same global batch whatever their number, and shards never change.
    ``rows`` are the own ones of that batch.
    """

    def __init__(self, examples: int, batch: int, worker: int, workers: int) -> None:
        if examples < batch:
            exit_with(f"{examples} examples are fewer than a batch of {batch}", BAD_INPUT)
        width = batch // workers
        self.worker, self.workers, self.total = worker, workers, examples
        self._lanes = [range(lane, examples, batch) for lane in range(batch)]
        self.rows = range(worker * width, (worker + 1) * width)
        self._orders: dict[tuple[int, int], tuple[int, np.ndarray]] = {}

    def members(self) -> list[int]:
        return sorted(i for lane in self.rows for i in self._lanes[lane])

    def at(self, step: int, seed: int) -> list[int]:
        """The examples of this worker's part of the batch; derived from (seed, step) alone."""
        chosen = []
        for lane in self.rows:
            members = self._lanes[lane]
            epoch, place = divmod(step, len(members))
            chosen.append(members[self._order(seed, lane, epoch, len(members))[place]])
        return chosen

    def _order(self, seed: int, lane: int, epoch: int, count: int) -> np.ndarray:
        """Kept for the epoch: to shuffle anew at each step would take longer than some steps."""
        kept = self._orders.get((seed, lane))
        if kept is None or kept[0] != epoch:
            kept = epoch, np.random.default_rng([seed, epoch, lane]).permutation(count)
            self._orders[seed, lane] = kept
        return kept[1]

    def write(self, data: Data, out: Path, log: Callable[..., None]) -> None:
        ids = "".join(f"{data.train[i].id}\n" for i in self.members())
        (out / "shard_ids.txt").write_text(ids, encoding="utf-8")
        log(
            "shard",
            worker=self.worker,
            workers=self.workers,
            examples=len(self.members()),
            of=self.total,
            ids_sha256=hashlib.sha256(ids.encode()).hexdigest(),
        )
