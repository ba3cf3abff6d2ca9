"""The steps of workers in lockstep, where a checkpoint is continued by more or fewer of them."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from common.deal import Round
from common.lockstep import Lockstep

EXAMPLES, BATCH = 60, 4


def _worker(worker: int, workers: int, rounds: tuple[Round, ...] = ()) -> Lockstep:
    optimizer = SimpleNamespace(iterations=SimpleNamespace(assign=lambda _: None))
    return Lockstep(
        worker,
        workers,
        optimizer,
        total=EXAMPLES,
        steps=100,
        batch=BATCH,
        seed=1,
        rounds=rounds,
    )


def _train(workers: int, stop: int, rounds: tuple[Round, ...]) -> tuple[list[Any], list[Round]]:
    """The examples that all of them use until ``stop``, and the rounds then."""
    used: list[Any] = []
    ends: list[list[Round]] = []
    for worker in range(workers):
        one = _worker(worker, workers, rounds)
        done = one.done
        for call in one.calls(lambda examples, _: tuple(examples), stop, 10):
            used += call.batch
            done = call.done
        ends.append(one.rounds(done))
    assert all(end == ends[0] for end in ends)
    return used, ends[0]


@pytest.mark.parametrize("before", [1, 2, 3])
@pytest.mark.parametrize("after", [1, 2, 3, 4])
@pytest.mark.parametrize("stop", [6, 12, 18, 24])
def test_every_example_is_used_once_an_epoch(before: int, after: int, stop: int) -> None:
    first, rounds = _train(before, stop, ())
    # The shares of the second number of workers differ; they are even again after some epochs.
    second, _ = _train(after, 60, tuple(rounds))
    counts = Counter([*first, *second])
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len(counts) == EXAMPLES


def test_a_resumed_worker_goes_on_as_if_it_had_not_stopped() -> None:
    whole, rounds = _train(2, 24, ())
    first, half = _train(2, 12, ())
    second, resumed = _train(2, 24, tuple(half))
    assert Counter(first) + Counter(second) == Counter(whole)
    assert sum(one.used_steps for one in resumed) == sum(one.used_steps for one in rounds) == 24
