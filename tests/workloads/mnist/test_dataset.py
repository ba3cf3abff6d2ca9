"""An mnist.npz is complete and valid, or a one-line error says what is wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from digits_files import Arrays, digits_file

from common.errors import BadInput
from mnist import dataset


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda whole: whole[: len(whole) // 2], _flipped, lambda _: b"", lambda _: b"no archive"],
    ids=["truncated", "flipped", "empty", "text"],
)
def test_damaged_file_is_reported(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = digits_file(tmp_path / "mnist.npz")
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
def test_what_it_holds_is_checked(tmp_path: Path, changes: Arrays, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        dataset.load(str(digits_file(tmp_path / "mnist.npz", **changes)))
