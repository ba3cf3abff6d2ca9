"""Hashes of files and folders, and downloads that are checked by them.

A download with another hash than the known one is thrown away.
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

SHOWN = 24
"""So much of a SHA-256 is a name that nothing else has."""


def content(file: Path) -> str:
    """What a guest knows the file by: the beginning of its SHA-256."""
    return digest(file)[:SHOWN]


def content_of_folder(files: Mapping[str, Path]) -> str:
    """By the names and the contents of its files."""
    found = digests(files)
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
