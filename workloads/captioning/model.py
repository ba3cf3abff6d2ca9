"""captioning's networks: the image encoder and the LSTM that generates captions."""

from typing import Any

import numpy as np

from captioning import scenes
from captioning.dataset import END, PAD, START

DIM_IN, DIM_EMBED, DIM_HIDDEN = 4096, 256, 256


class Captioner:
    """An LSTM whose first input is the image feature, followed by words; softmax over words."""

    def __init__(self, tf: Any, words: int, length: int) -> None:
        layers = tf.keras.layers
        self._tf, self._length = tf, length
        self._project = layers.Dense(DIM_EMBED)
        self._normalize = layers.LayerNormalization()
        self._embed = layers.Embedding(words, DIM_EMBED)
        self._lstm = layers.LSTM(DIM_HIDDEN, return_sequences=True, return_state=True)
        self._output = layers.Dense(words)
        self._mean = tf.Variable(tf.zeros((DIM_IN,)), trainable=False)
        self._deviation = tf.Variable(tf.ones((DIM_IN,)), trainable=False)
        self(tf.zeros((1, DIM_IN)), tf.zeros((1, length), tf.int32))
        self._greedy = tf.function(self._decode_greedily, reduce_retracing=True)
        self._beams = tf.function(self._decode_beams, reduce_retracing=True)

    def __call__(self, features: Any, inputs: Any, kept: Any = None) -> Any:
        """[n, 4096] and [n, length] -> logits [n, length, words].

        ``kept`` [n, 4096] is the dropout mask that multiplies the features in training.
        """
        image = self._image_input(features, kept)
        sequence = self._tf.concat([image[:, None], self._embed(inputs)], axis=1)
        hidden, _, _ = self._lstm(sequence)
        return self._output(hidden[:, 1:])

    def greedy(self, features: Any) -> np.ndarray:
        """The most likely word at every position; int [n, length]."""
        return np.asarray(self._greedy(self._tf.constant(features)))

    def beam(self, features: Any, width: int) -> np.ndarray:
        """The sentence with the highest mean log-likelihood of ``width``; int [n, length]."""
        return np.asarray(self._beams(self._tf.constant(features), width))

    def _decode_greedily(self, features: Any) -> Any:
        tf = self._tf
        _, *state = self._lstm(self._image_input(features)[:, None])
        word = tf.fill((tf.shape(features)[0],), START)
        words = []
        for _ in range(self._length):
            hidden, *state = self._lstm(self._embed(word)[:, None], initial_state=state)
            word = tf.argmax(self._output(hidden[:, 0]), -1, output_type=tf.int32)
            words.append(word)
        return tf.stack(words, 1)

    def _decode_beams(self, features: Any, width: int) -> Any:
        """A finished sentence is only extended by padding, at no cost."""
        tf = self._tf
        count = tf.shape(features)[0]
        _, *state = self._lstm(self._image_input(features)[:, None])
        state = [tf.repeat(part, width, 0) for part in state]
        cost = tf.tile(tf.constant([[0.0] + [-1e9] * (width - 1)]), (count, 1))
        word, ended = tf.fill((count * width,), START), tf.zeros((count, width), tf.bool)
        words = tf.zeros((count, width, 0), tf.int32)
        for _ in range(self._length):
            hidden, *state = self._lstm(self._embed(word)[:, None], initial_state=state)
            next_cost = tf.nn.log_softmax(self._output(hidden[:, 0]))
            size = next_cost.shape[-1]
            next_cost = tf.reshape(next_cost, (count, width, size))
            only_padding = tf.one_hot(PAD, size, on_value=0.0, off_value=-1e9)
            next_cost = tf.where(ended[..., None], only_padding, next_cost)
            total = tf.reshape(cost[..., None] + next_cost, (count, width * size))
            cost, best = tf.math.top_k(total, width)
            parent, chosen = best // size, best % size
            rows = tf.reshape(tf.range(count)[:, None] * width + parent, (-1,))
            state = [tf.gather(part, rows) for part in state]
            words = tf.gather(words, parent, batch_dims=1)
            words = tf.concat([words, chosen[..., None]], -1)
            ended = tf.gather(ended, parent, batch_dims=1) | (chosen == END) | (chosen == PAD)
            word = tf.reshape(chosen, (-1,))
        length = tf.reduce_sum(tf.cast((words != PAD) & (words != END), tf.float32), -1) + 1
        best = tf.argmax(cost / length, -1, output_type=tf.int32)
        return tf.gather(words, best, batch_dims=1)

    def set_normalization(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        self._mean.assign(mean)
        self._deviation.assign(deviation)

    def trainable_variables(self) -> list[Any]:
        return [v for layer in self._layers() for v in layer.trainable_variables]

    def all_variables(self) -> list[Any]:
        """With those of the normalization."""
        return [*self.trainable_variables(), self._mean, self._deviation]

    def checkpoint(self) -> Any:
        """The names must not change: checkpoints of older runs have them."""
        names = ("look", "settle", "embed", "lstm", "speak")
        named = dict(zip(names, self._layers(), strict=True))
        return self._tf.train.Checkpoint(mean=self._mean, deviation=self._deviation, **named)

    def _layers(self) -> tuple[Any, ...]:
        return self._project, self._normalize, self._embed, self._lstm, self._output

    def _image_input(self, features: Any, kept: Any = None) -> Any:
        scaled = (features - self._mean) / self._deviation
        return self._normalize(self._project(scaled if kept is None else scaled * kept))


def build_encoder(tf: Any, outputs: int) -> tuple[Any, Any]:
    """64 x 64 x 3 -> 8 x 8 x 64 = 4096 features, and the head for its training."""
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


def encoder_loss(tf: Any, logits: Any, targets: Any, *, real: bool) -> Any:
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
