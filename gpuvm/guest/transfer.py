"""Files to and from a guest: one tar stream each way, not a round trip per file."""

import hashlib
import os
import re
import shlex
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from gpuvm.errors import CommandFailed, GuestError
from gpuvm.guest.ssh import Guest

CHUNK = 1 << 20
SLOWEST = 1 << 20
"""Bytes per second that a link must carry; slower, and the transfer is given up."""
START_S = 60.0


@dataclass(frozen=True)
class _There:
    """A file as the guest has it; ``name`` is relative to the fetched folder."""

    name: str
    size: int
    sha256: str


def push(guest: Guest, files: Mapping[str, Path | bytes], remote_dir: str) -> None:
    """Writes the files below ``remote_dir`` in one stream; parent folders are made.

    Raises CommandFailed, such as for a full disk.
    """
    folder = shlex.quote(remote_dir)
    with tempfile.TemporaryFile() as archive:
        _pack(files, archive)
        size = archive.tell()
        archive.seek(0)
        _checked(
            guest,
            f"mkdir -p -- {folder} && tar -xf - -C {folder}",
            f"push to {remote_dir}",
            START_S + size / SLOWEST,
            stdin=archive,
        )


def fetch(guest: Guest, remote_dir: str, local_dir: Path) -> list[Path]:
    """Copies a folder's files here in one stream; size and SHA-256 of each are compared.

    Raises GuestError when what arrived is not what was there.
    """
    there = _listing(guest, remote_dir)
    size = sum(file.size for file in there.values())
    local_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=local_dir) as archive:
        command = f"tar -cf - -C {shlex.quote(remote_dir)} ."
        limit_s = START_S + size / SLOWEST
        _checked(guest, command, f"fetch {remote_dir}", limit_s, stdout=archive)
        archive.seek(0)
        arrived = dict(_unpack(archive, there, local_dir, guest.name))
    missing = sorted(there.keys() - arrived.keys())
    if missing:
        raise GuestError(f"{guest.name}: {missing[0]} did not arrive")
    return [arrived[name] for name in sorted(arrived)]


def _pack(files: Mapping[str, Path | bytes], archive: BinaryIO) -> None:
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, source in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode, entry.mtime = 0o644, int(time.time())
            if isinstance(source, bytes):
                entry.size = len(source)
                tar.addfile(entry, BytesIO(source))
            else:
                entry.size = source.stat().st_size
                with source.open("rb") as content:
                    tar.addfile(entry, content)


def _listing(guest: Guest, remote_dir: str) -> dict[str, _There]:
    command = (
        f"cd -- {shlex.quote(remote_dir)} && find . -type f -printf '%s %P\\0' && "
        "printf '\\0' && find . -type f -exec sha256sum -- {} +"
    )
    out = BytesIO()
    _checked(guest, command, f"list {remote_dir}", 600.0, stdout=out)
    names, _, sums = out.getvalue().partition(b"\0\0")
    sizes = dict(_size(entry) for entry in names.split(b"\0") if entry)
    return {
        name: _There(name, sizes[name], digest)
        for digest, name in map(_sum, sums.splitlines())
        if name in sizes
    }


def _size(entry: bytes) -> tuple[str, int]:
    size, _, name = entry.partition(b" ")
    return os.fsdecode(name), int(size)


def _sum(line: bytes) -> tuple[str, str]:
    """``<hex>  ./name``; sha256sum puts a backslash first when it had to escape the name."""
    digest, _, name = line.removeprefix(b"\\").partition(b"  ./")
    if line.startswith(b"\\"):
        name = re.sub(rb"\\(.)", lambda m: b"\n" if m[1] == b"n" else m[1], name)
    return digest.decode("ascii"), os.fsdecode(name)


def _unpack(
    archive: BinaryIO, there: Mapping[str, _There], local_dir: Path, guest: str
) -> Iterator[tuple[str, Path]]:
    """Plain files only, and only below ``local_dir``: a guest is not trusted with more."""
    with tarfile.open(fileobj=archive, mode="r:") as tar:
        for entry in tar:
            name = entry.name.removeprefix("./")
            content = tar.extractfile(entry) if entry.isfile() or entry.islnk() else None
            if content is None or name not in there:
                continue
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise GuestError(f"{guest}: {name!r} leads out of its folder")
            yield name, _write(content, there[name], local_dir / name, guest)


def _write(content: IO[bytes], there: _There, file: Path, guest: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    size, digest = 0, hashlib.sha256()
    try:
        with part.open("wb") as copy:
            while chunk := content.read(CHUNK):
                size += len(chunk)
                digest.update(chunk)
                copy.write(chunk)
        if (size, digest.hexdigest()) != (there.size, there.sha256):
            raise GuestError(
                f"{guest}: {there.name} did not arrive whole: {size} of {there.size} bytes"
                if size != there.size
                else f"{guest}: {there.name} changed while it was fetched (SHA-256)"
            )
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    return file


def _checked(
    guest: Guest,
    command: str,
    what: str,
    timeout_s: float,
    *,
    stdin: BinaryIO | None = None,
    stdout: BinaryIO | None = None,
) -> None:
    done = guest.pipe(
        command, stdin or BytesIO(), stdout or BytesIO(), timeout_s=timeout_s, what=what
    )
    if done.exit_status != 0:
        raise CommandFailed(guest.name, what, done.exit_status, done.stderr)
