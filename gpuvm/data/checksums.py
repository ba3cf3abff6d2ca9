"""Hashes of files and folders, and downloads that are checked by them.

A hash is computed once and kept until a size or a time of change differs; a download with another
hash than the known one is thrown away.
"""

import contextlib
import hashlib
import json
import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from gpuvm import paths
from gpuvm.data.catalogue import BY_HAND, KNOWN, Entry, Known
from gpuvm.errors import BadInput, GpuvmError, NotFound
from gpuvm.events import Events

SHOWN = 24
"""So much of a SHA-256 is a name that nothing else has."""


def digest(file: Path, algorithm: str) -> str:
    return _digests(file, {"": file}, algorithm)[""]


def content(file: Path) -> str:
    """What a guest knows the file by: the beginning of its SHA-256."""
    return digest(file, "sha256")[:SHOWN]


def content_of_folder(folder: Path, files: Mapping[str, Path]) -> str:
    """By the names and the contents of its files."""
    found = _digests(folder, files, "sha256")
    whole = hashlib.sha256()
    for name in sorted(found):
        whole.update(f"{found[name]} {name}\0".encode(errors="surrogateescape"))
    return whole.hexdigest()[:SHOWN]


def files_below(folder: Path) -> dict[str, Path]:
    """By their paths below it; links are followed, but none into a folder that is on its way."""
    found: dict[str, Path] = {}
    seen: set[str] = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for file in sorted(Path(where, name) for name in names):
            if file.is_file():
                found[file.relative_to(folder).as_posix()] = file
    return found


def _digests(root: Path, files: Mapping[str, Path], algorithm: str) -> dict[str, str]:
    kept = _read(root)
    found = {
        name: _one(file, algorithm, kept.get(f"{algorithm}:{name}")) for name, file in files.items()
    }
    now = {f"{algorithm}:{name}": entry for name, entry in found.items()}
    others = {key: entry for key, entry in kept.items() if not key.startswith(f"{algorithm}:")}
    if now.items() - kept.items():
        _write(root, others | now)
    return {name: entry[2] for name, entry in found.items()}


_Entry = tuple[int, int, str]
"""Size, time of change in nanoseconds, digest."""


def _one(file: Path, algorithm: str, kept: _Entry | None) -> _Entry:
    there = file.stat()
    if kept is not None and kept[:2] == (there.st_size, there.st_mtime_ns):
        return kept
    with file.open("rb") as opened:
        return there.st_size, there.st_mtime_ns, hashlib.file_digest(opened, algorithm).hexdigest()


def _read(root: Path) -> dict[str, _Entry]:
    """Nothing, when it is not there or not what we write."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        kept = json.loads(_file(root).read_text(encoding="utf-8"))
        return {str(key): (int(e[0]), int(e[1]), str(e[2])) for key, e in kept.items()}
    return {}


def _write(root: Path, entries: Mapping[str, _Entry]) -> None:
    """In one step; a cache that cannot be written only costs time."""
    file = _file(root)
    half = file.with_suffix(f".{secrets.token_hex(4)}")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        half.write_text(json.dumps(entries), encoding="utf-8")
        half.replace(file)


def _file(root: Path) -> Path:
    name = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:SHOWN]
    return paths.cache_dir() / "digests" / f"{name}.json"


CHUNK = 1 << 20
TIMEOUT_S = 30


def fetch(name: str, events: Events) -> Path:
    """Downloads it, unless it is there.

    Raises NotFound for a name, BadInput for what must be had by hand, GpuvmError.
    """
    known = _known(name)
    if is_right(known, known.path):
        return known.path
    known.path.parent.mkdir(parents=True, exist_ok=True)
    half = known.path.with_suffix(".half")
    try:
        _download(known, half, events)
    except (OSError, urllib.error.URLError) as error:
        half.unlink(missing_ok=True)
        raise GpuvmError(
            f"{known.url}: {getattr(error, 'reason', None) or error}",
            hint=f"without a network: put the file at {known.path} yourself",
        ) from None
    if not is_right(known, half):
        half.unlink()
        raise GpuvmError(f"{known.url}: its hash is not {known.digest}; it was thrown away")
    half.replace(known.path)
    return known.path


def is_right(known: Known, file: Path) -> bool:
    if not file.is_file():
        return False
    algorithm, _, wanted = known.digest.partition(":")
    return digest(file, algorithm) == wanted


def here(one: Entry) -> Literal["yes", "no", "wrong"]:
    """Wrong: there is something, and its publisher's hash is another."""
    if not one.path.exists():
        return "no"
    right = not isinstance(one, Known) or is_right(one, one.path)
    return "yes" if right else "wrong"


def names(known: Sequence[str] | None) -> list[str]:
    """All that can be fetched when none is named. Raises NotFound, and BadInput for another."""
    return [_known(name).name for name in known or KNOWN]


def _known(name: str) -> Known:
    if name in BY_HAND:
        own = BY_HAND[name]
        raise BadInput(
            f"{name} cannot be fetched: {own.source}", hint=f"put {own.layout} at {own.path}"
        )
    if name not in KNOWN:
        raise NotFound("data file", name, list(KNOWN))
    return KNOWN[name]


def _download(known: Known, into: Path, events: Events) -> None:
    with (
        urllib.request.urlopen(known.url, timeout=TIMEOUT_S) as source,  # noqa: S310 - https above
        into.open("wb") as target,
    ):
        total, done = int(source.headers.get("Content-Length") or 0), 0
        while block := source.read(CHUNK):
            target.write(block)
            done += len(block)
            if total:
                text = f"{done >> 20} of {total >> 20} MiB"
                events.progress(known.name, "download", done / total, text)
