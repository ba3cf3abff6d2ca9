"""Files from a guest: streamed, checked by size and SHA-256, continued where they broke off.

A guest is not trusted with more than the folder that they go to.
"""

import contextlib
import fnmatch
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from gpuvm.errors import GuestError
from gpuvm.guest import conversation, openssh, scripts
from gpuvm.guest.conversation import Conversation, is_inside, local, portable
from gpuvm.guest.progress import Meter, OnProgress
from gpuvm.guest.ssh import Guest
from gpuvm.guest.streams import CHUNK
from gpuvm.text import one_line

WORTH_KEEPING = 1 << 20
"""What has come of a file when the connection breaks is kept from this size on."""


@dataclass(frozen=True)
class Left:
    """A file that stayed in the guest; ``name`` is relative to the fetched folder."""

    name: str
    size: int


@dataclass(frozen=True)
class Fetched:
    """The files that are here now, and those above the limit."""

    files: tuple[Path, ...]
    left: tuple[Left, ...] = ()


def fetch(
    guest: Guest,
    remote_dir: str,
    local_dir: Path,
    *,
    patterns: Sequence[str] = (),
    limit_bytes: int | None = None,
    python: str = "python3",
    on_progress: OnProgress | None = None,
) -> Fetched:
    """Copies a folder's files here; links are not followed.

    A file that is here with its size and time of change is not sent again; of one that broke off,
    the rest is. ``patterns`` are globs: a file is fetched when its path, its name or a folder that
    it is in matches one. With ``limit_bytes``, smaller files go first, and those that do not fit
    are left: records and logs come, checkpoints may not.
    Raises GuestError for the first file that cannot be read, changed meanwhile or leads out of
    ``local_dir``, when all others have been fetched; GuestUnreachable, CommandFailed.
    """
    command = scripts.command(python, "send", portable(remote_dir))
    what = f"fetch {remote_dir}"
    for bulk in (False, True):
        with conversation.opened(guest, command, what, bulk=bulk) as talk:
            listed = [_There(*file) for file in talk.checked_answer()["files"]]
            fetching = _Fetch(talk, local_dir, [f for f in listed if f.matches(patterns)])
            left = fetching.choose(limit_bytes)
            if (
                bulk
                or fetching.size < conversation.BULK_BYTES
                or not openssh.available(guest.endpoint)
            ):
                return Fetched(tuple(sorted(fetching.run(on_progress))), left)
    raise AssertionError("the second way is the last")


@dataclass(frozen=True)
class _There:
    """A file as the guest lists it; ``time`` of its change is in nanoseconds."""

    name: str
    size: int
    time: int

    def matches(self, patterns: Sequence[str]) -> bool:
        path = PurePosixPath(self.name)
        names = (self.name, path.name, *map(str, path.parents[:-1]))
        return not patterns or any(fnmatch.fnmatchcase(n, p) for n in names for p in patterns)


