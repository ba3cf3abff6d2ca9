"""Which examples each worker trains on, where workers may leave and join.

Every example is used exactly once in each epoch, by whichever workers there are. Each worker has
its own examples, so that it needs to prepare no others, until a worker leaves or joins: then what
remains of the epoch is dealt anew. All workers compute the same deal, from the seed and the rounds
so far.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Round:
    """``steps`` steps of each of the ``members``; only the work of those in ``by`` counts.

    ``times`` rounds were the same.
    """

    members: tuple[int, ...]
    by: tuple[int, ...]
    steps: int
    times: int = 1

    @classmethod
    def of(cls, record: dict[str, Any]) -> "Round":
        return cls(tuple(record["members"]), tuple(record["by"]), record["steps"], record["times"])

    @property
    def used_steps(self) -> int:
        """Steps of all workers together that count."""
        return len(self.by) * self.steps * self.times


class Deal:
    """The examples of each member, ``batch`` at a step, after the given rounds.

    ``total`` is the number of examples. Raises ValueError with fewer examples than members.
    """

    def __init__(self, total: int, batch: int, seed: int, members: Sequence[int]) -> None:
        self._total, self._batch, self._seed = total, batch, seed
        self._hands: dict[int, _Hand] = {}
        self._begin(tuple(members), np.empty(0, np.int64), epoch=-1)

    @property
    def members(self) -> tuple[int, ...]:
        return tuple(self._hands)

    def after(self, done: Round, members: Sequence[int]) -> None:
        """Take note of a round, and of the members of the next one.

        Where one was lost what it should have used is dealt anew, even if it is back already.
        """
        if set(done.by) != set(self.members):
            for _ in range(done.times):
                self._advance(done, 1)
                self._begin(self.members, *self._outstanding())
        else:
            self._advance(done, done.times)
        if tuple(members) != self.members:
            self._begin(tuple(members), *self._outstanding())

    def own(self, worker: int) -> np.ndarray:
        """All examples that the worker needs until the members change; int64, sorted."""
        hand = self._hands[worker]
        return np.union1d(hand.first[hand.place :], hand.home)

    def home(self, worker: int) -> np.ndarray:
        """Those that it has in every whole epoch; int64, sorted."""
        return self._hands[worker].home

    def steps(self, worker: int, steps: int) -> np.ndarray:
        """The examples of the worker's next steps; int64 [steps, batch]."""
        hand = self._hands[worker]
        return hand.slice(hand.place, steps * self._batch).reshape(steps, self._batch)

    def _advance(self, done: Round, times: int) -> None:
        for worker in done.by:
            self._hands[worker].place += done.steps * times * self._batch

    def _outstanding(self) -> tuple[np.ndarray, int]:
        """What nobody has used yet of the latest epoch that somebody is in, and of those before."""
        latest = max(hand.epoch for hand in self._hands.values())
        rest = [hand.until(latest) for hand in self._hands.values()]
        joined = np.sort(np.concatenate(rest))
        draw = np.random.default_rng([self._seed, latest, len(joined)])
        return draw.permutation(joined), latest

    def _begin(self, members: tuple[int, ...], first: np.ndarray, epoch: int) -> None:
        """Deal ``first``, the rest of ``epoch``, and then whole epochs."""
        count = len(members)
        if count > self._total:
            raise ValueError(f"fewer examples ({self._total}) than workers ({count})")
        self._hands = {
            worker: _Hand(
                first[at::count],
                np.arange(at, self._total, count),
                epoch,
                (self._seed, at, count),
            )
            for at, worker in enumerate(members)
        }


def replayed(
    rounds: Sequence[Round], members: Sequence[int], total: int, batch: int, seed: int
) -> Deal:
    """The deal to ``members`` after the rounds."""
    each = [*(one.members for one in rounds), tuple(members)]
    deal = Deal(total, batch, seed, each[0])
    for done, after in zip(rounds, each[1:], strict=True):
        deal.after(done, after)
    return deal


class _Hand:
    """One member's examples in order: ``first``, then its ``home`` in every later epoch.

    ``place`` is how many have been used.
    """

    def __init__(
        self, first: np.ndarray, home: np.ndarray, epoch: int, seed: Sequence[int]
    ) -> None:
        self.first, self.home, self.place = first, home, 0
        self._epoch, self._seed = epoch, seed
        self._orders: dict[int, np.ndarray] = {}

    @property
    def epoch(self) -> int:
        """The epoch of the next example."""
        beyond = self.place - len(self.first)
        return self._epoch if beyond < 0 else self._epoch + 1 + beyond // len(self.home)

    def slice(self, begin: int, count: int) -> np.ndarray:
        parts, end = [self.first[begin : begin + count]], begin + count
        at = max(begin, len(self.first)) - len(self.first)
        stop = end - len(self.first)
        while at < stop:
            number, place = divmod(at, len(self.home))
            taken = self._order(self._epoch + 1 + number)[place : place + stop - at]
            parts.append(taken)
            at += len(taken)
        return np.concatenate(parts)

    def until(self, epoch: int) -> np.ndarray:
        """What is left of the epochs up to ``epoch``, with it."""
        whole = len(self.first) + (epoch - self._epoch) * len(self.home)
        return self.slice(self.place, max(0, whole - self.place))

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            draw = np.random.default_rng([*self._seed, epoch])
            self._orders = {epoch: draw.permutation(self.home)}
        return self._orders[epoch]
