"""Handwritten digits: local files, Keras's download, or scikit-learn's small ones.

Local files are an mnist.npz as Keras has it, or the four idx files as they are published
(``train-images-idx3-ubyte.gz`` and so on, packed or not): their folder, or one of them.
"""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import BadInput
from common.files import sha256

_GZIP = b"\x1f\x8b"
_IMAGES, _LABELS = b"\x00\x00\x08\x03", b"\x00\x00\x08\x01"
_KIND = {_IMAGES: "images", _LABELS: "labels"}
_MOST_BYTES = 2**30
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
    """``data`` is a file or folder, ``download``, or None for scikit-learn's digits.

    Raises BadInput, also when there are fewer digits to train on than ``batch_size``.
    """
    if not data:
        digits = scikit_learn()
    else:
        digits = downloaded() if data == "download" else _read(Path(data))
    if len(digits.train_y) < batch_size:
        raise BadInput(
            f"--batch-size {batch_size} is more than there are images to train on: "
            f"{len(digits.train_y)}"
        )
    return digits


def _read(path: Path) -> Digits:
    """Which it is, is seen by its first bytes: names vary. Raises BadInput."""
    try:
        if path.is_dir():
            return read_idx(path)
        with path.open("rb") as content:
            begins = content.read(4)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
    if begins.startswith(b"\x93NUM"):
        raise BadInput(f"{path}: one array (.npy), not an .npz file")
    if begins.startswith(_GZIP) or begins in (_IMAGES, _LABELS):
        return read_idx(path.parent)
    if begins.startswith(b"labe"):
        raise BadInput(f"{path}: a CSV file: give MNIST's idx files, or an mnist.npz")
    return read_npz(path)


def read_idx(folder: Path) -> Digits:
    """The four files of MNIST's own layout. Raises BadInput."""
    arrays = []
    for part in ("train", "t10k"):
        x, y = (_idx_file(folder, part, what) for what in ("images", "labels"))
        images, labels = _idx(x, _IMAGES), _idx(y, _LABELS)
        _check(folder, part, images, labels)
        arrays += [images, labels]
    if arrays[0].shape[1:] != arrays[2].shape[1:]:
        raise BadInput(f"{folder}: images of train and t10k differ in size")
    return _scaled(*arrays, top=255, origin=f"MNIST from the idx files in {folder}")


def read_npz(file: Path) -> Digits:
    """The layout of Keras's mnist.npz."""
    try:
        values = _arrays(file)
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001 - zipfile and zlib have many for a damaged file
        # numpy's advice for what it cannot read is to run it as a pickle: not passed on.
        why = "" if "pickle" in str(error) else f": {error}"
        raise BadInput(f"{file}: not a valid .npz file, nor an idx file{why}") from None
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


def _idx_file(folder: Path, part: str, what: str) -> Path:
    found = sorted(folder.glob(f"{part}-{what}[.-]idx?-ubyte")) or sorted(
        folder.glob(f"{part}-{what}[.-]idx?-ubyte.gz")
    )
    if not found:
        there = ", ".join(sorted(one.name for one in folder.iterdir())[:8]) or "nothing"
        raise BadInput(f"{folder}: no {part}-{what}-idx?-ubyte(.gz) in it (there is: {there})")
    return found[0]


def _idx(file: Path, magic: bytes) -> np.ndarray:
    """A magic number that says type and dimensions, their sizes, then bytes; packed or not."""
    try:
        with file.open("rb") as raw:
            packed = raw.read(2) == _GZIP
        with gzip.open(file) if packed else file.open("rb") as content:
            begins = content.read(4)
            if begins != magic:
                raise BadInput(f"{file}: not an idx file of {_KIND[magic]}")
            sizes = np.frombuffer(content.read(4 * magic[3]), ">u4").astype(np.int64)
            wanted = int(np.prod([float(size) for size in sizes]))
            if len(sizes) != magic[3] or not 0 < wanted <= _MOST_BYTES:
                raise BadInput(f"{file}: it says that it holds {wanted} bytes")
            values = np.frombuffer(content.read(wanted + 1), np.uint8)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{file}: not a whole file: {error}") from None
    if len(values) != wanted:
        raise BadInput(f"{file}: it ends early, or is longer than the {wanted} bytes that it says")
    return values.reshape(sizes)


def _arrays(file: Path) -> dict[str, np.ndarray]:
    with file.open("rb") as content:
        arrays = np.load(content, allow_pickle=False)
        missing = [key for key in KEYS if key not in arrays]
        if missing:
            raise BadInput(f"{file}: no array '{missing[0]}'; it has: {', '.join(arrays)}")
        return {key: _array(file, key, arrays) for key in KEYS}


def _array(file: Path, key: str, arrays: Any) -> np.ndarray:
    try:
        return np.asarray(arrays[key])
    except ValueError as error:
        if "Object arrays" in str(error):
            raise BadInput(f"{file}: {key} holds Python objects, not numbers") from None
        raise


def _check(file: Path, part: str, x: np.ndarray, y: np.ndarray) -> None:
    if x.ndim != 3 or x.shape[1] != x.shape[2] or x.shape[1] < 8:
        raise BadInput(f"{file}: x_{part} has the shape {x.shape}, not (n, side, side)")
    if x.dtype != np.uint8:
        raise BadInput(f"{file}: x_{part} holds {x.dtype}, not uint8")
    if y.dtype.kind not in "iu":
        raise BadInput(f"{file}: y_{part} holds {y.dtype}, not whole numbers")
    if y.shape != (len(x),):
        raise BadInput(f"{file}: y_{part} has the shape {y.shape}, not ({len(x)},)")
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
