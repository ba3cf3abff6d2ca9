"""Whether several VMs are faster than one: when it is said, and with which numbers."""

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from gpuvm.runs.scaling import Scaling

Said = list[str]


def averages(
    times: Iterable[tuple[float, float]],
    *,
    every: int = 16,
    rounds: int = 6,
    waited: float | None = None,
) -> list[tuple[str, Mapping[str, Any]]]:
    """Rounds of each worker, who computes for one time and communicates for the other."""
    workers = list(times)
    return [
        (
            f"gpuvm-0{worker + 1}",
            {
                "event": "average",
                "t": 100.0 + worker * 7 + number * (computing + communicating),
                "phase": "train",
                "step": number * every * len(workers),
                "members": [*range(len(workers))],
                "computing_seconds": 0.0,
                "seconds": communicating,
            }
            | ({} if waited is None else {"waited_seconds": waited}),
        )
        for number in range(1, rounds + 1)
        for worker, (computing, communicating) in enumerate(workers)
    ]


def steps(
    step_s: float, communicating: float, *, until: int = 200, workers: int = 2, **more: Any
) -> list[tuple[str, Mapping[str, Any]]]:
    return [
        (
            f"gpuvm-0{worker + 1}",
            {
                "event": "step",
                "t": float(step),
                "phase": "train",
                "step": step,
                "step_seconds": step_s,
                "communication_seconds": communicating,
            }
            | more,
        )
        for step in range(10, until + 1, 10)
        for worker in range(workers)
    ]


def said(records: Iterable[tuple[str, Mapping[str, Any]]], workers: int = 2) -> Said:
    scaling = Scaling(workers)
    return [text for vm, record in records if (text := scaling.seen(vm, record))]


def test_local_sgd_that_does_not_pay() -> None:
    """A round is 32 steps in 5.5 s; alone a step takes 1.5 s / 16."""
    (text,) = said(averages([(1.5, 4.0), (1.5, 4.0)]))
    assert text == (
        "train: distribution does not pay: after 128 steps 2 VMs together take 171.9 ms a step "
        "(73 % of it communicating and waiting), gpuvm-01 alone would take about 93.8 ms; "
        "use fewer VMs, or try a larger --average-every"
    )


@pytest.mark.parametrize("communicating", [0.0, 0.4, 1.5])
def test_nothing_is_said_where_it_pays(communicating: float) -> None:
    assert said(averages([(1.6, communicating)] * 2)) == []
    assert said(steps(1.6 + communicating, communicating)) == []


def test_as_fast_as_one_vm_does_not_pay() -> None:
    assert len(said(steps(0.5, 0.25))) == 1
    assert said(steps(0.5, 0.2421875)) == []


def test_all_reduce() -> None:
    (text,) = said(steps(0.1046, 0.0820))
    assert text == (
        "train: distribution does not pay: after 100 steps 2 VMs together take 104.6 ms a step "
        "(78 % of it communicating and waiting), gpuvm-01 alone would take about 45.2 ms; "
        "use fewer VMs, or try --strategy local-sgd"
    )


def test_four_vms_may_pay_where_two_do_not() -> None:
    assert said(steps(0.1, 0.06, workers=4), workers=4) == []
    assert len(said(steps(0.1, 0.06))) == 1


def test_it_is_said_once_in_each_phase_and_not_before_the_hundredth_step() -> None:
    assert said(steps(0.1, 0.09, until=90)) == []
    both = [*steps(0.1, 0.09, phase="encoder"), *steps(0.1, 0.09, until=500)]
    assert [text.split(":")[0] for text in said(both)] == ["encoder", "train"]


def test_a_slow_vm_that_the_others_wait_for_is_named() -> None:
    """gpuvm-02 computes five times as long: gpuvm-01 alone is faster than both."""
    (text,) = said(averages([(1.0, 4.1), (5.0, 0.1)], waited=2.0))
    assert "mostly for gpuvm-02" in text
    assert "gpuvm-01 alone" in text
    assert "leave out gpuvm-02" in text


def test_a_worker_that_was_lost_is_not_waited_for() -> None:
    """From the third round on two of three workers are left, and their times count."""
    records = averages([(1.6, 4.0)] * 3, every=4, rounds=2)
    later = averages([(1.6, 4.0)] * 2, every=8, rounds=12)
    shifted = [(vm, {**record, "t": record["t"] + 1000}) for vm, record in later[4:]]
    (text,) = said([*records, *shifted], workers=3)
    assert "2 VMs together" in text


def test_a_lost_round_is_left_out() -> None:
    records = averages([(1.6, 0.4)] * 2, rounds=12)
    away = 300.0
    for number, (vm, record) in enumerate(records):
        if vm == "gpuvm-02" and record["step"] >= 64:
            lost = record["step"] == 64
            records[number] = (
                vm,
                {**record, "t": record["t"] + away} | ({"seconds": away} if lost else {}),
            )
    back = {"event": "rejoined", "t": 0.0, "phase": "train", "members": [0, 1]}
    records.insert(3, ("gpuvm-02", back))
    assert said(records) == []


def test_steps_between_two_averages_say_nothing() -> None:
    """Nothing has been communicated in them yet."""
    between = steps(0.05, 0.0, until=90)
    (text,) = said([*between, *averages([(1.6, 4.0)] * 2, rounds=8)])
    assert "175.0 ms" in text


@pytest.mark.parametrize(
    "record",
    [
        {"event": "step"},
        {"event": "step", "t": 1, "step": "x", "communication_seconds": 1},
        {"event": "average", "t": 1, "step": 200, "seconds": None},
        {"event": "average", "t": 1, "step": 200, "seconds": "nan", "members": "all"},
        {"event": ["average"], "t": 1},
        {"event": "average", "t": 1, "step": -(10**400), "seconds": 1.0, "phase": "other"},
        {"event": "step", "t": 1, "step": 50, "step_seconds": 1e308, "communication_seconds": 1e308}
        | {"phase": "other"},
        {"event": None},
        {},
    ],
)
def test_what_is_no_record_is_passed_over(record: dict[str, Any]) -> None:
    assert said([("gpuvm-01", record), *steps(0.1, 0.09)]) != []


@pytest.mark.parametrize(
    "times",
    [(0.0, 0.0), (float("nan"), 1.0), (float("inf"), float("inf")), (1.0, 2.0), (-1.0, -2.0)],
)
def test_times_that_cannot_be_say_nothing(times: tuple[float, float]) -> None:
    assert said(steps(*times, until=2000)) == []


def test_a_step_that_no_float_counts_is_none() -> None:
    much = 10**400
    wild = [
        (f"gpuvm-0{n}", {**record, "step": much, "t": 1e308})
        for n in (1, 2)
        for record in (steps(0.1, 0.09)[0][1], averages([(1.0, 2.0)])[0][1])
    ]
    assert said(wild * 3) == []


def test_programs_beside_one_another_never_communicate() -> None:
    alone = {"event": "step", "t": 1.0, "phase": "train", "step": 500, "step_seconds": 0.1}
    assert said([(f"gpuvm-0{n}", alone) for n in (1, 2)] * 10) == []
    assert said(steps(0.1, 0.09, workers=1), workers=1) == []


def test_several_threads_say_it_once() -> None:
    scaling, found = Scaling(8), list[str]()

    def follow(worker: int) -> None:
        for vm, record in steps(0.1, 0.0999, workers=8):
            if vm == f"gpuvm-0{worker + 1}" and (text := scaling.seen(vm, record)):
                found.append(text)

    threads = [threading.Thread(target=follow, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1
