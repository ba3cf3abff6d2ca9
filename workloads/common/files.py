"""Files that are whole or not there, and the hash of what is in memory."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yields where to write; that becomes ``file`` only when the block ends without an error."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_name(f".{file.name}")
    yield half
    half.replace(file)


def write_json(file: Path, value: Any, *, indent: int | None = None) -> None:
    with replacing(file) as half:
        half.write_text(json.dumps(value, indent=indent) + "\n", encoding="utf-8")


def sha256(arrays: Iterable[np.ndarray]) -> str:
    """The hash of the arrays' values, one after another, without their shapes."""
    joined = hashlib.sha256()
    for array in arrays:
        joined.update(np.ascontiguousarray(array).tobytes())
    return joined.hexdigest()
