"""Handwritten digits: a local mnist.npz, Keras's download, or scikit-learn's digits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import BadInput
from common.files import sha256

KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class Digits:
    """Images float32 [n, side, side, 1] in 0..1, labels int32 [n]."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    origin: str

    @property
    def side(self) -> int:
        return int(self.train_x.shape[1])

    def sha256(self) -> str:
        return sha256((self.train_x, self.train_y, self.test_x, self.test_y))


def load(data: str | None, batch_size: int = 1) -> Digits:
    """``data`` is a file, ``download``, or None for scikit-learn's digits.

    Raises BadInput, also when there are fewer digits to train on than ``batch_size``.
    """
    if data == "download":
        digits = downloaded()
    else:
        digits = read_npz(Path(data)) if data else scikit_learn()
    if len(digits.train_y) < batch_size:
        raise BadInput(f"--batch-size {batch_size}: only {len(digits.train_y)} images to train on")
    return digits


def read_npz(file: Path) -> Digits:
    """The layout of Keras's mnist.npz."""
    try:
        values = _arrays(file)
    except FileNotFoundError:
        raise BadInput(f"{file}: no such file") from None
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001 - zipfile and zlib raise many classes for a damaged file
        raise BadInput(f"{file}: not a valid .npz file: {error}") from None
    for part in ("train", "test"):
        _check(file, part, values[f"x_{part}"], values[f"y_{part}"])
    sides = {part: values[f"x_{part}"].shape[1] for part in ("train", "test")}
    if sides["train"] != sides["test"]:
        raise BadInput(f"{file}: x_train is {sides['train']} pixels wide, x_test {sides['test']}")
    return _scaled(*(values[key] for key in KEYS), top=255, origin=f"MNIST from {file}")


def downloaded() -> Digits:
    import tensorflow as tf

    try:
        (a, b), (c, d) = tf.keras.datasets.mnist.load_data()
    except Exception as error:  # noqa: BLE001 - Keras raises many classes for a failed download
        raise BadInput(f"--data download: {error}") from None
    return _scaled(a, b, c, d, top=255, origin="MNIST, downloaded by Keras")


def scikit_learn() -> Digits:
    """1,797 digits of 8 x 8 pixels that come with scikit-learn; a fifth of them is the test set."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise BadInput(
            "scikit-learn, with the offline digits, is not installed: use --data FILE or download"
        ) from None
    found: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    x, y = found.images[order], found.target[order]
    cut = len(y) * 4 // 5
    return _scaled(
        x[:cut], y[:cut], x[cut:], y[cut:], top=16, origin="scikit-learn's digits, 8 x 8 pixels"
    )


def _arrays(file: Path) -> dict[str, np.ndarray]:
    with file.open("rb") as content:
        arrays = np.load(content, allow_pickle=False)
        if isinstance(arrays, np.ndarray):
            raise BadInput(f"{file}: one array (.npy), not an .npz file")
        missing = [key for key in KEYS if key not in arrays]
        if missing:
            raise BadInput(f"{file}: no array '{missing[0]}'; it has: {', '.join(arrays)}")
        return {key: np.asarray(arrays[key]) for key in KEYS}


def _check(file: Path, part: str, x: np.ndarray, y: np.ndarray) -> None:
    if x.ndim != 3 or x.shape[1] != x.shape[2] or x.shape[1] < 8:
        raise BadInput(f"{file}: x_{part} has the shape {x.shape}, not (n, side, side)")
    if x.dtype != np.uint8:
        raise BadInput(f"{file}: x_{part} holds {x.dtype}, not uint8")
    if y.dtype.kind not in "iu":
        raise BadInput(f"{file}: y_{part} holds {y.dtype}, not whole numbers")
    if y.shape != (len(x),):
        raise BadInput(f"{file}: y_{part} has the shape {y.shape} for {len(x)} images")
    if len(y) == 0 or y.min() < 0 or y.max() > 9:
        raise BadInput(f"{file}: y_{part} must hold digits from 0 to 9")


def _scaled(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    *,
    top: int,
    origin: str,
) -> Digits:
    def images(x: np.ndarray) -> np.ndarray:
        return (np.asarray(x, np.float32) / top)[..., np.newaxis]

    return Digits(
        images(train_x),
        train_y.astype(np.int32),
        images(test_x),
        test_y.astype(np.int32),
        origin,
    )
