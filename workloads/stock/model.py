"""The paper's network and its training step; many steps are compiled to one program.

Appendix C: ReLU layers of 1024, 512, 256 and 128 on all stocks, one output, Adam as in TensorFlow 1
(epsilon 1e-8 outside the root), variance-scaled uniform weights, zero biases.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from stock.dataset import Split

LAYERS = (1024, 512, 256, 128)
RATE, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.999, 1e-8

ROWS_AT_ONCE = 512  # in an evaluation: the activations fit in the CPU's cache

Parts = tuple[list[Any], int]
"""A set in padded parts of ROWS_AT_ONCE, and its number of rows."""


def initial_weights(inputs: int, seed: int) -> list[np.ndarray]:
    """[W, b] of each layer, float32: uniform, scaled by fan average, as in the paper."""
    draw = np.random.default_rng([seed, 7])
    weights: list[np.ndarray] = []
    for into, out in zip((inputs, *LAYERS), (*LAYERS, 1), strict=True):
        limit = np.sqrt(3.0 / ((into + out) / 2))
        weights += [draw.uniform(-limit, limit, (into, out)), np.zeros(out)]
    return [value.astype(np.float32) for value in weights]


class Forecaster:
    """``chunk`` is the maximum number of steps in one call."""

    def __init__(
        self, tf: Any, strategy: Any, inputs: int, *, seed: int, xla: bool, chunk: int
    ) -> None:
        self.tf, self.strategy, self.chunk, self.xla = tf, strategy, chunk, xla
        start = initial_weights(inputs, seed)
        with strategy.scope():
            self._weights = [tf.Variable(value) for value in start]
            self._first = [tf.Variable(np.zeros_like(value)) for value in start]
            self._second = [tf.Variable(np.zeros_like(value)) for value in start]
            self._steps = tf.Variable(0.0)
        self._many = tf.function(self._loop, jit_compile=True)
        self._one = tf.function(self._distributed)
        self._squares = tf.function(self._sum_of_squares, jit_compile=xla)
        self._output = tf.function(self._forward, jit_compile=xla)

    def set_data(self, data: Split, *, bf16: bool) -> None:
        """Copies both sets to the device; with ``bf16`` ``errors`` computes in bfloat16."""
        tf = self.tf
        self._x, self._y = tf.constant(data.train_x), tf.constant(data.train_y)
        self._data, self._precision = data, tf.bfloat16 if bf16 else tf.float32
        self._sets = self._both_sets(self._precision)
        self._test_x = tf.constant(data.test_x)

    def train(self, rows: np.ndarray, batch_size: int | None = None) -> Any:
        """Trains on ``rows`` [steps, this worker's share of a batch]; returns the last step's loss.

        ``batch_size`` is the global one; the workers' shares may differ by one.
        """
        if self.xla:
            padded = np.zeros((self.chunk, rows.shape[1]), np.int32)
            padded[: len(rows)] = rows
            return self._many(self.tf.constant(padded), self.tf.constant(len(rows)))
        for row in rows:
            loss = self._one(self.tf.constant(row), batch_size or len(row))
        return loss

    def errors(self) -> tuple[float, float]:
        """MSE of the training and test sets, at the precision of ``set_data``."""
        return self._errors(self._sets, self._precision)

    def exact_errors(self) -> tuple[float, float]:
        """The same in float32, for the result."""
        exact = self.tf.float32
        sets = self._sets if self._precision == exact else self._both_sets(exact)
        return self._errors(sets, exact)

    def predict(self) -> np.ndarray:
        """The test set's scaled index, float32."""
        output = self._output(self._test_x, [w.value() for w in self._weights])
        return np.asarray(output.numpy())

    def weights(self) -> list[np.ndarray]:
        return [weight.numpy() for weight in self._weights]

    def variables(self) -> dict[str, Any]:
        """The contents of a checkpoint."""
        return {
            "weights": self._weights,
            "first": self._first,
            "second": self._second,
            "steps": self._steps,
        }

    def _errors(self, sets: Sequence[Parts], precision: Any) -> tuple[float, float]:
        weights = [self.tf.cast(w, precision) for w in self._weights]
        train, test = (float(self._squares(*parts, weights)) / n for parts, n in sets)
        return train, test

    def _both_sets(self, precision: Any) -> Sequence[Parts]:
        data = self._data
        sets = ((data.train_x, data.train_y), (data.test_x, data.test_y))
        return [self._in_parts(x, y, precision) for x, y in sets]

    def _in_parts(self, x: np.ndarray, y: np.ndarray, precision: Any) -> Parts:
        """x, y and a mask of the rows that are not padding, all [parts, ROWS_AT_ONCE, ...]."""
        tf, rows = self.tf, len(y)
        more = -rows % ROWS_AT_ONCE
        x, y, counts = np.pad(x, ((0, more), (0, 0))), np.pad(y, (0, more)), np.ones(rows)
        counts = np.pad(counts.astype(np.float32), (0, more))
        return [
            tf.cast(tf.constant(x.reshape(-1, ROWS_AT_ONCE, x.shape[1])), precision),
            tf.constant(y.reshape(-1, ROWS_AT_ONCE)),
            tf.constant(counts.reshape(-1, ROWS_AT_ONCE)),
        ], rows

    def _loop(self, rows: Any, count: Any) -> Any:
        """All steps in one program, which keeps weights and moments between steps."""
        tf = self.tf

        def body(at: Any, _: Any, *state: Any) -> tuple[Any, ...]:
            batch = tf.gather(rows, at)
            weights, first, second, steps = _unpacked(state)
            loss, gradients = self._gradients(batch, weights, rows.shape[1])
            moved = self._adam(weights, first, second, steps + 1, gradients)
            return (at + 1, loss, *moved, steps + 1)

        state = (*self._weights, *self._first, *self._second, self._steps)
        start = (tf.constant(0), tf.constant(0.0), *(v.value() for v in state))
        _, loss, *ended = tf.while_loop(lambda at, *_: at < count, body, start)
        for variable, value in zip(state, ended, strict=True):
            variable.assign(value)
        return loss

    def _distributed(self, batch: Any, batch_size: int) -> Any:
        return self.strategy.run(self._step, args=(batch, batch_size))

    def _step(self, batch: Any, batch_size: int) -> Any:
        """One step on this worker's share; losses and gradients are summed over all workers."""
        weights = [w.value() for w in self._weights]
        loss, gradients = self._gradients(batch, weights, batch_size)
        loss, *gradients = self._sum([loss, *gradients])
        moments = [v.value() for v in (*self._first, *self._second)]
        half = len(moments) // 2
        moved = self._adam(
            weights, moments[:half], moments[half:], self._steps.value() + 1, gradients
        )
        variables = (*self._weights, *self._first, *self._second)
        for variable, value in zip(variables, moved, strict=True):
            variable.assign(value)
        self._steps.assign_add(1.0)
        return loss

    def _sum(self, values: Sequence[Any]) -> Sequence[Any]:
        context = self.tf.distribute.get_replica_context()
        if context.num_replicas_in_sync == 1:
            return values
        summed: Sequence[Any] = context.all_reduce("sum", list(values))
        return summed

    def _gradients(
        self, batch: Any, weights: Sequence[Any], batch_size: int
    ) -> tuple[Any, Sequence[Any]]:
        tf = self.tf
        x, y = tf.gather(self._x, batch), tf.gather(self._y, batch)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = tf.reduce_sum((self._forward(x, weights) - y) ** 2) / batch_size
        return loss, tape.gradient(loss, list(weights))

    def _adam(
        self,
        weights: Sequence[Any],
        first: Sequence[Any],
        second: Sequence[Any],
        steps: Any,
        gradients: Sequence[Any],
    ) -> list[Any]:
        tf = self.tf
        rate = RATE * tf.sqrt(1 - BETA_2**steps) / (1 - BETA_1**steps)
        first = [BETA_1 * m + (1 - BETA_1) * g for m, g in zip(first, gradients, strict=True)]
        second = [BETA_2 * v + (1 - BETA_2) * g * g for v, g in zip(second, gradients, strict=True)]
        moved = [
            w - rate * m / (tf.sqrt(v) + EPSILON)
            for w, m, v in zip(weights, first, second, strict=True)
        ]
        return [*moved, *first, *second]

    def _forward(self, x: Any, weights: Sequence[Any]) -> Any:
        tf = self.tf
        for at in range(0, len(weights) - 2, 2):
            x = tf.nn.relu(tf.matmul(x, weights[at]) + weights[at + 1])
        return tf.cast((tf.matmul(x, weights[-2]) + weights[-1])[:, 0], tf.float32)

    def _sum_of_squares(self, x: Any, y: Any, counts: Any, weights: Sequence[Any]) -> Any:
        tf = self.tf

        def part(at: Any, total: Any) -> tuple[Any, Any]:
            difference = self._forward(tf.gather(x, at), weights) - tf.gather(y, at)
            return at + 1, total + tf.reduce_sum(tf.gather(counts, at) * difference**2)

        start = (tf.constant(0), tf.constant(0.0))
        # One part at a time, so that only its activations are in memory.
        return tf.while_loop(lambda at, _: at < len(x), part, start, parallel_iterations=1)[1]


def _unpacked(state: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any], Any]:
    third = (len(state) - 1) // 3
    return state[:third], state[third : 2 * third], state[2 * third : -1], state[-1]
