"""mnist and stock with local SGD: what becomes of them when a worker is lost."""

import signal
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
from averaging_server import serving
from digits_files import digits_file
from forked import Forked
from noted_examples import uses
from programs import TIMEOUT_S, Program, all_succeed, of, records, score

from gpuvm.runs.averaging import Averager

noted = Program("noted_examples")
COMMON = ("--device", "cpu", "--cpu-threads", "1", "--checkpoint-every", "40")
MNIST = (*COMMON, "--epochs", "6", "--batch-size", "4", "--average-every", "4")
STOCK = (
    *COMMON,
    *("--minutes", "1500", "--stocks", "20", "--no-xla"),
    *("--epochs", "3", "--batch-size", "60", "--average-every", "4"),
)

pytestmark = pytest.mark.tensorflow


def digests(folder: Path) -> set[str]:
    return {of(records(folder / w), "end")[-1]["weights_sha256"] for w in ("0", "1")}


@pytest.mark.parametrize(
    ("name", "score_of", "options"),
    [
        ("mnist", "accuracy", ("--epochs", "4")),
        ("stock", "mse_test", ("--minutes", "1500", "--stocks", "40", "--batch-size", "64")),
    ],
)
def test_two_workers_end_alike_and_where_one_does(
    tmp_path: Path, name: str, score_of: str, options: tuple[str, ...]
) -> None:
    program, options = Program(name), ("--device", "cpu", "--cpu-threads", "1", *options)
    alone = score(program(tmp_path / "alone", *options), score_of)
    with serving(tmp_path, 2) as (_, environments):
        all_succeed(
            [
                program.start(tmp_path / str(worker), *options, **environment)
                for worker, environment in enumerate(environments)
            ]
        )
    assert len(digests(tmp_path)) == 1
    found = score(records(tmp_path / "0"), score_of)
    assert not (tmp_path / "1" / "results.json").exists()
    assert found > alone - 0.03 if name == "mnist" else found < 2 * alone
    assert of(records(tmp_path / "1"), "average")[-1]["members"] == [0, 1]


@pytest.mark.parametrize(
    ("name", "options", "killed_at", "stopped_at", "expected"),
    [
        ("mnist", MNIST, "3,1", "4,1", Counter(dict.fromkeys(range(64), 6))),
        ("stock", STOCK, "3,0", "4,0", Counter(dict.fromkeys(range(1200), 3))),
    ],
)
def test_a_killed_worker_that_is_started_again_goes_on_with_the_others(
    tmp_path: Path,
    name: str,
    options: tuple[str, ...],
    killed_at: str,
    stopped_at: str,
    expected: Counter[int],
) -> None:
    """The others are stopped in the round after, else they might finish without it."""

    def at(signal_name: str, call: str) -> dict[str, str]:
        return {"NOTED": name, "NOTED_SIGNAL": f"{signal_name}@{call}"}

    if name == "mnist":
        options = (*options, "--data", small_digits(tmp_path))
    with serving(tmp_path, 2) as (averager, (first, second)):
        chief = noted.start(tmp_path / "0", *options, **first, **at("SIGSTOP", stopped_at))
        killed = noted.start(tmp_path / "1", *options, **second, **at("SIGKILL", killed_at))
        was_killed(killed)
        again = noted.start(tmp_path / "1", *options, **second, NOTED=name)
        try:
            while not (is_stopped(chief) and 1 in {*averager.members, *waiting(averager)}):
                assert again.poll() is None, again.communicate()
                threading.Event().wait(0.01)
        finally:
            chief.send_signal(signal.SIGCONT)
        all_succeed([chief, again])
    assert len(digests(tmp_path)) == 1
    assert uses(tmp_path, 2) == expected
    members = [one["members"] for one in of(records(tmp_path / "0"), "average")]
    assert members[3] == [0]
    assert members[-1] == [0, 1]


def test_the_chief_is_killed_and_another_finishes(tmp_path: Path) -> None:
    options = (*MNIST, "--data", small_digits(tmp_path))
    with serving(tmp_path, 2) as (_, (first, second)):
        killed = noted.start(
            tmp_path / "0", *options, **first, NOTED="mnist", NOTED_SIGNAL="SIGKILL@3,1"
        )
        other = noted.start(tmp_path / "1", *options, **second, NOTED="mnist")
        was_killed(killed)
        all_succeed([other])
    assert (tmp_path / "1" / "results.json").is_file()
    assert uses(tmp_path, 2) == Counter(dict.fromkeys(range(64), 6))


def is_stopped(process: Forked) -> bool:
    return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED


def waiting(averager: Averager) -> set[int]:
    topic = averager._topics.get("train")
    return set() if topic is None else set(topic.entered)


def small_digits(folder: Path) -> str:
    """64 to train on, of 8 x 8 pixels."""
    draw = np.random.default_rng(1)
    train, test = (draw.integers(0, 255, (n, 8, 8), np.uint8) for n in (64, 20))
    return str(digits_file(folder / "mnist.npz", x_train=train, x_test=test))


def was_killed(process: Forked) -> None:
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == -signal.SIGKILL, errors