class _Fetch:
    def __init__(self, talk: Conversation, local_dir: Path, files: Sequence[_There]) -> None:
        self._talk, self._dir, self._files = talk, local_dir, files
        self._failed: list[str] = []
        self._here: list[_There] = []
        self._wanted: list[_There] = []

    def choose(self, limit_bytes: int | None) -> tuple[Left, ...]:
        """Splits the files into those that are here, those to fetch and those that are left."""
        for file in self._files:
            (self._here if self._is_here(file) else self._wanted).append(file)
        fits: list[_There] = []
        left: list[_There] = []
        if limit_bytes is not None:
            total = 0
            for file in sorted(self._wanted, key=lambda file: (file.size, file.name)):
                total += file.size
                (fits if total <= limit_bytes else left).append(file)
            self._wanted = fits
        return tuple(Left(local(file.name), file.size) for file in left)

    @property
    def size(self) -> int:
        return sum(file.size for file in self._wanted)

    def run(self, on_progress: OnProgress | None) -> list[Path]:
        wanted = [file for file in self._wanted if self._leads_inside(file)]
        begun = [self._begun(file) for file in wanted]
        here = sum(file.size for file in self._here)
        meter = Meter(on_progress, here + self.size, here + sum(one.size for one in begun))
        self._talk.say([(f.name, b.size, b.sha256) for f, b in zip(wanted, begun, strict=True)])
        arrived = [self._path(file) for file in self._here]
        for file, one in zip(wanted, begun, strict=True):
            if self._receive(file, one.size, meter):
                arrived.append(self._path(file))
        if self._failed:
            more = f" (and {len(self._failed) - 1} more)" if len(self._failed) > 1 else ""
            raise GuestError(f"{self._talk.guest.name}: {one_line(self._failed[0])}{more}")
        meter.finish()
        return arrived

    def _receive(self, file: _There, begun: int, meter: Meter) -> bool:
        """Reads one file from the stream; False when it is not right."""
        header = self._talk.answer()
        if "error" in header:
            self._failed.append(f"{file.name}: {header['error']}")
            return False
        size, offset = int(header["size"]), int(header["offset"])
        part = self._part(file)
        meter.count(offset - begun)  # the beginning may be that of an older file
        try:
            have = self._copy(file, part, size, offset, meter)
            trailer = self._talk.answer()
        except BaseException:
            if not part.exists() or part.stat().st_size < WORTH_KEEPING:
                part.unlink(missing_ok=True)
            raise
        why = trailer.get("error")
        if size < file.size:
            why = f"it did not arrive whole: {size} of {file.size} bytes"
        elif why is None and trailer["sha256"] != have:
            why = "what arrived is not what was sent (SHA-256)"
        if why is not None:
            part.unlink()
            self._failed.append(f"{file.name}: {why}")
            return False
        with self._writable(file):
            os.utime(part, ns=(header["time"], header["time"]))
            part.replace(self._path(file))
        return True

    def _copy(self, file: _There, part: Path, size: int, offset: int, meter: Meter) -> str:
        """The SHA-256 of the part, which is the whole file then."""
        with self._writable(file):
            part.parent.mkdir(parents=True, exist_ok=True)
            copy = part.open("r+b" if offset else "wb", buffering=0)
        with copy:
            have = _hash_of(copy, offset)
            copy.truncate(offset)
            while offset < size:
                chunk = self._talk.some(min(CHUNK, size - offset))
                have.update(chunk)
                with self._writable(file):
                    _write(copy, chunk)
                offset += len(chunk)
                meter.count(len(chunk))
        return str(have.hexdigest())

    @contextlib.contextmanager
    def _writable(self, file: _There) -> Iterator[None]:
        """Turns errors of the local disk into GuestError; the connection's rise elsewhere."""
        try:
            yield
        except OSError as error:
            where = error.filename or self._path(file)
            self._part(file).unlink(missing_ok=True)
            why = one_line(f"{file.name} cannot be written: {where}: {error.strerror}")
            raise GuestError(f"{self._talk.guest.name}: {why}") from None

    def _path(self, file: _There) -> Path:
        return self._dir / local(file.name)

    def _part(self, file: _There) -> Path:
        """A name that is short enough whatever the file's is."""
        path = self._path(file)
        return path.with_name(f".gpuvm-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}")

    def _is_here(self, file: _There) -> bool:
        if not is_inside(file.name):
            return False
        with contextlib.suppress(OSError):
            here = self._path(file).lstat()
            return stat.S_ISREG(here.st_mode) and (here.st_size, here.st_mtime_ns) == (
                file.size,
                file.time,
            )
        return False

    def _begun(self, file: _There) -> "_Begun":
        """What came of it when an earlier fetch broke off; the guest checks that it still fits."""
        with contextlib.suppress(FileNotFoundError), self._part(file).open("rb") as part:
            size = os.fstat(part.fileno()).st_size
            if size <= file.size:
                return _Begun(size, _hash_of(part, size).hexdigest())
        return _Begun(0, "")

    def _leads_inside(self, file: _There) -> bool:
        """Neither by its name nor over a link that lies here already."""
        if is_inside(file.name):
            parents = PurePosixPath(local(file.name)).parents
            if not any((self._dir / parent).is_symlink() for parent in parents[:-1]):
                return True
        self._failed.append(f"{file.name!r} leads out of its folder")
        return False


@dataclass(frozen=True)
class _Begun:
    size: int
    sha256: str


def _hash_of(file: BinaryIO, size: int) -> Any:
    have = hashlib.sha256()
    while size and (chunk := file.read(min(CHUNK, size))):
        have.update(chunk)
        size -= len(chunk)
    return have


def _write(copy: BinaryIO, chunk: bytes) -> None:
    """Writes all: without a buffer, a disk that is nearly full takes a piece without an error."""
    left = memoryview(chunk)
    while left:
        left = left[copy.write(left) :]
