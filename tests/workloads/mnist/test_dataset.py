"""An mnist.npz is complete and valid, or a one-line error says what is wrong."""

import gzip
import struct
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


def _idx(
    folder: Path, *, packed: bool, sign: str = "-", changes: dict[str, bytes] | None = None
) -> Path:
    draw = np.random.default_rng(1)
    folder.mkdir()
    for part, count in (("train", 64), ("t10k", 20)):
        images = draw.integers(0, 255, (count, 28, 28), np.uint8).tobytes()
        labels = (np.arange(count) % 10).astype(np.uint8).tobytes()
        contents = {
            f"{part}-images{sign}idx3-ubyte": struct.pack(">4i", 0x803, count, 28, 28) + images,
            f"{part}-labels{sign}idx1-ubyte": struct.pack(">2i", 0x801, count) + labels,
        }
        for name, content in contents.items():
            whole = (changes or {}).get(name.partition(sign + "idx")[0].replace("-", "_"), content)
            (folder / (name + ".gz" * packed)).write_bytes(
                gzip.compress(whole) if packed else whole
            )
    return folder


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("sign", ["-", "."])
def test_idx_files_are_read_as_they_are_published(tmp_path: Path, packed: bool, sign: str) -> None:
    folder = _idx(tmp_path / "mnist", packed=packed, sign=sign)
    found = dataset.load(str(folder))
    assert (found.train_x.shape, found.test_x.shape) == ((64, 28, 28, 1), (20, 28, 28, 1))
    assert found.train_y[:12].tolist() == [*range(10), 0, 1]
    one = next(folder.glob("t10k-labels*"))
    assert dataset.load(str(one)).sha256() == found.sha256()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_images": b""}, "train-images-idx3-ubyte.*: not an idx file of images"),
        ({"train_labels": struct.pack(">4i", 0x803, 1, 1, 1)}, "not an idx file of labels"),
        ({"t10k_images": struct.pack(">4i", 0x803, 20, 28, 28)}, "it ends early"),
        ({"t10k_images": struct.pack(">4I", 0x803, *[2**32 - 1] * 3)}, "it says that it holds"),
        ({"t10k_labels": struct.pack(">2i", 0x801, 20) + b"\x0b" * 20}, "digits from 0 to 9"),
        ({"t10k_labels": struct.pack(">2i", 0x801, 20) + b"\x01" * 21}, "is longer than"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_that_are_wrong_are_named(
    tmp_path: Path, changes: dict[str, bytes], said: str, packed: bool
) -> None:
    with pytest.raises(BadInput, match=said):
        dataset.load(str(_idx(tmp_path / "mnist", packed=packed, changes=changes)))


def test_an_idx_file_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = _idx(tmp_path / "mnist", packed=True)
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(BadInput, match="no t10k-labels-idx"):
        dataset.load(str(folder))
    whole = (folder / "train-images-idx3-ubyte.gz").read_bytes()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="not a whole file"):
        dataset.load(str(folder))


@pytest.mark.parametrize("content", [b"label,pixel0\n1,0\n", b"\x80\x04pickled", b"text", b""])
def test_nobody_is_advised_to_load_a_pickle(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "digits"
    file.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        dataset.load(str(file))
    assert "pickle" not in str(caught.value)
    objects = np.array([{}] * 64, object)
    with pytest.raises(BadInput, match="x_train holds Python objects, not numbers"):
        dataset.load(str(digits_file(tmp_path / "mnist.npz", x_train=objects)))
