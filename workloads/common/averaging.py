"""The connection of a worker to the one who averages the workers' weights.

It is a Unix socket, whose path is in the environment; who listens there brings all workers' weights
together (workloads/README.md has the messages). A message is two lengths, 4 and 8 bytes in network
order, a header in JSON and a payload: the arrays of a model, one after the other.

Both sides send a beat every BEAT_S. One who hears nothing for SILENCE_S takes the other for lost; a
worker then connects again, and joins the others after their next round.
"""

import contextlib
import dataclasses
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.deal import Round

VARIABLE = "GPUVM_AVERAGING"
HEARTBEAT = "GPUVM_HEARTBEAT"
LENGTHS = struct.Struct("!IQ")
BEAT_S = 2.0
SILENCE_S = 15.0
RETRY_S = 0.5


class Lost(Exception):
    """The other side has gone."""


@dataclass(frozen=True)
class Terms:
    """How a topic is trained: until ``examples`` have been used, ``batch`` of them in a step of one
    worker, with an average after ``every`` steps of each.
    """

    examples: int
    batch: int
    every: int


@dataclass
class Topic:
    """Weights that are averaged: the encoder's, for instance. ``steps`` is the length of the next
    round, 0 after the last one.
    """

    name: str
    weights: list[np.ndarray]
    terms: Terms
    members: tuple[int, ...] = ()
    rounds: list[Round] = field(default_factory=list)
    steps: int = 0
    moved_bytes: int = 0
    waited_s: float = 0.0
    """How long this worker's last weights waited for those of others."""


class Averaging:
    """``members`` are the workers of the next round; the first of them is the chief.

    ``connect`` returns a connected socket. Every method raises Lost when the other side has not
    been there for ``patience_s``.
    """

    def __init__(
        self, worker: int, connect: Callable[[], socket.socket], patience_s: float = 300
    ) -> None:
        self.worker, self._connect, self._patience_s = worker, connect, patience_s
        self.members: tuple[int, ...] = ()
        self._sending, self._closed = threading.Lock(), threading.Event()
        self._connection = self._connected()
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()

    @classmethod
    def from_environment(cls, worker: int) -> "Averaging | None":
        """None where no weights are averaged."""
        path = os.environ.get(VARIABLE)
        return None if path is None else cls(worker, _connector(path))

    @property
    def is_chief(self) -> bool:
        return self.members[:1] == (self.worker,)

    def enter(
        self, name: str, weights: Sequence[np.ndarray], terms: Terms, rounds: Sequence[Round] = ()
    ) -> Topic:
        """Wait until all workers are there; all begin with the weights of the one that has the most
        ``rounds`` behind it, the chief's where none has any.

        Where the others are further already, this returns with their weights and rounds.
        """
        topic = Topic(name, [np.asarray(one, np.float32) for one in weights], terms)
        topic.rounds = list(rounds)
        while True:
            try:
                self._enter(topic)
            except Lost:
                self._reconnect()
            else:
                return topic

    def average(self, topic: Topic, weights: Sequence[np.ndarray]) -> Round | None:
        """Replace ``topic.weights`` by the average of all workers' after a round, and return it.

        What travels is the difference to the last average, in float16. When the other side was
        lost meanwhile the round is lost, and the topic is where the others are: returns None.
        """
        try:
            return self._average(topic, weights)
        except Lost:
            self._reconnect()
            entered = self.enter(topic.name, topic.weights, topic.terms, topic.rounds)
            vars(topic).update(vars(entered))
            return None

    def barrier(self, name: str) -> bool:
        """Wait until all workers are there, or until this one has become the chief.

        Returns whether all are there.
        """
        was_chief = self.is_chief
        while True:
            try:
                self._send({"kind": "barrier", "topic": name, "chief": was_chief})
                while True:
                    answer, _ = self._receive()
                    self.members = tuple(answer["members"])
                    if answer["all"] or (self.is_chief and not was_chief):
                        return bool(answer["all"])
            except Lost:
                self._reconnect()

    def by_chief(self, work: Callable[[], None]) -> None:
        """Do ``work`` on the chief, or on its successor if it is lost; the others wait."""
        while True:
            if self.is_chief:
                work()
            if self.barrier("end"):
                return

    def close(self) -> None:
        """Say that this worker has finished, so that it does not count as lost."""
        self._closed.set()
        self._beating.join()
        with contextlib.suppress(Lost):
            self._send({"kind": "bye"})
        self._connection.close()

    def _enter(self, topic: Topic) -> None:
        header = {
            "kind": "enter",
            "topic": topic.name,
            "terms": vars(topic.terms),
            "rounds": [vars(one) for one in topic.rounds],
        }
        self._send(header, _joined(topic.weights, np.float32))
        answer, payload = self._receive()
        topic.weights = _split(payload, np.float32, topic.weights)
        topic.rounds = [Round.of(one) for one in answer["rounds"]]
        self._next(topic, answer)

    def _average(self, topic: Topic, weights: Sequence[np.ndarray]) -> Round:
        changed = [new - old for new, old in zip(weights, topic.weights, strict=True)]
        sent = _joined(changed, np.float16)
        self._send({"kind": "average", "topic": topic.name}, sent)
        answer, payload = self._receive()
        mean = _split(payload, np.float16, topic.weights)
        topic.weights = [
            old + one.astype(np.float32) for old, one in zip(topic.weights, mean, strict=True)
        ]
        done = Round.of(answer["done"])
        last = topic.rounds[-1:]
        if last and dataclasses.replace(last[0], times=1) == done:
            topic.rounds[-1] = dataclasses.replace(done, times=last[0].times + 1)
        else:
            topic.rounds.append(done)
        topic.moved_bytes += len(sent) + len(payload)
        topic.waited_s = answer["waited"]
        self._next(topic, answer)
        return done

    def _next(self, topic: Topic, answer: dict[str, Any]) -> None:
        topic.steps = answer["steps"]
        topic.members = self.members = tuple(answer["members"])

    def _connected(self) -> socket.socket:
        """Says hello over a new connection."""
        end = time.monotonic() + self._patience_s
        while True:
            try:
                connection = self._connect()
                connection.settimeout(SILENCE_S)
                connection.sendall(_encoded({"kind": "hello", "worker": self.worker}))
            except OSError as error:
                if time.monotonic() > end:
                    raise Lost(str(error)) from None
                self._closed.wait(RETRY_S)
            else:
                return connection

    def _reconnect(self) -> None:
        with self._sending:
            self._connection.close()
            self._connection = self._connected()

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_S):
            with contextlib.suppress(Lost):  # whoever waits for an answer connects again
                self._send({"kind": "beat"})

    def _send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        try:
            with self._sending:
                self._connection.sendall(_encoded(header, payload))
        except OSError as error:
            raise Lost(str(error)) from None

    def _receive(self) -> tuple[dict[str, Any], bytes]:
        while True:
            header, payload = LENGTHS.unpack(self._exactly(LENGTHS.size))
            message, data = json.loads(self._exactly(header)), self._exactly(payload)
            if message.get("kind") != "beat":
                return message, data

    def _exactly(self, count: int) -> bytes:
        found = bytearray(count)
        view = memoryview(found)
        while view:
            try:
                got = self._connection.recv_into(view)
            except OSError as error:
                raise Lost(str(error)) from None
            if not got:
                raise Lost("the connection was closed")
            view = view[got:]
        return bytes(found)


