"""Features of images, from captioning's own encoder or from VGG16, with a cache."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import BadInput
from common.files import replacing

SIDE = 224  # pixels of VGG16's input
VGG16_BATCH = 16
BATCH = 200


class Encoder:
    """Features of the encoder that captioning trains itself."""

    def __init__(self, tf: Any, encoder: Any) -> None:
        self._tf, self._encoder = tf, encoder

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, 64, 64, 3] -> float16 [n, 4096]."""
        parts = [
            self._encoder(scaled(self._tf, images[at : at + BATCH])).numpy().astype(np.float16)
            for at in range(0, len(images), BATCH)
        ]
        return np.concatenate(parts)


def scaled(tf: Any, images: Any) -> Any:
    """0..255 -> -1..1."""
    return tf.cast(images, tf.float32) / 127.5 - 1


class VGG16:
    """The 4096 outputs of the layer fc2, as in the paper's appendix B."""

    def __init__(self, tf: Any, weights: Path) -> None:
        """``weights`` must include the top of the network. Raises BadInput."""
        self.sha256 = sha256(weights)
        try:
            full = tf.keras.applications.VGG16(include_top=True, weights=str(weights))
        except Exception as error:  # noqa: BLE001 - Keras raises many classes for a wrong file
            reason = str(error).splitlines()[0]
            raise BadInput(f"{weights}: not the weights of a VGG16 with top: {reason}") from None
        self._model = tf.keras.Model(full.input, full.get_layer("fc2").output)
        self._prepare = tf.keras.applications.vgg16.preprocess_input

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, 224, 224, 3] -> float16 [n, 4096]."""
        parts = [
            self._model(self._prepare(images[at : at + VGG16_BATCH].astype(np.float32))).numpy()
            for at in range(0, len(images), VGG16_BATCH)
        ]
        return np.concatenate(parts).astype(np.float16)


def sha256(weights: Path) -> str:
    """Raises BadInput."""
    try:
        with weights.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise BadInput(f"{weights}: no such file") from None
    except OSError as error:
        raise BadInput(f"{weights}: {error.strerror}") from None


class Cache:
    """Caches features by image content and network: 8 KB each.

    Without ``folder`` nothing is cached.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.found = self.made = 0

    def features(
        self, images: np.ndarray, network: str, compute: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """float16 [n, 4096]; ``network`` is the name of the network that ``compute`` runs."""
        files = [self._file(image, network) for image in images]
        missing = [n for n, file in enumerate(files) if file is None or not file.exists()]
        made = dict(zip(missing, compute(images[missing]), strict=True)) if missing else {}
        for number, row in made.items():
            _write(files[number], row)
        self.made, self.found = self.made + len(made), self.found + len(images) - len(made)
        return np.stack(
            [_loaded(f) if f and n not in made else made[n] for n, f in enumerate(files)]
        )

    def _file(self, image: np.ndarray, network: str) -> Path | None:
        if self._folder is None:
            return None
        name = hashlib.sha256(image.tobytes()).hexdigest()[:32]
        return self._folder / network / f"{name}.npy"


def _loaded(file: Path) -> np.ndarray:
    return np.asarray(np.load(file))


def _write(file: Path | None, row: np.ndarray) -> None:
    if file is not None:
        with replacing(file) as partial:
            np.save(partial, row)
