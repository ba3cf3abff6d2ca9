"""relay FOLDER NAME: connects a program in FOLDER with standard input and output.

It listens on the Unix socket NAME in FOLDER, open to this user alone, and passes on what the first
program that connects writes and reads there, after the line ``gpuvm-files``. It ends with that
program's connection, or with standard input. Until a program has connected, it writes the message
{"kind": "beat"} (workloads/README.md) every two seconds, so that a lost connection is noticed.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import sys
import threading

CHUNK = 1 << 18
BEAT_S = 2.0
BEAT = b'{"kind": "beat"}'
MESSAGE = struct.pack("!IQ", len(BEAT), 0) + BEAT


def main(folder: str, name: str) -> None:
    os.chdir(folder)
    os.umask(0o177)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name)  # noqa: PTH108 - of an earlier connection
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(name)
    listening.listen(1)
    write(b"gpuvm-files\n")
    program = accepted(listening)
    if program is None:
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name)  # noqa: PTH108
    listening.close()
    threading.Thread(target=from_input, args=(program,), daemon=True).start()
    with contextlib.suppress(OSError):
        while data := program.recv(CHUNK):
            write(data)


def accepted(listening: socket.socket) -> socket.socket | None:
    """The program's connection; None when standard input ended first."""
    with selectors.DefaultSelector() as waiting:
        waiting.register(listening, selectors.EVENT_READ)
        waiting.register(0, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in waiting.select(BEAT_S)}
            if listening in ready:
                return listening.accept()[0]
            if 0 in ready:
                return None  # nothing is sent before the program has said hello
            write(MESSAGE)


def from_input(program: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(0, CHUNK):
            program.sendall(data)
        program.shutdown(socket.SHUT_RDWR)


def write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


main(*sys.argv[1:])
