"""What there is of a picture, kept so that a stop at any moment leaves the last one whole.

A picture has one file in ``checkpoints/``: its pixels, the iterations that it has had, what its
optimizer remembers, and the wish that it was made for.
"""

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# What a truncated or foreign file makes numpy raise.
DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


class OtherWish(Exception):
    """One line that says which file was made for something else, and what differs."""


class Damaged(Exception):
    """One line that names the file."""


@dataclass(frozen=True)
class SavedState:
    """``memory`` is what the optimizer needs to go on as if it had never stopped."""

    pixels: np.ndarray
    done: int = 0
    memory: Mapping[str, np.ndarray] = field(default_factory=dict)


def keep(file: Path, kept: SavedState, wish: Mapping[str, str]) -> None:
    arrays: dict[str, Any] = {f"memory_{name}": array for name, array in kept.memory.items()}
    with replacing(file) as half:
        np.savez(
            half, pixels=kept.pixels, done=kept.done, wish=np.array(json.dumps(wish)), **arrays
        )


def find(file: Path, wish: Mapping[str, str]) -> SavedState | None:
    """None when there is nothing yet. Raises OtherWish, Damaged."""
    if not file.exists():
        return None
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
            theirs = json.loads(str(found["wish"]))
            arrays = {name: found[name] for name in found.files if name != "wish"}
            kept = SavedState(arrays.pop("pixels"), int(arrays.pop("done")), _memory(arrays))
    except DAMAGED as error:
        raise Damaged(f"{file} is damaged ({type(error).__name__})") from None
    differs = ", ".join(name for name in wish if theirs.get(name) != wish[name])
    if differs:
        raise OtherWish(
            f"{file} was made with another {differs}; it needs another --out, or none of that file"
        )
    return kept


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Where to write ``file`` to; it takes its place only when it is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_name(f".{file.name}")
    yield half
    half.replace(file)


def digest(*arrays: np.ndarray) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(str(array.shape).encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _memory(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix("memory_"): array for name, array in arrays.items()}
