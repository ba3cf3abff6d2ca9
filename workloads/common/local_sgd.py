"""Training in rounds: some steps of this worker alone, then the average of all workers' weights.

A step of one worker counts as one step of the whole training, so that two workers need half as
many each. The numbers of steps in records are those of the whole training.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from common import training
from common.averaging import Averaging, Terms
from common.deal import Round, replayed


class LocalSGD:
    """One topic's training on this worker.

    ``variables`` are averaged, those of an optimizer are not; ``optimizer`` is one whose learning
    rate follows the steps of the whole training. ``total`` is the number of training examples,
    ``steps`` that of steps of ``batch`` in the whole training.
    """

    def __init__(
        self,
        averaging: Averaging,
        log: Callable[..., None],
        topic: str,
        variables: Sequence[Any],
        optimizer: Any | None = None,
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
        self._talked = 0.0
        self._begin()

    @property
    def done(self) -> int:
        """The steps of all workers whose work is in the weights."""
        return sum(one.used_steps for one in self.topic.rounds)

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint holds; ``rounds_of`` reads it."""
        return {"step": self.done, "rounds": [vars(one) for one in self.topic.rounds]}

    @property
    def own(self) -> np.ndarray:
        """The examples that this worker needs until the members change; none if all was over
        when it came.
        """
        worker = self._averaging.worker
        is_member = worker in self.topic.members
        return self.deal.own(worker) if is_member else np.empty(0, np.int64)

    @property
    def rows(self) -> np.ndarray:
        """The examples of this worker's steps in the current round; int64 [steps, batch]."""
        return self.deal.steps(self._averaging.worker, self.topic.steps)

    def communication(self) -> float:
        """Seconds of averaging, with the wait for others, since this was last called."""
        talked, self._talked = self._talked, 0.0
        return talked

    def calls(
        self,
        batch_of: Callable[[Any, int], tuple[Any, ...]],
        prepare: Callable[[Any], None],
        log_every: int,
    ) -> Iterator[training.Call]:
        """Yields the calls of all rounds, one for each step; between two rounds the weights become
        the average.

        ``batch_of`` gets the examples of a step and the number of steps done before the round;
        ``prepare`` all of a round before.
        """

        def batch_of_one(rows: np.ndarray, done: int) -> tuple[Any, ...]:
            return batch_of(rows[0], done)

        return self.chunks(batch_of_one, prepare, log_every, longest=1)

    def chunks(
        self,
        batch_of: Callable[[np.ndarray, int], tuple[Any, ...]],
        prepare: Callable[[np.ndarray], None],
        log_every: int,
        longest: int,
    ) -> Iterator[training.Call]:
        """The same with up to ``longest`` steps in a call, whose examples are [steps, batch]."""
        while self.topic.steps:
            rows, before, members = self.rows, self.done, len(self.topic.members)
            prepare(np.unique(rows))
            parts = [rows[at : at + longest] for at in range(0, len(rows), longest)]

            def make(
                part: int, parts: Sequence[np.ndarray] = parts, done: int = before
            ) -> tuple[Any, ...]:
                return batch_of(parts[part], done)

            now = before
            for part, batch in training.prefetch(make, range(len(parts))):
                last, now = now, now + len(parts[part]) * members
                self.follow(last)
                is_last = part + 1 == len(parts)
                logged = last == 0 or last // log_every != now // log_every
                then = self.average if is_last else None
                yield training.Call(now, batch, logged, then, ends_round=is_last)

    def average(self) -> None:
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
            self.set_weights()
        talked = time.monotonic() - computed
        self._talked += talked
        self._log(
            "average",
            phase=topic.name,
            step=self.done,
            members=members if done is None else done.by,
            computing_seconds=round(computed - begun, 6),
            seconds=round(talked, 6),
            waited_seconds=None if done is None else topic.waited_s,
        )

    def follow(self, done: int) -> None:
        """Set the optimizer's number of steps, if it is to follow the whole training."""
        if self._optimizer is not None:
            self._optimizer.iterations.assign(done)

    def set_weights(self) -> None:
        """Those of the last average."""
        for variable, value in zip(self._variables, self.topic.weights, strict=True):
            variable.assign(value)

    def _begin(self) -> None:
        topic = self.topic
        self.deal = replayed(topic.rounds, topic.members, self._total, self._batch, self._seed)
        self.set_weights()


def rounds_of(state: Mapping[str, Any]) -> list[Round]:
    """The rounds of a checkpoint; steps without any count as one worker's."""
    rounds = [Round.of(one) for one in state.get("rounds", ())]
    alone = [Round((0,), (0,), state["step"])] if state["step"] else []
    return rounds or alone
