"""A small mnist.npz of random pixels, whole or with other arrays in place of its own."""

from pathlib import Path
from typing import TypedDict

import numpy as np
from typing_extensions import Unpack


class Arrays(TypedDict, total=False):
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def digits_file(file: Path, **changes: Unpack[Arrays]) -> Path:
    draw = np.random.default_rng(1)
    arrays: Arrays = {
        "x_train": draw.integers(0, 255, (64, 28, 28), np.uint8),
        "y_train": np.arange(64) % 10,
        "x_test": draw.integers(0, 255, (20, 28, 28), np.uint8),
        "y_test": np.arange(20) % 10,
    }
    np.savez(file, **(arrays | changes))
    return file
