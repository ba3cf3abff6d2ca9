"""An mnist.npz is complete and valid, or a one-line error says what is wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.errors import BadInput
from mnist import dataset


def _save(file: Path, **changes: np.ndarray) -> Path:
    draw = np.random.default_rng(1)
    good = {
        "x_train": draw.integers(0, 255, (64, 28, 28), np.uint8),
        "y_train": np.arange(64) % 10,
        "x_test": draw.integers(0, 255, (20, 28, 28), np.uint8),
        "y_test": np.arange(20) % 10,
    }
    np.savez(file, **(good | changes))
    return file


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda whole: whole[: len(whole) // 2], _flipped, lambda _: b"", lambda _: b"no archive"],
    ids=["truncated", "flipped", "empty", "text"],
)
def test_damaged_file_is_reported(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = _save(tmp_path / "mnist.npz")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(BadInput, match=r"mnist.npz: not a valid .npz file"):
        dataset.load(str(file))


def test_single_array_is_not_a_data_set(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(BadInput, match=r"one array \(.npy\), not an .npz file"):
        dataset.load(str(tmp_path / "one.npy"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": np.array(["5"] * 64)}, "y_train holds <U1, not whole numbers"),
        ({"y_test": np.zeros(20)}, "y_test holds float64, not whole numbers"),
        ({"x_test": np.zeros((20, 32, 32), np.uint8)}, "x_train is 28 pixels wide, x_test 32"),
    ],
)
def test_what_it_holds_is_checked(
    tmp_path: Path, changes: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        dataset.load(str(_save(tmp_path / "mnist.npz", **changes)))
