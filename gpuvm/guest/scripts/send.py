"""send FOLDER: lists a folder's files, and sends those that are requested.

Standard output, after the line ``gpuvm-files``:
    {"files": [[NAME, SIZE, TIME], …]}       time of change in nanoseconds; links are not followed
then, for each requested file, in that order:
    {"size": N, "offset": O, "time": T}      its bytes from O to N follow, and then
    {"sha256": "…"}                          of the whole file, or {"error": "…"}
    {"error": "…"}                           the file cannot be read; no bytes follow
Standard input is a line of JSON, or nothing:
    [[NAME, OFFSET, SHA256], …]              the client has OFFSET bytes with this hash
Names are UTF-8, with surrogates for bytes that are not (PEP 383).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

CHUNK = 1 << 18
F_SETPIPE_SZ, PIPE_BYTES = 1031, 1 << 20


def main() -> None:
    with contextlib.suppress(OSError):  # not every stream is a pipe
        fcntl.fcntl(1, F_SETPIPE_SZ, PIPE_BYTES)
    out = sys.stdout.buffer
    out.write(b"gpuvm-files\n")
    try:
        os.chdir(sys.argv[1].encode("utf-8", "surrogateescape"))
        files = [[name.decode("utf-8", "surrogateescape"), *what] for name, *what in listed(b".")]
    except OSError as error:
        where = os.fsdecode(error.filename or b"").removeprefix("./")
        say(out, {"error": f"{where}: {error.strerror}"})
        return
    say(out, {"files": files})
    for name, offset, begun in json.loads(sys.stdin.readline() or "[]"):
        try:
            send(name.encode("utf-8", "surrogateescape"), offset, begun, out)
        except OSError as error:
            if error.errno == 32:  # the other end is gone
                return
            say(out, {"error": error.strerror or str(error)})


def listed(folder: bytes) -> Iterator[tuple[bytes, int, int]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                yield from listed(entry.path)
            elif entry.is_file(follow_symlinks=False):
                found = entry.stat(follow_symlinks=False)
                yield entry.path[2:], found.st_size, found.st_mtime_ns


def send(name: bytes, offset: int, begun: str, out: BinaryIO) -> None:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise OSError(0, "it is no longer a regular file")
        have, done = hashlib.sha256(), 0
        while done < offset and (chunk := file.read(min(CHUNK, offset - done))):
            have.update(chunk)
            done += len(chunk)
        if done < offset or have.hexdigest() != begun:
            have, done = hashlib.sha256(), 0
            file.seek(0)
        say(out, {"size": before.st_size, "offset": done, "time": before.st_mtime_ns})
        short = send_bytes(file, before.st_size - done, have, out)
        after = os.fstat(descriptor)
    # A growing file, such as a log, is sent as it was; an overwritten one would be inconsistent.
    overwritten = after.st_size == before.st_size and after.st_mtime_ns != before.st_mtime_ns
    if short or overwritten:
        say(out, {"error": "it changed while it was fetched"})
    else:
        say(out, {"sha256": have.hexdigest()})


def send_bytes(file: BinaryIO, size: int, have: Any, out: BinaryIO) -> bool:
    """Sends ``size`` bytes; returns whether the file was truncated meanwhile."""
    short = False
    while size:
        chunk = file.read(min(CHUNK, size))
        if not chunk:
            short, chunk = True, bytes(min(CHUNK, size))
        have.update(chunk)
        out.write(chunk)
        size -= len(chunk)
    return short


def say(out: BinaryIO, what: dict[str, Any]) -> None:
    out.write(json.dumps(what).encode() + b"\n")
    out.flush()


main()
