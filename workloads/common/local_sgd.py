"""Training in rounds: some steps of this worker alone, then the average of all workers' weights.

A step of one worker counts as one step of the whole training, so that two workers need half as
many each. The numbers of steps in records are those of the whole training.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from common import training
from common.averaging import Averaging, Terms, Topic
from common.deal import Deal, Round
from common.log import Log


class LocalSGD:
    """One topic's training on this worker.

    ``variables`` are averaged, those of the optimizer are not. ``total`` is the number of training
    examples, ``steps`` that of steps of ``batch`` in the whole training.
    """

    def __init__(
        self,
        averaging: Averaging,
        log: Log,
        topic: str,
        variables: Sequence[Any],
        optimizer: Any,
        *,
        total: int,
        steps: int,
        batch: int,
        every: int,
        seed: int,
        rounds: Sequence[Round] = (),
    ) -> None:
        self._averaging, self._log = averaging, log
        self._variables, self._optimizer = variables, optimizer
        self._total, self._batch, self._seed = total, batch, seed
        terms = Terms(steps * batch, batch, every)
        weights = [variable.numpy() for variable in variables]
        self.topic = averaging.enter(topic, weights, terms, rounds)
        self._begin()

    @property
    def done(self) -> int:
        """The steps of all workers whose work is in the weights."""
        return sum(one.used_steps for one in self.topic.rounds)

    @property
    def own(self) -> np.ndarray:
        """The examples that this worker needs until the members change."""
        return self.deal.own(self._averaging.worker)

    def calls(
        self,
        batch_of: Callable[[np.ndarray, int], tuple[Any, ...]],
        prepare: Callable[[np.ndarray], None],
        log_every: int,
    ) -> Iterator[training.Call]:
        """Yields the calls of all rounds; between two of them the weights become the average.

        ``batch_of`` gets the examples of a step and its number; ``prepare`` all of a round before.
        """
        while self.topic.steps:
            rows = self.deal.steps(self._averaging.worker, self.topic.steps)
            prepare(np.unique(rows))
            before, members = self.done, len(self.topic.members)

            def make(step: int, rows: np.ndarray = rows, done: int = before) -> tuple[Any, ...]:
                return batch_of(rows[step], done)

            for step, batch in training.prefetch(make, range(self.topic.steps)):
                now = before + (step + 1) * members
                self._optimizer.iterations.assign(now - members)
                is_last = step + 1 == self.topic.steps
                logged = (now - members) // log_every != now // log_every
                then = self._average if is_last else None
                yield training.Call(now, batch, logged or now == members, then, ends_round=is_last)

    def _average(self) -> None:
        """After the last step of a round."""
        begun = time.monotonic()
        weights = [variable.numpy() for variable in self._variables]
        computed = time.monotonic()
        topic, members = self.topic, self.topic.members
        done = self._averaging.average(topic, weights)
        if done is None:
            self._log("rejoined", phase=topic.name, members=topic.members)
            self._begin()
        else:
            self.deal.after(done, topic.members)
            self._set_weights()
        self._log(
            "average",
            phase=topic.name,
            step=self.done,
            members=members if done is None else done.by,
            computing_seconds=round(computed - begun, 6),
            seconds=round(time.monotonic() - computed, 6),
            waited_seconds=None if done is None else topic.waited_s,
        )

    def _begin(self) -> None:
        self.deal = replayed(self.topic, self._total, self._batch, self._seed)
        self._set_weights()

    def _set_weights(self) -> None:
        for variable, value in zip(self._variables, self.topic.weights, strict=True):
            variable.assign(value)


def replayed(topic: Topic, total: int, batch: int, seed: int) -> Deal:
    """The deal after the topic's rounds."""
    rounds = topic.rounds
    members = [*(one.members for one in rounds), topic.members]
    deal = Deal(total, batch, seed, members[0])
    for done, after in zip(rounds, members[1:], strict=True):
        deal.after(done, after)
    return deal
