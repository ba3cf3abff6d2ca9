"""Averages the weights of a run's workers, which need no connection to each other.

Local SGD: each worker trains by itself for a round, and continues with the average of all workers'
weights (McMahan et al. 2017, arXiv:1602.05629; Stich 2019, arXiv:1805.09767). A worker that is lost
is missing from the next average, and one that comes back joins after it; nobody else has to stop.

This is the side of the operator: a ``Channel`` for each worker, whose messages are those of
workloads/README.md.
"""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from gpuvm.errors import GuestError

Header = dict[str, Any]


class InvalidMessage(GuestError):
    """What a worker sent is no message."""


class Channel(Protocol):
    """Sends to one worker. Raises OSError when that is lost."""

    def send(self, header: Header, payload: bytes = b"") -> None: ...


class Observer:
    """What is done when workers come and go; this does nothing. It must return at once."""

    def joined(self, worker: int) -> None:
        """It takes part from the next round on, after it was lost."""

    def lost(self, worker: int, steps: int, why: str) -> None:
        """It is missing without having finished; its last ``steps`` are lost, or fewer."""


@dataclass
class _Topic:
    """``weights`` are the last average, ``members`` and ``steps`` those of the current round, and
    ``sent`` the differences of the workers that have finished it, with the time of their arrival.
    """

    terms: dict[str, int] = field(default_factory=dict)
    weights: "np.ndarray | None" = None
    rounds: list[Header] = field(default_factory=list)
    members: tuple[int, ...] = ()
    steps: int = 0
    entered: dict[int, tuple[Header, bytes]] = field(default_factory=dict)
    sent: dict[int, tuple[bytes, float]] = field(default_factory=dict)

    def used(self) -> int:
        """The examples that the rounds have used."""
        steps = (len(one["by"]) * one["steps"] * one["times"] for one in self.rounds)
        return self.terms["batch"] * int(sum(steps))

    def end_round(self, by: tuple[int, ...]) -> Header:
        done = {"members": self.members, "by": by, "steps": self.steps, "times": 1}
        last = self.rounds[-1] if self.rounds else {}
        if {**last, "times": 1} == done:
            last["times"] += 1
        else:
            self.rounds.append(dict(done))
        return done

    def begin_round(self, members: tuple[int, ...]) -> None:
        left = max(0, self.terms["examples"] - self.used())
        each = -(-left // (max(1, len(members)) * self.terms["batch"]))
        self.members, self.steps = members, min(self.terms["every"], each)


class Averager:
    """``workers`` begin together; ``members`` are those of the current round, and ``chief`` is the
    last of them that had to write the results.

    Its methods may be called from several threads.
    """

    def __init__(self, workers: Iterable[int], observer: Observer = Observer()) -> None:  # noqa: B008
        self._expected, self._observer = set(workers), observer
        self.chief = min(self._expected, default=0)
        self._lock = threading.RLock()
        self._ended: set[int] = set()
        self._channels: dict[int, Channel] = {}
        self._members: set[int] = set()
        self._joining: set[int] = set()
        self._topics: dict[str, _Topic] = {}
        self._barriers: dict[str, dict[int, bool]] = {}

    @property
    def members(self) -> tuple[int, ...]:
        return tuple(sorted(self._members))

    def connected(self, worker: int, channel: Channel) -> None:
        with self._lock:
            self._channels[worker] = channel
            self._ended.discard(worker)
            if worker in self._expected:
                self._expected.discard(worker)
                self._members.add(worker)
            else:
                self._joining.add(worker)

    def received(self, worker: int, header: Header, payload: bytes) -> None:
        """Take note of a message of a worker that is connected.

        Raises InvalidMessage: it comes from a program that may be anybody's.
        """
        with self._lock:
            try:
                self._receive(worker, header, payload)
            except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
                raise InvalidMessage(f"worker {worker} sent no valid message: {error!r}") from None

    def _receive(self, worker: int, header: Header, payload: bytes) -> None:
        kind = header["kind"]
        if kind == "enter":
            self._enter(worker, header, payload)
        elif kind == "average":
            topic = self._topics[header["topic"]]
            if topic.weights is None or len(payload) != 2 * topic.weights.size:
                raise ValueError(f"{len(payload)} bytes")
            topic.sent[worker] = payload, time.monotonic()
            self._average(header["topic"])
        elif kind == "barrier":
            self._barriers.setdefault(header["topic"], {})[worker] = bool(header["chief"])
            self._admit_to_barrier(worker)
            self._barrier(header["topic"])
        elif kind == "bye":
            self._ended.add(worker)

    def lost(self, worker: int, why: str = "its connection ended") -> None:
        """The worker has gone, or will not come: go on without it."""
        with self._lock:
            self._channels.pop(worker, None)
            self._joining.discard(worker)
            self._expected.discard(worker)
            for topic in self._topics.values():
                topic.entered.pop(worker, None)
                topic.sent.pop(worker, None)
            for waiting in self._barriers.values():
                waiting.pop(worker, None)
            if worker in self._members:
                self._members.discard(worker)
                if worker not in self._ended:
                    self._choose_chief()
                    current = [topic for topic in self._topics.values() if topic.steps]
                    self._observer.lost(worker, current[-1].steps if current else 0, why)
            for name in tuple(self._topics):
                self._begin(name)
                self._average(name)
            for name in tuple(self._barriers):
                self._barrier(name)
            self._take_over()

    def _enter(self, worker: int, header: Header, payload: bytes) -> None:
        _check_entering(header, payload)
        topic = self._topics.setdefault(header["topic"], _Topic())
        if topic.weights is None:
            topic.entered[worker] = header, payload
            self._begin(header["topic"])
        elif worker in self._joining and topic.steps:
            topic.entered[worker] = header, payload
            self._take_over()
        else:  # it catches up with what is over
            self._welcome(topic, worker)

    def _begin(self, name: str) -> None:
        """Begin a topic once all members are there, with the weights of the furthest."""
        topic = self._topics[name]
        if self._expected or topic.weights is not None or not topic.entered:
            return
        if not self._members <= topic.entered.keys():
            return
        self._admit(topic)
        # Where workers enter with a checkpoint's rounds, or their own when the operator was away
        furthest = max(self.members, key=lambda one: _rounds(topic.entered[one][0]))
        header, payload = topic.entered[furthest]
        topic.terms = header["terms"]
        topic.rounds = [_round(one) for one in header["rounds"]]
        topic.weights = np.frombuffer(payload, np.float32).copy()
        topic.begin_round(self.members)
        topic.entered.clear()
        for worker in self.members:
            self._welcome(topic, worker)

    def _average(self, name: str) -> None:
        """Answer the members once all have finished the round, and let others join."""
        topic = self._topics[name]
        if topic.weights is None or not topic.sent or not self._members <= topic.sent.keys():
            return
        by = self.members
        now = time.monotonic()
        parts = [np.frombuffer(topic.sent[worker][0], np.float16) for worker in by]
        waited = {worker: round(now - topic.sent[worker][1], 6) for worker in by}
        mean = np.mean(np.stack(parts), axis=0, dtype=np.float32).astype(np.float16)
        topic.weights = topic.weights + mean.astype(np.float32)
        done = topic.end_round(by)
        topic.sent.clear()
        joined = self._admit(topic)
        topic.begin_round(self.members)
        for worker in by:
            answer = {"members": topic.members, "done": done, "steps": topic.steps}
            self._send(worker, {**answer, "waited": waited[worker]}, mean.tobytes())
        for worker in joined:
            self._welcome(topic, worker)

    def _take_over(self) -> None:
        """When all members have gone, those who wait go on from the last average."""
        for topic in self._topics.values():
            if not self._members and topic.weights is not None and topic.entered:
                joined = self._admit(topic)
                topic.end_round(())
                topic.begin_round(self.members)
                for worker in joined:
                    self._welcome(topic, worker)

    def _admit(self, topic: _Topic) -> list[int]:
        """Those who wait for this topic become members."""
        joined = sorted(self._joining & topic.entered.keys())
        for worker in joined:
            self._joining.discard(worker)
            self._members.add(worker)
            self._observer.joined(worker)
        if joined:
            topic.entered = {w: one for w, one in topic.entered.items() if topic.weights is None}
            self._choose_chief()
        return joined

    def _admit_to_barrier(self, worker: int) -> None:
        if worker in self._joining:
            self._joining.discard(worker)
            self._members.add(worker)
            self._choose_chief()
            self._observer.joined(worker)

    def _choose_chief(self) -> None:
        if self._members:
            self.chief = min(self._members)

    def _welcome(self, topic: _Topic, worker: int) -> None:
        weights = b"" if topic.weights is None else topic.weights.tobytes()
        answer = {"members": topic.members, "rounds": topic.rounds, "steps": topic.steps}
        self._send(worker, answer, weights)

    def _barrier(self, name: str) -> None:
        """All may go when all are there; the chief only comes after its work, which one that
        became the chief while it waited has still to do.
        """
        waiting, members = self._barriers[name], self.members
        is_whole = set(members) <= waiting.keys() and all(waiting[one] for one in members[:1])
        for worker in sorted(waiting):
            self._send(worker, {"members": members, "all": is_whole})
            if is_whole or (worker == members[0] and not waiting[worker]):
                del waiting[worker]

    def _send(self, worker: int, header: Header, payload: bytes = b"") -> None:
        """A worker that cannot be reached is reported by who reads from it."""
        try:
            self._channels[worker].send(header, payload)
        except (OSError, KeyError):
            return


def _check_entering(header: Header, payload: bytes) -> None:
    """Before it is kept: what is wrong must be said of the worker that sent it."""
    terms = header["terms"]
    for name in ("examples", "batch", "every"):
        if not isinstance(terms[name], int) or terms[name] < 1:
            raise ValueError(f"{name} is {terms[name]!r}")
    for one in header["rounds"]:
        _round(one)
    if len(payload) % 4:
        raise ValueError(f"{len(payload)} bytes")


def _round(one: Header) -> Header:
    members, by = (tuple(int(worker) for worker in one[name]) for name in ("members", "by"))
    return {"members": members, "by": by, "steps": int(one["steps"]), "times": int(one["times"])}


def _rounds(entering: Header) -> int:
    return sum(one["times"] for one in entering["rounds"])
