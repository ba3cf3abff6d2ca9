"""Digests of local files, cached until a file's size or time of change differs.

Each folder's digests are a JSON file in the cache, shared by data sets, projects and transfers.
"""

import contextlib
import hashlib
import json
import os
import threading
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from gpuvm import paths
from gpuvm.files import DIGESTS, write_atomic

_lock = threading.Lock()
"""Files for several guests are read by one thread, while the others wait."""

_Entry = tuple[int, int, str]
"""Size, time of change in nanoseconds, digest."""


def digest(file: Path, algorithm: str = "sha256") -> str:
    return digests({"": file}, algorithm)[""]


def digests(files: Mapping[str, Path], algorithm: str = "sha256") -> dict[str, str]:
    """Hex digests by the names in ``files``. Raises OSError for a file that cannot be read."""
    by_folder: dict[Path, dict[str, Path]] = defaultdict(dict)
    for name, file in files.items():
        by_folder[file.absolute().parent][name] = file
    found: dict[str, str] = {}
    with _lock:
        for folder, members in by_folder.items():
            found |= _in_folder(folder, members, algorithm)
    return found


def forget(file: Path) -> None:
    """Removes the file's digest from the cache, after it turned out to be wrong."""
    folder = file.absolute().parent
    with _lock:
        cached = _read(folder)
        rest = {key: entry for key, entry in cached.items() if key.partition(":")[2] != file.name}
        if rest.keys() != cached.keys():
            _write(folder, rest)


def _in_folder(folder: Path, files: Mapping[str, Path], algorithm: str) -> dict[str, str]:
    cached = _read(folder)
    keys = {name: f"{algorithm}:{file.name}" for name, file in files.items()}
    found = {name: _entry(file, algorithm, cached.get(keys[name])) for name, file in files.items()}
    now = {keys[name]: entry for name, entry in found.items()}
    if now.items() - cached.items():
        present = {file.name for file in folder.iterdir()}
        others = {key: e for key, e in cached.items() if key.partition(":")[2] in present}
        _write(folder, others | now)
    return {name: entry[2] for name, entry in found.items()}


def _entry(file: Path, algorithm: str, cached: _Entry | None) -> _Entry:
    status = file.stat()
    if cached is not None and cached[:2] == (status.st_size, status.st_mtime_ns):
        return cached
    with file.open("rb") as opened:
        return (
            status.st_size,
            status.st_mtime_ns,
            hashlib.file_digest(opened, algorithm).hexdigest(),
        )


def _read(folder: Path) -> dict[str, _Entry]:
    """The cached digests; empty when the file is missing, invalid or of another version."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, LookupError):
        cached = json.loads(_file(folder).read_text(encoding="utf-8"))
        if cached.get("version") == DIGESTS.version:
            entries = cached["digests"].items()
            return {str(key): (int(e[0]), int(e[1]), str(e[2])) for key, e in entries}
    return {}


def _write(folder: Path, entries: Mapping[str, _Entry]) -> None:
    """Ignores a cache that cannot be written: it only costs time."""
    file = _file(folder)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps({"version": DIGESTS.version, "digests": entries}))


def _file(folder: Path) -> Path:
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:24]
    return paths.cache_dir() / "digests" / f"{name}.json"