def start_heartbeat(worker: int) -> None:
    """Where the environment has a socket for it: say in a thread that this program is alive."""
    path = os.environ.get(HEARTBEAT)
    if path is not None:
        connect = _connector(path)
        threading.Thread(target=_beat_forever, args=(worker, connect), daemon=True).start()


def _beat_forever(worker: int, connect: Callable[[], socket.socket]) -> None:
    while True:
        with contextlib.suppress(OSError), connect() as connection:
            connection.settimeout(BEAT_S)
            connection.sendall(_encoded({"kind": "hello", "worker": worker}))
            while _is_open(connection):
                connection.sendall(_encoded({"kind": "beat"}))
        time.sleep(RETRY_S)


def _is_open(connection: socket.socket) -> bool:
    """Waits for the other side's beat, or as long; nobody else would read it."""
    try:
        return bool(connection.recv(1 << 12))
    except TimeoutError:
        return True


def _connector(path: str) -> Callable[[], socket.socket]:
    """However long the path is, and wherever the program goes."""
    folder, name = os.path.split(path)
    at = os.open(folder or ".", os.O_PATH | os.O_DIRECTORY)
    return lambda: _connected_to(f"/proc/self/fd/{at}/{name}")


def _connected_to(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def _encoded(header: dict[str, Any], payload: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return LENGTHS.pack(len(text), len(payload)) + text + payload


def _joined(arrays: Sequence[np.ndarray], kind: Any) -> bytes:
    return b"".join(np.ascontiguousarray(one, kind).tobytes() for one in arrays)


def _split(payload: bytes, kind: Any, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    found, at = [], 0
    values = np.frombuffer(payload, kind)
    for one in like:
        found.append(values[at : at + one.size].reshape(one.shape))
        at += one.size
    return found
