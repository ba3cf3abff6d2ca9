"""captioning's examples: words, images, and shards of the workers."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from captioning import images, scenes
from common.errors import BadInput
from common.program import Session

MAX_WORDS = 15
HELD_OUT = 400
SCENES_HELD_OUT = "combinations of colours, shapes and places that never occur in training"
CACHE_BYTES = 512 * 2**20
PAD, START, END, UNKNOWN = 0, 1, 2, 3
SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")


class Dataset:
    """Training and held-out examples, their vocabulary, and their images on demand.

    ``split`` says in words which are held out.

    They are the pictures of the folder ``data``, or without one ``count`` rendered scenes. An
    example has an ``id`` and ``captions()``. Raises BadInput.
    """

    train: Sequence[Any]
    held_out: Sequence[Any]

    def __init__(self, data: Path | None, count: int, seed: int) -> None:
        self.real = data is not None
        if data is not None:
            found = images.read_pictures(data)
            self.train, self.held_out, self.split = found.train, found.held_out, found.split
        else:
            self.split = SCENES_HELD_OUT
            self.train = scenes.make_scenes(count, seed, held_out=False)
            self.held_out = scenes.make_scenes(HELD_OUT, seed, held_out=True)
        words = {w for example in self.train for text in example.captions() for w in text.split()}
        self.words = (*SPECIAL, *sorted(words))
        self._index = {word: number for number, word in enumerate(self.words)}
        longest = max(len(t.split()) for example in self.train for t in example.captions())
        self.length = min(longest, MAX_WORDS) + 1
        self._pixels = np.empty((0, scenes.SIZE, scenes.SIZE, 3), np.uint8)
        self._rows: dict[str, int] = {}

    def digest(self) -> str:
        """The hash of the training examples."""
        joined = hashlib.sha256()
        for example in self.train:
            joined.update("\n".join((example.id, *example.captions(), "")).encode())
        return joined.hexdigest()[:12]

    def cache(self, examples: Sequence[Any]) -> None:
        """Caches their small images, at most CACHE_BYTES, replacing the previous cache."""
        self._rows, few = {}, examples[: CACHE_BYTES // (3 * scenes.SIZE**2)]
        self._pixels = np.empty((len(few), scenes.SIZE, scenes.SIZE, 3), np.uint8)
        for row, example in enumerate(few):
            self._pixels[row] = self._image(example, scenes.SIZE)
        self._rows = {example.id: row for row, example in enumerate(few)}

    def images(
        self, examples: Sequence[Any], *, perturb: bool = False, size: int = scenes.SIZE
    ) -> np.ndarray:
        """uint8 [n, size, size, 3]."""
        pixels = np.stack([self._image(example, size) for example in examples])
        return 255 - pixels if perturb else pixels

    def tokens(self, example: Any) -> np.ndarray:
        """The word numbers of its captions; int32 [captions, length], padded."""
        texts = example.captions()
        tokens = np.full((len(texts), self.length), PAD, np.int32)
        for row, text in enumerate(texts):
            words = text.split()[: self.length - 1]
            numbers = [self._index.get(word, UNKNOWN) for word in words]
            tokens[row, : len(numbers) + 1] = [*numbers, END]
        return tokens

    def text(self, numbers: Sequence[int] | np.ndarray) -> str:
        return sentence(self.words, numbers)

    def targets(self, examples: Sequence[Any]) -> np.ndarray:
        """The encoder's targets: attributes of scenes, int32 [n, 7], or the words in the captions
        of real images, float32 [n, words].
        """
        if not self.real:
            return np.array([example.labels() for example in examples], np.int32)
        targets = np.zeros((len(examples), len(self.words)), np.float32)
        for row, example in enumerate(examples):
            for text in example.captions():
                targets[row, [self._index.get(word, UNKNOWN) for word in text.split()]] = 1
        return targets

    def _image(self, example: Any, size: int) -> np.ndarray:
        if size == scenes.SIZE and example.id in self._rows:
            return np.asarray(self._pixels[self._rows[example.id]])
        if self.real:
            return images.load(example.file, size)
        return images.resized(scenes.render(example), size)


def sentence(words: Sequence[str], numbers: Sequence[int] | np.ndarray) -> str:
    """The words up to the end of the sentence."""
    found = []
    for number in numbers:
        if number in (END, PAD):
            break
        found.append(words[number])
    return " ".join(found)


class Shard:
    """The examples of this worker, and its part of the batch at each step.

    Example i belongs to lane i % batch; a worker owns adjacent lanes, whose number differs by one
    at most. So the global batch does not depend on the number of workers, and shards are fixed.
    ``rows`` are this worker's rows of the global batch.
    """

    def __init__(self, examples: int, batch: int, worker: int, workers: int) -> None:
        if examples < batch:
            raise BadInput(f"a batch of {batch} is more than there are examples: {examples}")
        if batch < workers:
            raise BadInput(f"a batch of {batch} is less than there are workers: {workers}")
        self._lanes = [range(lane, examples, batch) for lane in range(batch)]
        self.rows = range(worker * batch // workers, (worker + 1) * batch // workers)
        self._orders: dict[tuple[int, int], tuple[int, np.ndarray]] = {}

    def members(self) -> list[int]:
        return sorted(i for lane in self.rows for i in self._lanes[lane])

    def at(self, step: int, seed: int) -> list[int]:
        """The examples of this worker's part of the batch, determined by seed and step alone."""
        chosen = []
        for lane in self.rows:
            members = self._lanes[lane]
            epoch, place = divmod(step, len(members))
            chosen.append(members[self._order(seed, lane, epoch, len(members))[place]])
        return chosen

    def _order(self, seed: int, lane: int, epoch: int, count: int) -> np.ndarray:
        """Cached for the epoch: shuffling may take longer than a step."""
        kept = self._orders.get((seed, lane))
        if kept is None or kept[0] != epoch:
            kept = epoch, np.random.default_rng([seed, epoch, lane]).permutation(count)
            self._orders[seed, lane] = kept
        return kept[1]


def write_shard(session: Session, data: Dataset, members: Sequence[int]) -> None:
    """Writes shard_ids.txt and the shard record: the examples that this worker has each epoch."""
    ids = "".join(f"{data.train[i].id}\n" for i in members)
    (session.out / "shard_ids.txt").write_text(ids, encoding="utf-8")
    session.log(
        "shard",
        worker=session.cluster.worker,
        workers=session.cluster.workers,
        examples=len(members),
        of=len(data.train),
        ids_sha256=hashlib.sha256(ids.encode()).hexdigest(),
    )
