"""Atomic writes, and hashes of arrays."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yields a temporary path, which replaces ``file`` if the block succeeds."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}")
    yield partial
    partial.replace(file)


def write_json(file: Path, value: Any, *, indent: int | None = None) -> None:
    with replacing(file) as partial:
        partial.write_text(json.dumps(value, indent=indent) + "\n", encoding="utf-8")


def sha256(arrays: Iterable[np.ndarray]) -> str:
    """The hash of the arrays' values, without their shapes."""
    joined = hashlib.sha256()
    for array in arrays:
        joined.update(np.ascontiguousarray(array).tobytes())
    return joined.hexdigest()
