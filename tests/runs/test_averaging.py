"""The averages of workers that come and go, over real sockets."""

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from common.averaging import LENGTHS, Averaging, Lost, Terms, Topic
from common.deal import Round
from gpuvm.runs.averaging import Averager, Header

TERMS = Terms(examples=24, batch=2, every=4)


class Link:
    """One worker's end and the operator's, in one process."""

    def __init__(self, averager: Averager, worker: int) -> None:
        self._averager, self._worker = averager, worker
        self._socket, own = socket.socketpair()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        ends = [own]
        self.worker = Averaging(worker, lambda: ends.pop() if ends else _refused(), patience_s=0)

    def send(self, header: Header, payload: bytes = b"") -> None:
        text = json.dumps(header).encode()
        self._socket.sendall(LENGTHS.pack(len(text), len(payload)) + text + payload)

    def cut(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._socket.close()
        self.worker.close()

    def _read(self) -> None:
        with self._socket.makefile("rb") as messages:
            while lengths := messages.read(LENGTHS.size):
                header, payload = (messages.read(n) for n in LENGTHS.unpack(lengths))
                message = json.loads(header)
                if message["kind"] == "hello":
                    self._averager.connected(self._worker, self)
                else:
                    self._averager.received(self._worker, message, payload)
        self._averager.lost(self._worker)


def _refused() -> socket.socket:
    raise ConnectionRefusedError


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def linked(averager: Averager, workers: int) -> list[Link]:
    return [Link(averager, worker) for worker in range(workers)]


def enter(links: Sequence[Link], threads: ThreadPoolExecutor, name: str = "train") -> list[Topic]:
    def one(link: Link) -> Topic:
        return link.worker.enter(name, [np.full(3, link.worker.worker + 1.0)], TERMS)

    return list(threads.map(one, links))


def averaged(
    links: Sequence[Link], topics: Sequence[Topic], threads: ThreadPoolExecutor
) -> list[Future[Round | None]]:
    """Each worker adds its number to the weights, and asks for the average."""
    return [
        threads.submit(
            link.worker.average, topic, [topic.weights[0] + np.float32(link.worker.worker)]
        )
        for link, topic in zip(links, topics, strict=True)
    ]


def test_all_begin_with_the_weights_of_the_chief_and_go_on_with_the_average(
    threads: ThreadPoolExecutor,
) -> None:
    links = linked(Averager(range(3)), 3)
    topics = enter(links, threads)
    assert [topic.weights[0].tolist() for topic in topics] == [[1.0] * 3] * 3
    assert [(topic.members, topic.steps) for topic in topics] == [((0, 1, 2), 4)] * 3
    rounds = [one.result() for one in averaged(links, topics, threads)]
    assert rounds == [Round((0, 1, 2), (0, 1, 2), 4)] * 3
    assert [topic.weights[0].tolist() for topic in topics] == [[2.0] * 3] * 3
    assert [topic.steps for topic in topics] == [0] * 3
    for link in links:
        link.cut()


def test_a_lost_worker_is_missing_from_the_average_and_its_work_is_not_counted(
    threads: ThreadPoolExecutor,
) -> None:
    links = linked(Averager(range(3)), 3)
    topics = enter(links, threads)
    waiting = averaged(links[:2], topics[:2], threads)
    links[2].cut()
    assert [one.result() for one in waiting] == [Round((0, 1, 2), (0, 1), 4)] * 2
    assert topics[0].weights[0].tolist() == [1.5] * 3
    assert (topics[0].members, topics[0].steps) == ((0, 1), 2)
    with pytest.raises(Lost):
        links[2].worker.barrier("end")
    for link in links[:2]:
        link.cut()


def test_one_that_comes_back_joins_after_the_next_average(threads: ThreadPoolExecutor) -> None:
    averager = Averager(range(2))
    links = linked(averager, 2)
    topics = enter(links, threads)
    links[1].cut()
    again = Link(averager, 1)
    joining = threads.submit(enter, [again], threads)
    while averager._topics["train"].entered.keys() != {1}:
        threading.Event().wait(0.01)
    (first,) = averaged(links[:1], topics[:1], threads)
    assert first.result() == Round((0, 1), (0,), 4)
    (joined,) = joining.result()
    assert (joined.members, joined.rounds, joined.steps) == ((0, 1), [first.result()], 4)
    assert joined.weights[0].tolist() == topics[0].weights[0].tolist()
    for link in (links[0], again):
        link.cut()


def test_when_all_are_lost_one_that_comes_back_goes_on_from_the_last_average(
    threads: ThreadPoolExecutor,
) -> None:
    averager = Averager(range(1))
    (link,) = linked(averager, 1)
    topics = enter([link], threads)
    averaged([link], topics, threads)[0].result()
    link.cut()
    again = Link(averager, 0)
    (topic,) = enter([again], threads)
    assert topic.weights[0].tolist() == topics[0].weights[0].tolist()
    assert topic.rounds == [Round((0,), (0,), 4), Round((0,), (), 4)]
    again.cut()


def test_who_comes_late_gets_the_weights_of_what_is_over(threads: ThreadPoolExecutor) -> None:
    averager = Averager(range(2))
    links = linked(averager, 2)
    first = enter(links, threads, "encoder")
    while first[0].steps:
        for one in averaged(links, first, threads):
            one.result()
    links[1].cut()
    again = Link(averager, 1)
    (late,) = enter([again], threads, "encoder")
    assert late.steps == 0
    assert late.weights[0].tolist() == first[0].weights[0].tolist()
    for link in (links[0], again):
        link.cut()


def test_all_wait_for_a_worker_that_has_not_started_unless_it_is_given_up(
    threads: ThreadPoolExecutor,
) -> None:
    averager = Averager(range(2))
    (link,) = linked(averager, 1)
    waiting = threads.submit(enter, [link], threads)
    assert not waiting.done()
    averager.lost(1)
    (topic,) = waiting.result()
    assert topic.members == (0,)
    link.cut()


def test_a_barrier_lets_all_go_at_once_or_names_another_chief(
    threads: ThreadPoolExecutor,
) -> None:
    links = linked(Averager(range(3)), 3)
    enter(links, threads)
    assert [link.worker.is_chief for link in links] == [True, False, False]
    waiting = [threads.submit(link.worker.barrier, "end") for link in links[1:]]
    links[0].cut()
    assert waiting[0].result() is False
    assert links[1].worker.is_chief
    assert threads.submit(links[1].worker.barrier, "end").result() is True
    assert waiting[1].result() is True
    for link in links[1:]:
        link.cut()
