"""What captioning.py is made of: the encoder that sees and the LSTM that speaks."""

from typing import Any

import numpy as np
import scenes
from examples import END, PAD, START

DIM_IN, DIM_EMBED, DIM_HIDDEN = 4096, 256, 256


class Captioner:
    """Image feature -> first input of an LSTM; words -> the next ones; a softmax over words."""

    def __init__(self, tf: Any, words: int, length: int) -> None:
        layers = tf.keras.layers
        self._tf, self._length = tf, length
        self._look = layers.Dense(DIM_EMBED)
        self._settle = layers.LayerNormalization()
        self._embed = layers.Embedding(words, DIM_EMBED)
        self._lstm = layers.LSTM(DIM_HIDDEN, return_sequences=True, return_state=True)
        self._speak = layers.Dense(words)
        self._mean = tf.Variable(tf.zeros((DIM_IN,)), trainable=False)
        self._deviation = tf.Variable(tf.ones((DIM_IN,)), trainable=False)
        self(tf.zeros((1, DIM_IN)), tf.zeros((1, length), tf.int32))
        self._greedy = tf.function(self._say_greedily, reduce_retracing=True)
        self._beams = tf.function(self._say_by_beams, reduce_retracing=True)

    def __call__(self, features: Any, inputs: Any, kept: Any = None) -> Any:
        """[n, 4096] and [n, length] -> logits [n, length, words].

        ``kept`` [n, 4096] weighs the features while training: some are dropped, so that no single
        one is relied on.
        """
        seen = self._seen(features, kept)
        sequence = self._tf.concat([seen[:, None], self._embed(inputs)], axis=1)
        hidden, _, _ = self._lstm(sequence)
        return self._speak(hidden[:, 1:])

    def greedy(self, features: Any) -> np.ndarray:
        """The most likely word each time; int [n, length]."""
        return np.asarray(self._greedy(self._tf.constant(features)))

    def beam(self, features: Any, width: int) -> np.ndarray:
        """The likeliest of ``width`` sentences kept side by side, by word; int [n, length]."""
        return np.asarray(self._beams(self._tf.constant(features), width))

    def _say_greedily(self, features: Any) -> Any:
        tf = self._tf
        _, *state = self._lstm(self._seen(features)[:, None])
        word = tf.fill((tf.shape(features)[0],), START)
        said = []
        for _ in range(self._length):
            hidden, *state = self._lstm(self._embed(word)[:, None], initial_state=state)
            word = tf.argmax(self._speak(hidden[:, 0]), -1, output_type=tf.int32)
            said.append(word)
        return tf.stack(said, 1)

    def _say_by_beams(self, features: Any, width: int) -> Any:
        """A sentence that has ended only goes on with padding, at no cost."""
        tf = self._tf
        count = tf.shape(features)[0]
        _, *state = self._lstm(self._seen(features)[:, None])
        state = [tf.repeat(part, width, 0) for part in state]
        cost = tf.tile(tf.constant([[0.0] + [-1e9] * (width - 1)]), (count, 1))
        word, ended = tf.fill((count * width,), START), tf.zeros((count, width), tf.bool)
        said = tf.zeros((count, width, 0), tf.int32)
        for _ in range(self._length):
            hidden, *state = self._lstm(self._embed(word)[:, None], initial_state=state)
            next_cost = tf.nn.log_softmax(self._speak(hidden[:, 0]))
            words = next_cost.shape[-1]
            next_cost = tf.reshape(next_cost, (count, width, words))
            only_padding = tf.one_hot(PAD, words, on_value=0.0, off_value=-1e9)
            next_cost = tf.where(ended[..., None], only_padding, next_cost)
            total = tf.reshape(cost[..., None] + next_cost, (count, width * words))
            cost, best = tf.math.top_k(total, width)
            parent, chosen = best // words, best % words
            rows = tf.reshape(tf.range(count)[:, None] * width + parent, (-1,))
            state = [tf.gather(part, rows) for part in state]
            said = tf.gather(said, parent, batch_dims=1)
            said = tf.concat([said, chosen[..., None]], -1)
            ended = tf.gather(ended, parent, batch_dims=1) | (chosen == END) | (chosen == PAD)
            word = tf.reshape(chosen, (-1,))
        length = tf.reduce_sum(tf.cast((said != PAD) & (said != END), tf.float32), -1) + 1
        best = tf.argmax(cost / length, -1, output_type=tf.int32)
        return tf.gather(said, best, batch_dims=1)

    def normalise(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        self._mean.assign(mean)
        self._deviation.assign(deviation)

    def trainable(self) -> list[Any]:
        return [v for layer in self._layers() for v in layer.trainable_variables]

    def parts(self) -> Any:
        names = ("look", "settle", "embed", "lstm", "speak")
        named = dict(zip(names, self._layers(), strict=True))
        return self._tf.train.Checkpoint(mean=self._mean, deviation=self._deviation, **named)

    def _layers(self) -> tuple[Any, ...]:
        return self._look, self._settle, self._embed, self._lstm, self._speak

    def _seen(self, features: Any, kept: Any = None) -> Any:
        settled = (features - self._mean) / self._deviation
        return self._settle(self._look(settled if kept is None else settled * kept))


def build_encoder(tf: Any, outputs: int) -> tuple[Any, Any]:
    """64 x 64 x 3 -> 8 x 8 x 64 = 4096 features, and the head that it learns to see with."""
    layers = tf.keras.layers
    encoder = tf.keras.Sequential(
        [
            layers.Input((scenes.SIZE, scenes.SIZE, 3)),
            layers.Conv2D(16, 5, strides=2, padding="same", activation="relu"),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(64, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
        ]
    )
    head = tf.keras.Sequential([layers.Input((DIM_IN,)), layers.Dense(outputs)])
    return encoder, head


def seeing_loss(tf: Any, logits: Any, targets: Any, *, real: bool) -> Any:
    """One value per example."""
    if real:
        each = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
        return tf.reduce_sum(each, -1)
    parts = tf.split(logits, scenes.LABELS, axis=-1)
    losses = [
        tf.nn.sparse_softmax_cross_entropy_with_logits(targets[:, number], part)
        for number, part in enumerate(parts)
    ]
    return tf.add_n(losses)
