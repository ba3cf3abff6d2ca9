"""The connections to the programs of a distributed run: a relay in each guest, over its SSH
connection. Each program sends a beat every two seconds.

No port is opened in any guest, and guests need not reach each other.
"""

import contextlib
import json
import queue
import struct
import threading
from collections.abc import Mapping
from typing import Protocol

from gpuvm.errors import GuestError, GuestUnreachable
from gpuvm.events import Events
from gpuvm.guest import Guest, TransferChannel, connect, relayed
from gpuvm.runs.averaging import Channel, Header, InvalidMessage
from gpuvm.runs.fan_out import Member

SOCKET = "worker.sock"
LENGTHS = struct.Struct("!IQ")
SILENCE_S = 15.0
"""A worker that says nothing for so long is lost; it says something every two seconds."""
BEAT_S = 2.0
RETRY_S = 0.5
CONNECT_S = 5.0
ENDED = "its connection ended"
MAX_HEADER, MAX_PAYLOAD = 1 << 24, 1 << 36


class Hub(Protocol):
    """Who talks with the workers, which are known by their positions among the members."""

    def connected(self, worker: int, channel: Channel) -> None: ...

    def received(self, worker: int, header: Header, payload: bytes) -> None: ...

    def lost(self, worker: int, why: str) -> None:
        """``why`` is ENDED when its connection has ended: its program may have, too."""


class Links:
    """Keeps a relay in every member's guest until ``close``."""

    def __init__(
        self,
        hub: Hub,
        members: Mapping[int, Member],
        python: str,
        directory: str,
        events: Events,
    ) -> None:
        self._hub, self._python, self._directory = hub, python, directory
        self._closing = threading.Event()
        self._events = events
        self._open: dict[int, Guest] = {}
        self._known: set[int] = set()
        self._threads = [
            threading.Thread(target=self._serve, args=(worker, member), daemon=True)
            for worker, member in members.items()
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Nobody is reported as lost any more."""
        self._closing.set()
        for guest in tuple(self._open.values()):
            guest.close()
        for thread in self._threads:
            thread.join()

    def _serve(self, worker: int, member: Member) -> None:
        said: set[str] = set()
        while not self._closing.is_set():
            try:
                self._serve_once(worker, member)
            except (GuestError, LookupError, ValueError, OSError) as error:
                if self._closing.is_set():
                    return
                if not isinstance(error, GuestUnreachable) and str(error) not in said:
                    said.add(str(error))
                    self._events.note(f"cannot talk with its program: {error}", member.name)
                if worker in self._known:
                    self._hub.lost(worker, _why(error))
            finally:
                self._known.discard(worker)
            self._closing.wait(RETRY_S)

    def _serve_once(self, worker: int, member: Member) -> None:
        """Connects, and passes on the messages of one connection of the program."""
        with (
            connect(member.endpoint, timeout_s=CONNECT_S) as guest,
            relayed(guest, self._python, self._directory, SOCKET, SILENCE_S) as channel,
            _Sender(channel) as sender,
        ):
            self._open[worker] = guest
            try:
                while not self._closing.is_set():
                    header, payload = _message(channel)
                    if header.get("kind") == "hello":
                        self._known.add(worker)
                        self._hub.connected(worker, sender)
                    elif worker in self._known:
                        self._hub.received(worker, header, payload)
            finally:
                del self._open[worker]


def _why(error: Exception) -> str:
    if isinstance(error, GuestUnreachable):
        return ENDED
    if isinstance(error, GuestError) and not isinstance(error, InvalidMessage):
        return f"no sign of life for {SILENCE_S:g} s"
    return str(error)


class _Sender:
    """Sends in a thread of its own, so that a slow worker holds up nobody else; when there is
    nothing to send, it says that the operator is still there.
    """

    def __init__(self, channel: TransferChannel) -> None:
        self._channel = channel
        self._waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> "_Sender":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.put(None)

    def send(self, header: Header, payload: bytes = b"") -> None:
        self._waiting.put(_encoded(header, payload))

    def _send(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                try:
                    message = self._waiting.get(timeout=BEAT_S)
                except queue.Empty:
                    message = _encoded({"kind": "beat"})
                if message is None:
                    return
                self._channel.send(message)


def _encoded(header: Header, payload: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return LENGTHS.pack(len(text), len(payload)) + text + payload


def _message(channel: TransferChannel) -> tuple[Header, bytes]:
    header, payload = LENGTHS.unpack(_exactly(channel, LENGTHS.size))
    if header > MAX_HEADER or payload > MAX_PAYLOAD:
        raise InvalidMessage(f"{channel.guest.name}: a message of {payload} bytes is too long")
    try:
        message = json.loads(_exactly(channel, header))
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise InvalidMessage(f"{channel.guest.name}: not a message of a worker")
    return message, _exactly(channel, payload)


def _exactly(channel: TransferChannel, count: int) -> bytes:
    parts = []
    while count:
        parts.append(channel.read_bytes(count))
        count -= len(parts[-1])
    return b"".join(parts)
