"""The examples of captioning.py: their words, their images, and which worker has which of them."""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import scenes
from starting import BAD_INPUT, leave

MAX_WORDS = 15
HELD_OUT = 400
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

    def images(
        self, examples: Sequence[Any], *, perturb: bool = False, size: int = scenes.SIZE
    ) -> np.ndarray:
        """uint8 [n, size, size, 3]."""
        if self.real:
            images = [pictures.load(example.file, size) for example in examples]
        else:
            images = [pictures.sized(scenes.render(example), size) for example in examples]
        found = np.stack(images)
        return 255 - found if perturb else found

    def tokens(self, example: Any, which: int) -> tuple[list[int], list[int]]:
        """What goes into the LSTM and what should come out, padded to ``length``."""
        texts = example.captions()
        words = texts[which % len(texts)].split()[: self.length - 1]
        numbers = [self._index.get(word, UNKNOWN) for word in words]
        padding = [PAD] * (self.length - 1 - len(numbers))
        return [START, *numbers, *padding], [*numbers, END, *padding]

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
    """

    def __init__(self, examples: int, batch: int, worker: int, workers: int) -> None:
        if examples < batch:
            leave(f"{examples} examples are fewer than a batch of {batch}", BAD_INPUT)
        width = batch // workers
        self.worker, self.workers, self.total = worker, workers, examples
        self._lanes = [range(lane, examples, batch) for lane in range(batch)]
        self._mine = range(worker * width, (worker + 1) * width)

    def members(self) -> list[int]:
        return sorted(i for lane in self._mine for i in self._lanes[lane])

    def at(self, step: int, seed: int) -> list[int]:
        """The examples of this worker's part of the batch; derived from (seed, step) alone."""
        chosen = []
        for lane in self._mine:
            members = self._lanes[lane]
            epoch, place = divmod(step, len(members))
            order = np.random.default_rng([seed, epoch, lane]).permutation(len(members))
            chosen.append(members[int(order[place])])
        return chosen

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
