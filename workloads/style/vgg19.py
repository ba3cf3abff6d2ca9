"""VGG19's convolutions up to block5_conv1, with its trained weights or with seeded random ones.

Trained weights come from a Keras file (``--weights FILE.h5``) or Keras's download. Without them the
network is random (He initialized). Average pooling, which is always used, and normalized
activations make its features good enough for colours and strokes, but not for content.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import BadInput
from common.files import sha256

# (block, convolutions, channels); only the first convolution of block 5 is needed
BLOCKS = ((1, 2, 64), (2, 2, 128), (3, 4, 256), (4, 4, 512), (5, 1, 512))
STYLE_LAYERS = tuple(f"block{block}_conv1" for block, _, _ in BLOCKS)
# For a random network, whose deeper layers respond to noise instead of shapes.
RANDOM_STYLE = (0.4, 0.4, 0.14, 0.04, 0.02)
CONTENT_LAYER = "block4_conv2"
# Each convolution, and whether pooling follows it.
LAYERS = tuple(
    (f"block{block}_conv{number}", number == count)
    for block, count, _ in BLOCKS
    for number in range(1, count + 1)
)
MEAN_BGR = (103.939, 116.779, 123.68)

# The MD5 sums of Keras's two files.
KNOWN = {
    "253f8cb515780f3b799900260a226db6": "Keras's VGG19 without top",
    "cbe5617147190e668d6c5d5026f83318": "Keras's VGG19 with top",
}


class Network:
    """VGG19's convolutions; ``origin`` of the weights becomes a note in the results."""

    def __init__(self, tf: Any, kernels: dict[str, Any], origin: str, *, trained: bool) -> None:
        self.tf, self.origin, self.trained = tf, origin, trained
        self._kernels = {
            name: tuple(tf.constant(part) for part in pair) for name, pair in kernels.items()
        }

    def features(self, image: Any) -> dict[str, Any]:
        """RGB in 0..1 [1, height, width, 3] -> the activations of each layer, by its name."""
        x, found = self._prepared(image), {}
        for name, last in LAYERS:
            kernel, bias = self._kernels[name]
            found[name] = self.tf.nn.relu(self._convolved(x, kernel) + bias)
            x = self._pooled(found[name]) if last else found[name]
        return found

    def fitted(self, image: Any) -> "Network":
        """A network that gives each channel of ``image`` mean 0 and deviation 1 before its ReLU.

        Otherwise the channels of a random network are similar, and their Gram matrices contain
        little more than the mean colour.
        """
        tf, kernels, x = self.tf, {}, self._prepared(image)
        for name, last in LAYERS:
            kernel, _ = self._kernels[name]
            found = self._convolved(x, kernel)
            mean, variance = tf.nn.moments(found, (0, 1, 2))
            spread = tf.sqrt(variance + 1e-4 * mean**2) + 1e-5  # small for a plain colour
            kernels[name] = (kernel / spread, -mean / spread)
            found = tf.nn.relu((found - mean) / spread)
            x = self._pooled(found) if last else found
        return Network(tf, kernels, self.origin, trained=self.trained)

    @property
    def style_weights(self) -> tuple[float, ...]:
        """The weight of each style layer; their sum is 1."""
        count = len(STYLE_LAYERS)
        return (1 / count,) * count if self.trained else RANDOM_STYLE

    def digest(self) -> str:
        return sha256(part.numpy() for name, _ in LAYERS for part in self._kernels[name])

    def _prepared(self, image: Any) -> Any:
        return image[..., ::-1] * 255 - MEAN_BGR if self.trained else image * 2 - 1

    def _convolved(self, x: Any, kernel: Any) -> Any:
        return self.tf.nn.conv2d(x, kernel, 1, "SAME")

    def _pooled(self, x: Any) -> Any:
        return self.tf.nn.avg_pool2d(x, 2, 2, "SAME")


def network(tf: Any, weights: str | None, seed: int) -> Network:
    """``weights`` is a file, ``download``, or None for random ones. Raises BadInput."""
    if weights is None:
        origin = (
            f"random weights (seed {seed}): without a trained network the content is only rough"
        )
        return Network(tf, _random(seed), origin, trained=False)
    if weights == "download":
        return Network(tf, _downloaded(tf), "VGG19, downloaded by Keras", trained=True)
    file = Path(weights)
    if not file.is_file():
        raise BadInput(f"{file}: no such file")
    known = KNOWN.get(hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest())
    kernels = _loaded(tf, str(file))
    return Network(tf, kernels, f"{known or 'VGG19 by its shapes'}, {file.name}", trained=True)


def variation_weight(weights: str | None) -> float:
    """The default weight of total variation; random features are noisier."""
    return 3.0 if weights is None else 0.4


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


def _downloaded(tf: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    try:
        return _arrays(tf.keras.applications.VGG19(include_top=False, weights="imagenet"))
    except Exception as error:  # noqa: BLE001 - a failed download has many classes
        raise BadInput(
            f"VGG19's weights could not be downloaded ({str(error).splitlines()[0]}); "
            "use --weights FILE.h5, or omit --weights for a random network"
        ) from None


def _loaded(tf: Any, weights: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The kernels of a file with or without the classifier; its shapes must be VGG19's."""
    problem = ""
    for top in (False, True):
        try:
            return _arrays(tf.keras.applications.VGG19(include_top=top, weights=weights))
        except Exception as error:  # noqa: BLE001 - Keras raises many classes for a wrong file
            problem = problem or str(error).splitlines()[0]
    raise BadInput(f"{weights}: not the weights of a VGG19: {problem}")


def _arrays(model: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {name: tuple(model.get_layer(name).get_weights()) for name, _ in LAYERS}
