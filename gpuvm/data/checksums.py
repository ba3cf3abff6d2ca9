"""Hashes of files and folders, and downloads that are verified by hash.

A download with a wrong hash is deleted.
"""

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from gpuvm.data.catalogue import BY_HAND, KNOWN, Entry, Known
from gpuvm.digests import digest, digests
from gpuvm.errors import BadInput, GpuvmError, NotFound
from gpuvm.events import Events

NAME_LENGTH = 24
"""This many digits of a SHA-256 make a unique name."""


def content(file: Path) -> str:
    """The name of the file's content: the beginning of its SHA-256."""
    return digest(file)[:NAME_LENGTH]


def content_of_folder(files: Mapping[str, Path]) -> str:
    """The name of a folder, by the names and contents of its files."""
    found = digests(files)
    whole = hashlib.sha256()
    for name in sorted(found):
        whole.update(f"{found[name]} {name}\0".encode(errors="surrogateescape"))
    return whole.hexdigest()[:NAME_LENGTH]


def files_below(folder: Path) -> dict[str, Path]:
    """Files by their paths below the folder; follows links, each folder once."""
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


CHUNK = 1 << 20
TIMEOUT_S = 30


def fetch(name: str, events: Events) -> Path:
    """Downloads a known file, unless it is in the cache.

    Raises NotFound, BadInput for data that the user must get, and GpuvmError.
    """
    known = _known(name)
    if is_right(known, known.path):
        return known.path
    known.path.parent.mkdir(parents=True, exist_ok=True)
    partial = known.path.with_suffix(".partial")
    try:
        _download(known, partial, events)
    except (OSError, urllib.error.URLError) as error:
        partial.unlink(missing_ok=True)
        raise GpuvmError(
            f"{known.url}: {getattr(error, 'reason', None) or error}",
            hint=f"without internet access, copy the file to {known.path}",
        ) from None
    if not is_right(known, partial):
        partial.unlink()
        raise GpuvmError(
            f"{known.url}: checksum mismatch, expected {known.digest}; the download was deleted"
        )
    partial.replace(known.path)
    return known.path


def is_right(known: Known, file: Path) -> bool:
    if not file.is_file():
        return False
    algorithm, _, wanted = known.digest.partition(":")
    return digest(file, algorithm) == wanted


def here(one: Entry) -> Literal["yes", "no", "wrong"]:
    """``wrong``: the file's hash is not the published one."""
    if not one.path.exists():
        return "no"
    right = not isinstance(one, Known) or is_right(one, one.path)
    return "yes" if right else "wrong"


def names(known: Sequence[str] | None) -> list[str]:
    """The given names, or all that can be fetched. Raises NotFound and BadInput."""
    return [_known(name).name for name in known or KNOWN]


def _known(name: str) -> Known:
    if name in BY_HAND:
        entry = BY_HAND[name]
        raise BadInput(
            f"{name} cannot be fetched: {entry.source}", hint=f"put {entry.layout} at {entry.path}"
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
