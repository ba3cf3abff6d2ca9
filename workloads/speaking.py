"""What captioning.py is made of: the encoder that sees, the LSTM that speaks, and the scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scenes
from examples import START

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
        tf = self._tf
        _, *state = self._lstm(self._seen(features)[:, None])
        word = tf.fill((tf.shape(features)[0],), START)
        said = []
        for _ in range(self._length):
            hidden, *state = self._lstm(self._embed(word)[:, None], initial_state=state)
            word = tf.argmax(self._speak(hidden[:, 0]), -1, output_type=tf.int32)
            said.append(word)
        return np.asarray(tf.stack(said, 1))

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


def score(said: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU-1 to 4 of the corpus by sacrebleu, words split at spaces; and how many are exact."""
    from sacrebleu.metrics import BLEU

    most = max(map(len, references))
    streams = [[r[i] if i < len(r) else None for r in references] for i in range(most)]
    scores = {}
    for order in (1, 2, 3, 4):
        metric = BLEU(max_ngram_order=order, tokenize="none", smooth_method="none", force=True)
        scores[f"bleu{order}"] = metric.corpus_score(list(said), streams).score / 100
    exact = [text in of for text, of in zip(said, references, strict=True)]
    return {**scores, "exact_match": sum(exact) / len(exact)}
