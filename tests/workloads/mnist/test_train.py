"""mnist: it learns, resumes to the same weights, and names its data set."""

import json
from pathlib import Path

import numpy as np
import pytest
from digits_files import Arrays, digits_file
from kill_at_record import kill_at
from programs import Program, all_succeed, of, records, score

mnist = Program("mnist")
TINY = ("--epochs", "4", "--device", "cpu")

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mnist")
    mnist.by_hand(out, *TINY)
    return out


def test_it_learns(whole: Path) -> None:
    found = records(whole)
    assert score(found, "accuracy") >= 0.95
    assert score(found, "accuracy_commonest") < 0.2
    assert of(found, "step")[-1]["loss"] < of(found, "step")[0]["loss"] / 4
    assert of(found, "start")[0]["device"] == "/device:CPU:0"


def test_results_name_the_digits_data_set(whole: Path) -> None:
    results = json.loads((whole / "results.json").read_text())
    assert "scikit-learn's digits, 8 x 8 pixels" in results["notes"][0]
    assert all((whole / sample["image"]).exists() for sample in results["samples"])


def test_it_resumes_where_it_was_stopped(whole: Path, tmp_path: Path) -> None:
    mnist(tmp_path, *TINY, "--stop-after", "70")
    resumed = mnist(tmp_path, *TINY)
    ends = of(records(whole), "end")[-1], of(resumed, "end")[-1]
    assert ends[0]["weights_sha256"] == ends[1]["weights_sha256"]


def test_killed_run_resumes_from_its_checkpoint(whole: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "out", (*TINY, "--checkpoint-every", "5")
    kill_at(mnist, out, "checkpoint", *options)
    resumed = mnist(out, *options)
    assert of(resumed, "step")[0]["step"] > 5
    ends = of(records(whole), "end")[-1], of(resumed, "end")[-1]
    assert ends[0]["weights_sha256"] == ends[1]["weights_sha256"]


def test_the_first_step_has_no_rate(whole: Path) -> None:
    first, *others = of(records(whole), "step")
    assert "step_seconds" not in first
    assert all(record["step_seconds"] > 0 for record in others)


def test_two_halves_are_one_whole(tmp_path: Path) -> None:
    options = ("--epochs", "1", "--device", "cpu")
    alone = mnist(tmp_path / "alone", *options)
    all_succeed(mnist.together(tmp_path, *options, workers=2))
    losses = [r["loss"] for r in of(records(tmp_path / "1"), "step")]
    assert losses == pytest.approx([r["loss"] for r in of(alone, "step")], rel=1e-3)


def test_options_that_are_measured_work(tmp_path: Path) -> None:
    """Many CPUs compute float16 a hundred times as slowly as float32, so few steps must do."""
    options = ("--device", "cpu", "--stop-after", "20")
    assert score(mnist(tmp_path / "xla", *options, "--xla"), "accuracy") > 0.5
    assert score(mnist(tmp_path / "mixed", *options, "--mixed-precision"), "accuracy") > 0.5


def test_an_npz_of_the_right_layout_is_read(tmp_path: Path) -> None:
    file = digits_file(tmp_path / "mnist.npz")
    found = mnist(tmp_path / "out", "--data", str(file), "--epochs", "1")
    assert of(found, "end")[0]["ok"] is True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((64, 28, 27), np.uint8)}, "x_train has the shape (64, 28, 27)"),
        ({"x_train": np.zeros((64, 28, 28), np.float32)}, "x_train holds float32, not uint8"),
        ({"y_test": np.zeros(3, int)}, "y_test has the shape (3,), not (20,)"),
        ({"y_train": np.full(64, 11)}, "y_train must hold digits from 0 to 9"),
        ({}, "no array 'x_train'"),
        (None, "no such file"),
    ],
)
def test_bad_data_is_one_line(tmp_path: Path, changes: Arrays | None, message: str) -> None:
    file = tmp_path / "mnist.npz"
    if changes:
        digits_file(file, **changes)
    elif changes is not None:
        np.savez(file, other=np.zeros(3))
    reported = mnist.refused(tmp_path / "out", "--data", str(file))
    assert message in reported
    assert "Traceback" not in reported


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    file = digits_file(tmp_path / "mnist.npz")
    file.write_bytes(file.read_bytes()[:9000])
    reported = mnist.refused(tmp_path / "out", "--data", str(file))
    assert "mnist.npz: not a valid .npz file" in reported
    assert len(reported.splitlines()) == 1


def test_a_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    reported = mnist.refused(tmp_path, "--batch-size", "2000")
    assert "--batch-size 2000 is more than there are images to train on: 1437" in reported


def test_another_file_is_another_run(tmp_path: Path) -> None:
    """Of the same shape and at the same place."""
    file = digits_file(tmp_path / "mnist.npz")
    options = ("--epochs", "1", "--device", "cpu", "--stop-after", "1")
    mnist(tmp_path / "out", "--data", str(file), *options)
    digits_file(file, y_train=np.arange(64) % 9)
    reported = mnist.refused(tmp_path / "out", "--data", str(file), *options)
    assert "belongs to another run" in reported


def test_missing_gpu_is_an_error(tmp_path: Path) -> None:
    assert "sees no GPU" in mnist.refused(tmp_path, "--device", "gpu")
