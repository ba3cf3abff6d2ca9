"""The paper's stock program as it was: a TensorFlow 1 graph, fed batch by batch through a session.

    python benchmarks/appendix_c.py --rows 800 --stocks 30 --steps 10

A port of our own of appendix C, on tf.compat.v1, to compare workloads/stock_prediction.py with:
the same initial weights, batches and Adam. It prints both programs' losses, step by step, as JSON.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parents[1] / "workloads"))

import forecaster
import prices


class AppendixC:
    """Placeholders, variables and one optimizer; ``train`` is one batch, ``errors`` whole sets."""

    def __init__(self, tf: Any, data: prices.Split, start: Sequence[np.ndarray]) -> None:
        v1 = tf.compat.v1
        self.data = data
        with v1.Graph().as_default():
            self._x = v1.placeholder(tf.float32, [None, data.train_x.shape[1]])
            self._y = v1.placeholder(tf.float32, [None])
            layer, weights = self._x, [v1.Variable(value) for value in start]
            for at in range(0, len(weights) - 2, 2):
                layer = tf.nn.relu(tf.add(tf.matmul(layer, weights[at]), weights[at + 1]))
            self._out = tf.transpose(tf.add(tf.matmul(layer, weights[-2]), weights[-1]))
            self._mse = tf.reduce_mean(tf.math.squared_difference(self._out, self._y))
            self._minimize = v1.train.AdamOptimizer().minimize(self._mse)
            self._session = v1.Session()
            self._session.run(v1.global_variables_initializer())

    def train(self, rows: np.ndarray) -> float:
        """The loss before the step, as the other program tells it."""
        batch = {self._x: self.data.train_x[rows], self._y: self.data.train_y[rows]}
        return float(self._session.run([self._mse, self._minimize], feed_dict=batch)[0])

    def look(self) -> tuple[float, float]:
        """The three full evaluations of a log point: MSE of both sets, and the prediction."""
        sets = ((self.data.train_x, self.data.train_y), (self.data.test_x, self.data.test_y))
        found = [
            float(self._session.run(self._mse, feed_dict={self._x: x, self._y: y})) for x, y in sets
        ]
        self._session.run(self._out, feed_dict={self._x: self.data.test_x})
        return found[0], found[1]


def compare(rows: int, stocks: int, steps: int, seed: int) -> tuple[list[float], list[float]]:
    """Losses of both programs from the same weights and batches."""
    import tensorflow as tf

    data = prices.split(prices.generate(rows, stocks, seed))
    batches = np.random.default_rng(seed).integers(0, len(data.train_y), (steps, 64))
    theirs = AppendixC(tf, data, forecaster.initial_weights(stocks, seed))
    ours = forecaster.Forecaster(
        tf, tf.distribute.get_strategy(), stocks, seed=seed, xla=True, chunk=1
    )
    ours.take(data, bf16=False)
    batches = batches.astype(np.int32)
    return (
        [theirs.train(batch) for batch in batches],
        [float(ours.steps(batch[np.newaxis])) for batch in batches],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=800)
    parser.add_argument("--stocks", type=int, default=30)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=3)
    theirs, ours = compare(**vars(parser.parse_args()))
    print(json.dumps({"appendix_c": theirs, "stock_prediction": ours}))


if __name__ == "__main__":
    main()
