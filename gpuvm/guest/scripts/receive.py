"""receive: stores missing files in a content store, and fills a folder from it.

Standard input is a line of JSON, followed by the missing bytes:
    {"folder": "run/1", "store": "store", "fill": "copy", "files": [[NAME, SIZE, SHA256, MODE], …]}
Standard output, after the line ``gpuvm-files``:
    {"missing": [[SHA256, OFFSET], …]}   to be sent in this order, each from its offset on
    {"done": true}                       every checksum matched, and the folder is filled
    {"changed": SHA256}                  the checksum does not match
    {"error": "…"}
In every case, files under their final names are complete.

A partial file stays in the store as SHA256.part, and the next transfer sends the rest.
``fill`` is "copy" (the copies may be written to), "link" (read-only hard links) or "move" (a store
of this transfer alone, which is removed). The time of change of a file in the store is its last
use. Names are UTF-8, with surrogates for bytes that are not (PEP 383).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import sys
from typing import Any, BinaryIO

CHUNK = 1 << 18
F_SETPIPE_SZ, PIPE_BYTES = 1031, 1 << 20
FICLONE = 0x40049409
PART = b".part"


class Refused(Exception):
    """Carries the answer to print."""


def main() -> None:
    with contextlib.suppress(OSError):  # not every stream is a pipe
        fcntl.fcntl(0, F_SETPIPE_SZ, PIPE_BYTES)
    sys.stdout.write("gpuvm-files\n")
    sys.stdout.flush()
    with open(0, "rb", buffering=CHUNK, closefd=False) as source:
        request = json.loads(source.readline() or "null")
        if request is None:
            return
        try:
            receive(request, source)
        except Refused as error:
            say(error.args[0])
        except OSError as error:
            where = os.fsdecode(error.filename) if error.filename else request["folder"]
            say({"error": f"{where}: {error.strerror or error}"})


def receive(request: dict[str, Any], source: BinaryIO) -> None:
    store, folder = as_path(request["store"]), as_path(request["folder"])
    os.makedirs(store, exist_ok=True)  # noqa: PTH103 - bytes
    sizes = {digest: size for _, size, digest, _ in request["files"]}
    missing = [
        (digest, offset)
        for digest, size in sizes.items()
        if (offset := bytes_present(store, digest, size)) is not None
    ]
    check_space(store, sum(sizes[digest] - offset for digest, offset in missing))
    say({"missing": missing})
    for digest, offset in missing:
        if not receive_file(store, digest, sizes[digest], offset, source):
            return  # the sender is gone; partial files are kept
    fill(request, store, folder)
    say({"done": True})


def bytes_present(store: bytes, digest: str, size: int) -> int | None:
    """The size of the partial file; None when the file is complete."""
    complete = inside(store, digest)
    with contextlib.suppress(FileNotFoundError):
        if os.stat(complete).st_size == size:  # noqa: PTH116 - bytes
            os.utime(complete)
            return None
        os.unlink(complete)  # noqa: PTH108 - bytes; damaged
    with contextlib.suppress(FileNotFoundError):
        part = os.stat(complete + PART).st_size  # noqa: PTH116 - bytes
        return part if part <= size else 0
    return 0


def check_space(store: bytes, needed: int) -> None:
    disk = os.statvfs(store)
    free = disk.f_bavail * disk.f_frsize
    if needed > free:
        where = os.fsdecode(store)
        why = f"{needed >> 20} MiB needed, {free >> 20} MiB free"
        raise Refused({"error": f"{where}: {os.strerror(errno.ENOSPC)} ({why})"})


def receive_file(store: bytes, digest: str, size: int, offset: int, source: BinaryIO) -> bool:
    """Reads one file from the stream into the store; False when the stream ended early."""
    complete = inside(store, digest)
    part, name = open_part(complete, offset)
    with part:
        have = hashed(part, offset)
        part.truncate(offset)
        part.seek(offset)
        try:
            while offset < size:
                chunk = source.read1(min(CHUNK, size - offset))  # type: ignore[attr-defined]
                if not chunk:
                    return False
                have.update(chunk)
                write(part, chunk)
                offset += len(chunk)
        except OSError as error:
            os.unlink(name)  # noqa: PTH108 - bytes; frees a full disk
            raise OSError(error.errno, error.strerror, store) from None
        if have.hexdigest() != digest:
            os.unlink(name)  # noqa: PTH108 - bytes
            raise Refused({"changed": digest})
        os.fchmod(part.fileno(), 0o444)
        os.replace(name, complete)  # noqa: PTH105 - bytes
    return True


def open_part(complete: bytes, offset: int) -> tuple[BinaryIO, bytes]:
    """Opens and locks a partial file; if another transfer has it, copies its beginning."""
    name = complete + PART
    part = open(os.open(name, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)  # noqa: PTH123, SIM115
    with contextlib.suppress(OSError):
        fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It may have been completed and renamed meanwhile.
        with contextlib.suppress(FileNotFoundError):
            same = os.stat(name).st_ino == os.fstat(part.fileno()).st_ino  # noqa: PTH116 - bytes
            if same and os.fstat(part.fileno()).st_size >= offset:
                return part, name
    name = b"%s.%d%s" % (complete, os.getpid(), PART)
    own = open(name, "w+b", buffering=0)  # noqa: PTH123, SIM115
    with part:
        finished = os.path.exists(complete)  # noqa: PTH110 - bytes
        other = open(complete, "rb") if finished else part  # noqa: PTH123, SIM115
        left = offset
        while left and (chunk := other.read(min(CHUNK, left))):
            write(own, chunk)
            left -= len(chunk)
    return own, name


def write(part: BinaryIO, chunk: bytes) -> None:
    """Writes all of it: an unbuffered write to a nearly full disk may be partial."""
    left = memoryview(chunk)
    while left:
        left = left[part.write(left) :]


def hashed(part: BinaryIO, size: int) -> Any:
    found = hashlib.sha256()
    part.seek(0)
    while size and (chunk := part.read(min(CHUNK, size))):
        found.update(chunk)
        size -= len(chunk)
    return found


def fill(request: dict[str, Any], store: bytes, folder: bytes) -> None:
    how = {"copy": copy, "link": link, "move": move}[request["fill"]]
    moved: dict[str, bytes] = {}
    made: set[bytes] = set()
    for name, _, digest, mode in request["files"]:
        target = inside(folder, name)
        parent = os.path.dirname(target)  # noqa: PTH120 - bytes
        if parent not in made:
            os.makedirs(parent, exist_ok=True)  # noqa: PTH103 - bytes
            made.add(parent)
        if digest in moved:
            copy(moved[digest], target, mode)
        else:
            how(inside(store, digest), target, mode)
        if how is move:
            moved[digest] = target
    if how is move:
        with contextlib.suppress(OSError):  # another push into this folder may use it
            os.rmdir(store)  # noqa: PTH106 - bytes


def move(source: bytes, target: bytes, mode: int) -> None:
    os.chmod(source, mode)  # noqa: PTH101 - bytes
    os.replace(source, target)  # noqa: PTH105 - bytes


def link(source: bytes, target: bytes, mode: int) -> None:
    """Makes a hard link, or a copy if that fails (another disk, too many links)."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.lstat(target), os.stat(source)):  # noqa: PTH116 - bytes
            return
    new = temporary_name(target)
    try:
        os.link(source, new)
    except OSError:
        copy(source, target, mode)
    else:
        os.replace(new, target)  # noqa: PTH105 - bytes


def copy(source: bytes, target: bytes, mode: int) -> None:
    """Shares the blocks if the file system can (XFS, btrfs)."""
    new = temporary_name(target)
    try:
        with open(source, "rb") as original, open(new, "xb") as own:  # noqa: PTH123 - bytes
            try:
                fcntl.ioctl(own, FICLONE, original.fileno())
            except OSError:
                while os.sendfile(own.fileno(), original.fileno(), None, 1 << 30):
                    pass
            os.fchmod(own.fileno(), stat.S_IMODE(mode))
        os.replace(new, target)  # noqa: PTH105 - bytes
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(new)  # noqa: PTH108 - bytes
        raise OSError(error.errno, error.strerror, target) from None


def temporary_name(target: bytes) -> bytes:
    parent, _, name = target.rpartition(b"/")
    short = hashlib.sha256(name).hexdigest()[:16]
    return b"%s/.gpuvm-%s-%d" % (parent or b".", short.encode(), os.getpid())


def inside(folder: bytes, name: str) -> bytes:
    return os.path.join(folder, as_path(name))  # noqa: PTH118 - bytes


def as_path(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


main()
