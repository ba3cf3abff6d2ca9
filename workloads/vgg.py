"""VGG19's convolutions up to block5_conv1, with its trained weights or with seeded random ones.

Trained weights come from a file of Keras's (``--weights FILE.h5``) or Keras's download. Without
them the network is random (He initialised): pooling by averages, which it has in either case, makes
its features good enough to carry a style over, though not a content that it never learned to see.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

# (block, convolutions, channels); only the first convolution of block 5 is needed
BLOCKS = ((1, 2, 64), (2, 2, 128), (3, 4, 256), (4, 4, 512), (5, 1, 512))
STYLE_LAYERS = tuple(f"block{block}_conv1" for block, _, _ in BLOCKS)
CONTENT_LAYER = "block4_conv2"
MEAN_BGR = (103.939, 116.779, 123.68)

# The MD5 sums that Keras itself checks its two files by.
KNOWN = {
    "253f8cb515780f3b799900260a226db6": "Keras's VGG19 without top",
    "cbe5617147190e668d6c5d5026f83318": "Keras's VGG19 with top",
}


class BadWeights(Exception):
    """One line that says what is wrong with the file."""


class Network:
    """``origin`` is said in every result; ``features`` maps RGB in 0..1 to the named layers."""

    def __init__(self, tf: Any, kernels: dict[str, Any], origin: str, *, trained: bool) -> None:
        self.tf, self.origin, self.trained = tf, origin, trained
        self._kernels = {
            name: tuple(tf.constant(part) for part in pair) for name, pair in kernels.items()
        }

    def features(self, image: Any) -> dict[str, Any]:
        """``image`` [1, height, width, 3]."""
        tf = self.tf
        x = image[..., ::-1] * 255 - MEAN_BGR if self.trained else image * 2 - 1
        found = {}
        for block, convolutions, _ in BLOCKS:
            for number in range(1, convolutions + 1):
                name = f"block{block}_conv{number}"
                kernel, bias = self._kernels[name]
                x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME") + bias)
                found[name] = x
            x = tf.nn.avg_pool2d(x, 2, 2, "SAME")
        return found


def network(tf: Any, weights: str | None, seed: int) -> Network:
    """``weights`` is a file, ``download``, or None for random ones. Raises BadWeights."""
    if weights is None:
        origin = f"random weights (seed {seed}): no trained network was given, so content is loose"
        return Network(tf, _random(seed), origin, trained=False)
    if weights == "download":
        return Network(tf, _loaded(tf, "imagenet"), "VGG19, downloaded by Keras", trained=True)
    file = Path(weights)
    if not file.is_file():
        raise BadWeights(f"{file}: no such file")
    known = KNOWN.get(hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest())
    kernels = _loaded(tf, str(file))
    return Network(tf, kernels, f"{known or 'VGG19 by its shapes'}, {file.name}", trained=True)


def _random(seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    draw = np.random.default_rng([seed, 19])
    kernels, into = {}, 3
    for block, convolutions, channels in BLOCKS:
        for number in range(1, convolutions + 1):
            scale = np.sqrt(2 / (9 * into))
            kernel = draw.normal(0, scale, (3, 3, into, channels)).astype(np.float32)
            kernels[f"block{block}_conv{number}"] = (kernel, np.zeros(channels, np.float32))
            into = channels
    return kernels


def _loaded(tf: Any, weights: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of a file with the classifier on top too; its shapes must be VGG19's."""
    model, problem = None, ""
    for top in (False, True):
        try:
            model = tf.keras.applications.VGG19(include_top=top, weights=weights)
            break
        except Exception as error:  # noqa: BLE001 - Keras raises what it likes for a wrong file
            problem = problem or str(error).splitlines()[0]
    if model is None:
        raise BadWeights(f"{weights}: not the weights of a VGG19: {problem}")
    names = [f"block{b}_conv{n}" for b, count, _ in BLOCKS for n in range(1, count + 1)]
    return {name: tuple(model.get_layer(name).get_weights()) for name in names}
