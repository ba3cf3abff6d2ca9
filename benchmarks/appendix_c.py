"""The paper's stock program as it was: a TensorFlow 1 graph, fed batch by batch through a session.

    python benchmarks/appendix_c.py --rows 800 --stocks 30 --steps 10

A port of our own of appendix C, on tf.compat.v1, to compare workloads/stock with: it
scales and draws its weights by itself, with scikit-learn's scaler and TensorFlow 1's initializer.
From the same initial weights and batches it prints the losses of both, step by step, as JSON;
`appendix_c_band.py` compares where they end.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parents[1] / "workloads"))

from stock import dataset, model

LAYERS = (1024, 512, 256, 128, 1)
CHUNK = 50  # steps of the program that ships


@dataclass(frozen=True)
class Sets:
    """Scaled, as the listing has them."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def scaled(found: dataset.Prices) -> Sets:
    """The listing's own lines; its test set begins one row late."""
    from sklearn.preprocessing import MinMaxScaler

    data = np.column_stack([found.index, found.stocks])
    train_end = int(np.floor(0.8 * len(data)))
    data_train, data_test = data[:train_end], data[train_end + 1 :]
    scaler = MinMaxScaler(feature_range=(-1, 1)).fit(data_train)
    train, test = (scaler.transform(part).astype(np.float32) for part in (data_train, data_test))
    return Sets(train[:, 1:], train[:, 0], test[:, 1:], test[:, 0])


def initial_weights(tf: Any, inputs: int, seed: int) -> list[np.ndarray]:
    """[W, b] of each layer, by the paper's initializers."""
    v1 = tf.compat.v1
    with v1.Graph().as_default():
        v1.set_random_seed(seed)
        draw = v1.variance_scaling_initializer(scale=1, mode="fan_avg", distribution="uniform")
        weights: list[Any] = []
        for into, out in zip((inputs, *LAYERS), LAYERS, strict=False):
            weights += [draw([into, out]), v1.zeros_initializer()([out])]
        with v1.Session() as session:
            return list(session.run(weights))


class AppendixC:
    """Placeholders, variables and one optimizer; ``train`` is one batch, ``errors`` whole sets."""

    def __init__(self, tf: Any, data: Sets | dataset.Split, start: Sequence[np.ndarray]) -> None:
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
        found = self.errors()
        self._session.run(self._out, feed_dict={self._x: self.data.test_x})
        return found

    def errors(self) -> tuple[float, float]:
        sets = ((self.data.train_x, self.data.train_y), (self.data.test_x, self.data.test_y))
        train, test = (
            float(self._session.run(self._mse, feed_dict={self._x: x, self._y: y})) for x, y in sets
        )
        return train, test


def compare(rows: int, stocks: int, steps: int, seed: int) -> dict[str, Any]:
    """From the paper's weights and the same batches, the losses of the paper's program, of ours a
    step at a time, and of the program that ships; and how both kinds of weights are spread.
    """
    import tensorflow as tf

    found = dataset.generate(rows, stocks, seed)
    theirs, ours = scaled(found), dataset.split(found)
    draw = np.random.default_rng(seed)
    batches = draw.integers(0, len(theirs.train_y), (steps, 64)).astype(np.int32)
    start = initial_weights(tf, stocks, seed)
    paper = AppendixC(tf, theirs, start)
    return {
        "appendix_c": [paper.train(batch) for batch in batches],
        "one_step": _losses(_ours(tf, ours, start, chunk=1), batches),
        "shipped": _losses(_ours(tf, ours, start, chunk=CHUNK), batches),
        "shipped_in_one_call": float(_ours(tf, ours, start, chunk=CHUNK).train(batches)),
        "scaling_differs_by": float(np.abs(theirs.train_x - ours.train_x).max()),
        "weights": spread(start),
        "weights_of_ours": spread(model.initial_weights(stocks, seed)),
    }


def spread(weights: Sequence[np.ndarray]) -> list[dict[str, float]]:
    """Of each layer."""
    return [
        {
            "largest": float(np.abs(weight).max()),
            "deviation": float(weight.std()),
            "bias": float(np.abs(bias).max()),
        }
        for weight, bias in zip(weights[::2], weights[1::2], strict=True)
    ]


def _ours(
    tf: Any, data: dataset.Split, start: Sequence[np.ndarray], *, chunk: int
) -> model.Forecaster:
    program = model.Forecaster(
        tf, tf.distribute.get_strategy(), data.train_x.shape[1], seed=0, xla=True, chunk=chunk
    )
    for variable, value in zip(program.variables()["weights"], start, strict=True):
        variable.assign(value)
    program.set_data(data, bf16=False)
    return program


def _losses(program: model.Forecaster, batches: np.ndarray) -> list[float]:
    return [float(program.train(batch[np.newaxis])) for batch in batches]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=800)
    parser.add_argument("--stocks", type=int, default=30)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    if options.steps > CHUNK:
        parser.error(f"--steps must be at most {CHUNK}: later the curves are chaotic")
    print(json.dumps(compare(**vars(options))))


if __name__ == "__main__":
    main()
