"""Files from a guest: streamed, checked by size and SHA-256, resumed after an interruption.

A guest is not trusted: it can only write below the target folder.
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
from gpuvm.guest import openssh, scripts, transfer
from gpuvm.guest.progress import Meter, OnProgress
from gpuvm.guest.ssh import Guest
from gpuvm.guest.streams import CHUNK
from gpuvm.guest.transfer import TransferChannel, is_inside, local, portable
from gpuvm.text import one_line

MOST_GROWTH_BYTES = 1 << 30
"""By which files may have grown, all together, between their listing and their transfer."""
MIN_PART_BYTES = 1 << 20
"""A partial file is kept for a resume from this size on."""


@dataclass(frozen=True)
class SkippedFile:
    """A file that was not fetched; ``name`` is relative to the fetched folder."""

    name: str
    size: int


@dataclass(frozen=True)
class Fetched:
    """The fetched files, and those that were skipped because of the limit."""

    files: tuple[Path, ...]
    skipped: tuple[SkippedFile, ...] = ()


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
    """Copies a folder's files to ``local_dir``; links are not followed.

    A file with the same size and time of change is not sent again; a partial one is resumed.
    ``patterns`` are globs: a file is fetched when its path, its name or a folder above it matches
    one. With ``limit_bytes``, smaller files are fetched first and those that exceed the limit are
    skipped: records and logs are fetched, checkpoints perhaps not.
    Raises GuestError, after the other files have been fetched, for a file that cannot be read,
    changed meanwhile or is outside ``local_dir``; GuestUnreachable, CommandFailed.
    """
    command = scripts.command(python, "send", portable(remote_dir))
    what = f"fetch {remote_dir}"
    for bulk in (False, True):
        with transfer.opened(guest, command, what, bulk=bulk) as channel:
            listed = [_listed(*file) for file in channel.read_answer()["files"]]
            fetching = _Fetch(channel, local_dir, [f for f in listed if f.matches(patterns)])
            skipped = fetching.choose(limit_bytes)
            if bulk or fetching.size < transfer.BULK_BYTES or not openssh.available(guest.endpoint):
                return Fetched(tuple(sorted(fetching.run(on_progress))), skipped)
    raise AssertionError("the second attempt returns or raises")


@dataclass(frozen=True)
class _RemoteFile:
    """A file as the guest lists it; ``time`` of change in nanoseconds."""

    name: str
    size: int
    time: int

    def matches(self, patterns: Sequence[str]) -> bool:
        path = PurePosixPath(self.name)
        names = (self.name, path.name, *map(str, path.parents[:-1]))
        return not patterns or any(fnmatch.fnmatchcase(n, p) for n in names for p in patterns)


def _listed(name: Any, size: Any, time: Any) -> _RemoteFile:
    """Raises ValueError for what no script lists."""
    if not isinstance(name, str) or not isinstance(size, int) or not isinstance(time, int):
        raise ValueError((name, size, time))  # noqa: TRY004 - of an answer, as any other
    if size < 0:
        raise ValueError(size)
    return _RemoteFile(name, size, time)


class _Fetch:
    def __init__(
        self, channel: TransferChannel, local_dir: Path, files: Sequence[_RemoteFile]
    ) -> None:
        self._channel, self._dir, self._files = channel, local_dir, files
        self._failed: list[str] = []
        self._here: list[_RemoteFile] = []
        self._wanted: list[_RemoteFile] = []
        self._growth_left = MOST_GROWTH_BYTES

    def choose(self, limit_bytes: int | None) -> tuple[SkippedFile, ...]:
        """Splits the files into those that are here, those to fetch and those to skip."""
        for file in self._files:
            (self._here if self._is_here(file) else self._wanted).append(file)
        fits: list[_RemoteFile] = []
        skipped: list[_RemoteFile] = []
        if limit_bytes is not None:
            total = 0
            for file in sorted(self._wanted, key=lambda file: (file.size, file.name)):
                total += file.size
                (fits if total <= limit_bytes else skipped).append(file)
            self._wanted = fits
        return tuple(SkippedFile(local(file.name), file.size) for file in skipped)

    @property
    def size(self) -> int:
        return sum(file.size for file in self._wanted)

    def run(self, on_progress: OnProgress | None) -> list[Path]:
        wanted = [file for file in self._wanted if self._is_inside(file)]
        parts = [self._partial(file) for file in wanted]
        here = sum(file.size for file in self._here)
        meter = Meter(on_progress, here + self.size, here + sum(part.size for part in parts))
        self._channel.send_json(
            [(f.name, b.size, b.sha256) for f, b in zip(wanted, parts, strict=True)]
        )
        arrived = [self._path(file) for file in self._here]
        for file, part in zip(wanted, parts, strict=True):
            if self._receive(file, part.size, meter):
                arrived.append(self._path(file))
        if self._failed:
            more = f" (and {len(self._failed) - 1} more)" if len(self._failed) > 1 else ""
            raise GuestError(f"{self._channel.guest.name}: {one_line(self._failed[0])}{more}")
        meter.finish()
        return arrived

    def _receive(self, file: _RemoteFile, begun: int, meter: Meter) -> bool:
        """Reads one file from the stream; False after an error, which is recorded."""
        header = self._channel.read_json()
        if "error" in header:
            self._failed.append(f"{file.name}: {header['error']}")
            return False
        size, offset, time = int(header["size"]), int(header["offset"]), int(header["time"])
        if not 0 <= offset <= min(begun, size):
            raise ValueError(offset)
        self._growth_left -= max(0, size - file.size)
        if self._growth_left < 0:  # a limit is of the sizes that the guest has listed
            where = f"{self._channel.guest.name}: {one_line(file.name)}"
            raise GuestError(f"{where} has grown by more than 1 GiB since it was listed")
        part = self._part(file)
        meter.count(offset - begun)  # the guest may not resume the partial file
        try:
            have = self._copy(file, part, size, offset, meter)
            trailer = self._channel.read_json()
        except BaseException:
            if not part.exists() or part.stat().st_size < MIN_PART_BYTES:
                part.unlink(missing_ok=True)
            raise
        why = trailer.get("error")
        if size < file.size:
            why = f"incomplete: {size} of {file.size} bytes"
        elif why is None and trailer["sha256"] != have:
            why = "checksum mismatch (SHA-256)"
        if why is not None:
            part.unlink()
            self._failed.append(f"{file.name}: {why}")
            return False
        with self._writable(file):
            os.utime(part, ns=(time, time))
            part.replace(self._path(file))
        return True

    def _copy(self, file: _RemoteFile, part: Path, size: int, offset: int, meter: Meter) -> str:
        """Appends to the part; returns the SHA-256 of the whole file."""
        with self._writable(file):
            part.parent.mkdir(parents=True, exist_ok=True)
            copy = part.open("r+b" if offset else "wb", buffering=0)
        with copy:
            have = _hash_of(copy, offset)
            copy.truncate(offset)
            while offset < size:
                chunk = self._channel.read_bytes(min(CHUNK, size - offset))
                have.update(chunk)
                with self._writable(file):
                    _write(copy, chunk)
                offset += len(chunk)
                meter.count(len(chunk))
        return str(have.hexdigest())

    @contextlib.contextmanager
    def _writable(self, file: _RemoteFile) -> Iterator[None]:
        """Translates errors of the local disk to GuestError."""
        try:
            yield
        except OSError as error:
            where = error.filename or self._path(file)
            self._part(file).unlink(missing_ok=True)
            why = one_line(f"{file.name} cannot be written: {where}: {error.strerror}")
            raise GuestError(f"{self._channel.guest.name}: {why}") from None

    def _path(self, file: _RemoteFile) -> Path:
        return self._dir / local(file.name)

    def _part(self, file: _RemoteFile) -> Path:
        """Its name is a hash, and so never too long."""
        path = self._path(file)
        return path.with_name(f".gpuvm-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}")

    def _is_here(self, file: _RemoteFile) -> bool:
        if not is_inside(file.name):
            return False
        with contextlib.suppress(OSError):
            here = self._path(file).lstat()
            return stat.S_ISREG(here.st_mode) and (here.st_size, here.st_mtime_ns) == (
                file.size,
                file.time,
            )
        return False

    def _partial(self, file: _RemoteFile) -> "_PartialFile":
        """The part that an interrupted fetch left; the guest checks that it is still valid."""
        with contextlib.suppress(OSError), self._part(file).open("rb") as part:
            size = os.fstat(part.fileno()).st_size
            if size <= file.size:
                return _PartialFile(size, _hash_of(part, size).hexdigest())
        return _PartialFile(0, "")

    def _is_inside(self, file: _RemoteFile) -> bool:
        """Checks its name, and that no folder above it is a local link."""
        if is_inside(file.name):
            parents = PurePosixPath(local(file.name)).parents
            with contextlib.suppress(OSError):  # a name that is too long
                if not any((self._dir / parent).is_symlink() for parent in parents[:-1]):
                    return True
        self._failed.append(f"{file.name!r} is outside its folder")
        return False


@dataclass(frozen=True)
class _PartialFile:
    size: int
    sha256: str


def _hash_of(file: BinaryIO, size: int) -> Any:
    have = hashlib.sha256()
    while size and (chunk := file.read(min(CHUNK, size))):
        have.update(chunk)
        size -= len(chunk)
    return have


def _write(copy: BinaryIO, chunk: bytes) -> None:
    """Writes all of it: an unbuffered write to a nearly full disk may be partial."""
    left = memoryview(chunk)
    while left:
        left = left[copy.write(left) :]
