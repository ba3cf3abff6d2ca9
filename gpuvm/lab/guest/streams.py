"""Copies bytes between file descriptors and SSH channels, with back-pressure.

Plain reads and writes on non-blocking descriptors: asyncio's pipe transports drop what is written
from within ``resume_writing`` when the end of the stream follows at once, which an SSH client that
sends a large standard input does.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

_CHUNK = 65536


class Source(Protocol):
    async def read(self, n: int = -1) -> bytes: ...


class Sink(Protocol):
    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...


async def pump_out(descriptor: int, sink: Sink) -> None:
    """Copies the descriptor to the client until its end, then closes it; waits for a slow client.

    Raises OSError when the client has disconnected.
    """
    try:
        while data := await _read(descriptor):
            sink.write(data)
            await sink.drain()
    finally:
        os.close(descriptor)


async def pump_in(source: Source, descriptor: int) -> None:
    """Copies the client's input to the descriptor until its end, then closes it.

    Input after the program has closed its standard input is discarded, as sshd does.
    """
    try:
        while data := await source.read(_CHUNK):
            with suppress(BrokenPipeError):
                await _write(descriptor, data)
    finally:
        os.close(descriptor)


async def _read(descriptor: int) -> bytes:
    loop = asyncio.get_running_loop()
    os.set_blocking(descriptor, False)
    while True:
        try:
            return os.read(descriptor, _CHUNK)
        except BlockingIOError:
            await _until(loop.add_reader, loop.remove_reader, descriptor)
        except OSError:
            return b""  # EIO: the last process has closed the terminal


async def _write(descriptor: int, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    os.set_blocking(descriptor, False)
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            await _until(loop.add_writer, loop.remove_writer, descriptor)


async def _until(add: Callable[..., Any], remove: Callable[[int], Any], descriptor: int) -> None:
    """Waits until the descriptor is ready; always removes it from the loop's selector."""
    ready = asyncio.get_running_loop().create_future()
    add(descriptor, ready.set_result, None)
    try:
        await ready
    finally:
        remove(descriptor)
