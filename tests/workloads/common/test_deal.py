"""Every example once in each epoch, whoever leaves and joins."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.deal import Deal, Round

MEMBERS = st.sets(st.integers(0, 5), min_size=1).map(lambda found: tuple(sorted(found)))


@settings(max_examples=150, deadline=None)
@given(
    total=st.integers(6, 60),
    batch=st.integers(1, 7),
    seed=st.integers(0, 99),
    begin=MEMBERS,
    rounds=st.lists(st.tuples(st.integers(1, 9), st.sets(st.integers(0, 5)), MEMBERS), max_size=8),
)
def test_every_example_is_used_once_in_each_epoch(
    total: int,
    batch: int,
    seed: int,
    begin: tuple[int, ...],
    rounds: list[tuple[int, set[int], tuple[int, ...]]],
) -> None:
    """At any time the uses of any two examples differ by the epochs that members are apart, and
    what is outstanding makes up for it.
    """
    deal, used = Deal(total, batch, seed, begin), Counter[int]()
    for steps, lost, members in rounds:
        by = tuple(one for one in deal.members if one not in lost)
        for worker in by:
            used.update(deal.steps(worker, steps).ravel().tolist())
        deal.after(Round(deal.members, by, steps), members)
    rest, epoch = deal._outstanding()
    used.update(rest.tolist())
    assert {used[example] for example in range(total)} == ({epoch + 1} if epoch >= 0 else {0})


def test_a_worker_needs_only_its_own_examples_until_the_members_change() -> None:
    deal = Deal(100, 4, 1, (0, 1))
    before = deal.own(1)
    assert len(before) == 50
    assert set(deal.steps(1, 60).ravel()) <= set(before)
    deal.after(Round((0, 1), (0,), 10), (0,))
    assert len(deal.own(0)) == 100


def test_the_work_of_a_lost_worker_is_dealt_again() -> None:
    deal = Deal(8, 1, 1, (0, 1))
    lost = set(deal.steps(1, 2).ravel())
    done = set(deal.steps(0, 2).ravel())
    deal.after(Round((0, 1), (0,), 2), (0,))
    rest = deal.steps(0, 6).ravel()
    assert lost <= set(rest)
    assert set(rest) == set(range(8)) - done


def test_the_work_of_a_worker_that_is_back_at_once_is_dealt_again() -> None:
    """However its rounds are written down: one by one, or as so many."""
    one, other = (Deal(16, 1, 1, (0, 1)) for _ in range(2))
    used = Counter[int]()
    for _ in range(2):
        used.update(one.steps(0, 3).ravel().tolist())
        one.after(Round((0, 1), (0,), 3), (0, 1))
    other.after(Round((0, 1), (0,), 3, times=2), (0, 1))
    for worker in (0, 1):
        rest = one.steps(worker, 5)
        np.testing.assert_array_equal(rest, other.steps(worker, 5))
        used.update(rest.ravel().tolist())
    assert used == Counter(range(16))


def test_all_workers_compute_the_same_deal() -> None:
    one, other = (Deal(50, 3, 7, (0, 2)) for _ in range(2))
    for deal in (one, other):
        deal.after(Round((0, 2), (0, 2), 4), (0, 1, 2))
    np.testing.assert_array_equal(one.steps(1, 30), other.steps(1, 30))


def test_fewer_examples_than_workers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"examples \(2\) than workers \(3\)"):
        Deal(2, 1, 1, (0, 1, 2))
