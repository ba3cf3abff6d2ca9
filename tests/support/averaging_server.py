"""What gpuvm is to workers that train with local SGD, for workers on this machine."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from common.averaging import LENGTHS
from gpuvm.runs.averaging import Averager, Header


@contextlib.contextmanager
def serving(folder: Path, workers: int) -> Iterator[tuple[Averager, list[dict[str, str]]]]:
    """Yields who averages, and the environment of each worker."""
    averager = Averager(range(workers))
    with contextlib.ExitStack() as open_sockets:
        environments = []
        for worker in range(workers):
            path = folder / f"{worker}.sock"
            listening = open_sockets.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(str(path))
            listening.listen()
            environments.append(serve(listening, averager, path, worker, workers))
        yield averager, environments


def serve(
    listening: socket.socket, averager: Averager, path: Path, worker: int, workers: int
) -> dict[str, str]:
    """In a thread, whoever connects; returns the environment of that worker, which connects to
    ``path``.
    """
    threading.Thread(target=_serve, args=(listening, averager, worker), daemon=True).start()
    return {
        "GPUVM_AVERAGING": str(path),
        "GPUVM_WORKER": str(worker),
        "GPUVM_WORKERS": str(workers),
    }


class Link:
    """Sends to a worker."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, header: Header, payload: bytes = b"") -> None:
        text = json.dumps(header).encode()
        self._connection.sendall(LENGTHS.pack(len(text), len(payload)) + text + payload)


def pass_on(connection: socket.socket, averager: Averager, worker: int) -> None:
    """What a worker sends, until it is gone."""
    link = Link(connection)
    with connection.makefile("rb") as messages:
        while len(lengths := messages.read(LENGTHS.size)) == LENGTHS.size:
            header, payload = (messages.read(n) for n in LENGTHS.unpack(lengths))
            message = json.loads(header)
            if message["kind"] == "hello":
                averager.connected(worker, link)
            else:
                averager.received(worker, message, payload)
    averager.lost(worker)


def _serve(listening: socket.socket, averager: Averager, worker: int) -> None:
    with contextlib.suppress(OSError):  # closed by who opened it
        while True:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                pass_on(connection, averager, worker)
