"""What captioning.py sees with: its own encoder, or VGG16, whose features can be kept."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 224
BATCH = 16
AT_ONCE = 200


class BadWeights(Exception):
    """One line that says what is wrong with the file."""


class Encoder:
    """The trained one of a run, or of this one."""

    def __init__(self, tf: Any, encoder: Any) -> None:
        self._tf, self._encoder = tf, encoder

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, 64, 64, 3] -> float16 [n, 4096]."""
        parts = [
            self._encoder(scaled(self._tf, images[at : at + AT_ONCE])).numpy().astype(np.float16)
            for at in range(0, len(images), AT_ONCE)
        ]
        return np.concatenate(parts)


def scaled(tf: Any, images: Any) -> Any:
    """0..255 -> -1..1."""
    return tf.cast(images, tf.float32) / 127.5 - 1


class VGG16:
    """The 4096 numbers of the layer fc2, as the paper's appendix B has them."""

    def __init__(self, tf: Any, weights: Path) -> None:
        """Raises BadWeights; ``weights`` must be those of the whole network, its top included."""
        self.sha256 = sha256(weights)
        try:
            whole = tf.keras.applications.VGG16(include_top=True, weights=str(weights))
        except Exception as error:  # noqa: BLE001 - Keras raises what it likes for a wrong file
            reason = str(error).splitlines()[0]
            raise BadWeights(f"{weights}: not the weights of a VGG16 with top: {reason}") from None
        self._model = tf.keras.Model(whole.input, whole.get_layer("fc2").output)
        self._prepare = tf.keras.applications.vgg16.preprocess_input

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, 224, 224, 3] -> float16 [n, 4096]."""
        parts = [
            self._model(self._prepare(images[at : at + BATCH].astype(np.float32))).numpy()
            for at in range(0, len(images), BATCH)
        ]
        return np.concatenate(parts).astype(np.float16)


def sha256(weights: Path) -> str:
    """Raises BadWeights."""
    try:
        with weights.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise BadWeights(f"{weights}: no such file") from None
    except OSError as error:
        raise BadWeights(f"{weights}: {error.strerror}") from None


class Cache:
    """Features by the content of the image and of the network: 8 KB each, computed once."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.found = self.made = 0

    def features(
        self, images: np.ndarray, network: str, see: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """float16 [n, 4096]; ``network`` names what ``see`` is."""
        files = [self._file(image, network) for image in images]
        missing = [n for n, file in enumerate(files) if file is None or not file.exists()]
        made = dict(zip(missing, see(images[missing]), strict=True)) if missing else {}
        for number, row in made.items():
            _write(files[number], row)
        self.made, self.found = self.made + len(made), self.found + len(images) - len(made)
        return np.stack([made[n] if n in made else np.load(f) for n, f in enumerate(files)])

    def _file(self, image: np.ndarray, network: str) -> Path | None:
        if self._folder is None:
            return None
        name = hashlib.sha256(image.tobytes()).hexdigest()[:32]
        return self._folder / network / f"{name}.npy"


def _write(file: Path | None, row: np.ndarray) -> None:
    """In one step, so that a killed run leaves no half of a file."""
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(".half.npy")
    np.save(half, row)
    half.replace(file)
