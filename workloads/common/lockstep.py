"""Training in lockstep: at each step all workers sum their gradients, and all apply the sum.

A worker's batch is split over the devices of its machine, too. Between workers, and between
devices, each step has one collective, of all gradients and the loss in one tensor.

A step of one worker counts as one step of the whole training, as in local_sgd.py, so that two
workers need half as many each. The numbers of steps in records are those of the whole training.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from common import training
from common.deal import Round, replayed
from common.device import devices_here

WIRES = ("float32", "float16", "bfloat16")
SCALE = 1024.0
"""Of gradients in float16: without it, those below 6e-5 would lose digits."""
LARGEST = 65504.0  # in float16
WARM_UP = 20  # the part of the training in which a larger learning rate is reached


class Step:
    """A compiled step: gradients, their sum over all replicas, and the update.

    ``gradients`` returns the loss and the gradients of what it gets; both are summed, so it divides
    by the number of examples of all replicas. Arguments that are arrays are split along their first
    axis over the devices of this machine. ``wire`` is the type in which gradients travel.
    """

    def __init__(
        self,
        tf: Any,
        strategy: Any,
        gradients: Callable[..., tuple[Any, Any]],
        optimizer: Any,
        variables: Sequence[Any],
        wire: str = "float32",
    ) -> None:
        self._tf, self._strategy = tf, strategy
        self._gradients, self._optimizer, self._variables = gradients, optimizer, variables
        self._wire = tf.as_dtype(wire)
        self._replicas = strategy.num_replicas_in_sync
        self._here = devices_here(strategy)
        self._times: list[Any] = []
        self._compiled = tf.function(self._everywhere)
        if self._replicas > 1:
            # Keras's optimizers sum the gradients of all replicas, each by itself.
            inner = getattr(optimizer, "inner_optimizer", optimizer)
            inner._all_reduce_sum_gradients = list

    def __call__(self, *batch: Any) -> Any:
        """Returns the loss of all replicas' examples."""
        loss, seconds = self._compiled(*split(self._strategy, batch, self._here))
        self._times.append(seconds)
        return loss

    def communication(self) -> float:
        """Seconds in the collective, with the wait for others, since this was last called."""
        times, self._times = self._times, []
        return float(sum(float(seconds) for seconds in times))

    def _everywhere(self, *batch: Any) -> tuple[Any, Any]:
        results = self._strategy.run(self._replica, args=batch)
        loss, seconds = (self._strategy.experimental_local_results(one)[0] for one in results)
        return loss, seconds

    def _replica(self, *batch: Any) -> tuple[Any, Any]:
        loss, gradients = self._gradients(*batch)
        # Those of an embedding have a row for each word that occurs, of which Keras's Adam would
        # sum the squares instead of squaring the sum.
        gradients = [self._tf.convert_to_tensor(one) for one in gradients]
        seconds = self._tf.constant(0.0, self._tf.float64)
        if self._replicas > 1:
            loss, gradients, seconds = self._summed(loss, gradients)
        self._optimizer.apply(gradients, self._variables)
        return loss, seconds

    def _summed(self, loss: Any, gradients: Sequence[Any]) -> tuple[Any, Sequence[Any], Any]:
        tf = self._tf
        sent = self._encoded(loss, gradients)
        begun = self._now(sent)
        with tf.control_dependencies([begun]):
            sent = tf.identity(sent)
        got = tf.distribute.get_replica_context().all_reduce("SUM", sent)
        ended = self._now(got)
        # The update must not begin before the clock has been read.
        with tf.control_dependencies([ended]):
            got = tf.identity(got)
        return (*self._decoded(got, gradients), ended - begun)

    def _now(self, after: Any) -> Any:
        """The time at which ``after`` is there; a GPU has it once the host can read it."""
        tf = self._tf
        with tf.device("CPU:0"):
            first = tf.identity(after[:1])
            with tf.control_dependencies([first]):
                return tf.timestamp()

    def _encoded(self, loss: Any, gradients: Sequence[Any]) -> Any:
        """The loss as a coarse and a fine part, so that it keeps its digits."""
        tf, wire = self._tf, self._wire
        flat = tf.concat([tf.reshape(one, (-1,)) for one in gradients], 0)
        if wire == tf.float32:
            return tf.concat([loss[None], tf.zeros(1), flat], 0)
        if wire == tf.float16:
            most = LARGEST / self._replicas  # the sum is finite
            flat, loss = (tf.clip_by_value(x, -most, most) for x in (flat * SCALE, loss))
        coarse = tf.cast(loss, wire)
        fine = tf.cast(loss - tf.cast(coarse, tf.float32), wire)
        return tf.concat([coarse[None], fine[None], tf.cast(flat, wire)], 0)

    def _decoded(self, got: Any, like: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
        tf = self._tf
        sizes = [one.shape.num_elements() for one in like]
        loss = tf.reduce_sum(tf.cast(got[:2], tf.float32))
        parts = tf.split(got[2:], sizes)
        scale = SCALE if self._wire == tf.float16 else 1.0
        return loss, [
            tf.reshape(tf.cast(part, tf.float32) / scale, one.shape)
            for part, one in zip(parts, like, strict=True)
        ]


def split(strategy: Any, batch: Sequence[Any], here: int) -> tuple[Any, ...]:
    """Arrays in parts, one for each device of this machine; scalars are the same on all."""
    if here == 1:
        return tuple(batch)
    parts = [
        [one] * here if len(one.shape) == 0 else [one[rows] for rows in _slices(len(one), here)]
        for one in batch
    ]

    def values(of: Sequence[Any]) -> Any:
        return strategy.experimental_distribute_values_from_function(
            lambda context: of[context.replica_id_in_sync_group % here]
        )

    return tuple(values(one) for one in parts)


def _slices(count: int, parts: int) -> list[slice]:
    borders = [count * n // parts for n in range(parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(borders)]


class Lockstep:
    """The steps of one topic on this worker, where each worker has a batch of its own.

    ``total`` is the number of training examples, ``steps`` that of steps of ``batch`` in the whole
    training. ``rounds`` are those of the checkpoint, perhaps of other workers: what these have left
    of an epoch is dealt anew.
    """

    def __init__(
        self,
        worker: int,
        workers: int,
        optimizer: Any,
        *,
        total: int,
        steps: int,
        batch: int,
        seed: int,
        rounds: Sequence[Round] = (),
    ) -> None:
        self._worker, self._workers, self._optimizer = worker, workers, optimizer
        self._steps, self._rounds = steps, list(rounds)
        self._members = tuple(range(workers))
        self.deal = replayed(self._rounds, self._members, total, batch, seed)
        self.done = sum(one.used_steps for one in self._rounds)

    @property
    def own(self) -> np.ndarray:
        """The examples that this worker needs."""
        return self.deal.own(self._worker)

    def rounds(self, done: int) -> list[Round]:
        """What a checkpoint after ``done`` steps of all workers needs."""
        more = (done - self.done) // self._workers
        new = [Round(self._members, self._members, more)] if more else []
        return [*self._rounds, *new]

    def calls(
        self,
        batch_of: Callable[[Sequence[int], int], tuple[Any, ...]],
        stop: int,
        log_every: int,
    ) -> Iterator[training.Call]:
        """Yields the calls until ``stop`` steps of all workers are done.

        ``batch_of`` gets this worker's examples of a step and the number of steps before it.
        """
        workers, left = self._workers, max(0, stop - self.done)
        count = -(-left // workers)
        rows = self.deal.steps(self._worker, count)

        def make(step: int) -> tuple[Any, ...]:
            return batch_of(rows[step].tolist(), self.done + step * workers)

        for step, batch in training.prefetch(make, range(count)):
            before = self.done + step * workers
            now = before + workers
            self._optimizer.iterations.assign(before)
            logged = step == 0 or before // log_every != now // log_every or step + 1 == count
            yield training.Call(now, batch, logged)


def rate_for(tf: Any, schedule: Any, workers: int, steps: int) -> Any:
    """``schedule`` for a batch of each worker: larger by the root of their number, as is usual for
    Adam; that is reached from the plain rate in the first part of the steps.
    """
    by = workers**0.5

    class Larger(tf.keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
        def __call__(self, step: Any) -> Any:
            reached = tf.minimum(1.0, tf.cast(step, tf.float32) / max(1, steps // WARM_UP))
            return schedule(step) * (1 + (by - 1) * reached)

        def get_config(self) -> dict[str, Any]:
            return {"by": by, "steps": steps}

    return schedule if by == 1 else Larger()
