"""The state of each picture, saved atomically.

A picture has one file in ``checkpoints/``: its pixels, its number of iterations, the state of its
optimizer, and what it was made with.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import BadInput
from common.files import replacing

# Errors of numpy for a truncated or invalid file.
READ_ERRORS = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


class Damaged(Exception):
    """Its text is one line with the file's name."""


@dataclass(frozen=True)
class SavedState:
    """``memory`` is the state of the optimizer."""

    pixels: np.ndarray
    done: int = 0
    memory: Mapping[str, np.ndarray] = field(default_factory=dict)


def save(file: Path, state: SavedState, made_with: Mapping[str, str]) -> None:
    arrays: dict[str, Any] = {f"memory_{name}": array for name, array in state.memory.items()}
    arrays |= {"pixels": state.pixels, "done": state.done}
    with replacing(file) as partial:
        np.savez(partial, made_with=np.array(json.dumps(made_with)), **arrays)


def load(file: Path, made_with: Mapping[str, str]) -> SavedState | None:
    """None when there is no file. Raises BadInput if it was made with other options; Damaged."""
    if not file.exists():
        return None
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
            # The key is "wish" in older runs.
            key = "wish" if "wish" in arrays else "made_with"
            saved = json.loads(str(arrays.pop(key)))
            state = SavedState(arrays.pop("pixels"), int(arrays.pop("done")), _memory(arrays))
    except READ_ERRORS as error:
        raise Damaged(f"{file} is damaged ({type(error).__name__})") from None
    differs = ", ".join(name for name in made_with if saved.get(name) != made_with[name])
    if differs:
        raise BadInput(
            f"{file} was made with another {differs}; use another --out or delete the file"
        )
    return state


def digest(array: np.ndarray) -> str:
    """The hash of its shape and its values."""
    joined = hashlib.sha256(str(array.shape).encode())
    joined.update(np.ascontiguousarray(array).tobytes())
    return joined.hexdigest()


def _memory(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix("memory_"): array for name, array in arrays.items()}
