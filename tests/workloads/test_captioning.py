"""captioning.py by itself: it learns, it resumes, it is honest, and its distribution is real."""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "workloads" / "captioning.py"
TINY = ("--scenes", "192", "--encoder-steps", "6", "--steps", "12", "--batch-size", "48")
WORKERS = 4

pytestmark = pytest.mark.tensorflow


def _run(out: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(PROGRAM), "--out", str(out), *arguments]
    clean = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return subprocess.Popen(
        command, env=clean | environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _alone(out: Path, *arguments: str) -> list[dict[str, Any]]:
    process = _run(out, *arguments)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return _records(out)


def _together(
    out: Path, *arguments: str, workers: int = WORKERS, absent: int = 0
) -> list["subprocess.Popen[str]"]:
    """Starts the workers but for the last ``absent``; their ports are chosen all at once."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("", 0))) for _ in range(workers)]
        ports = [one.getsockname()[1] for one in sockets]
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    started = []
    for index in range(workers - absent):
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        started.append(_run(out / str(index), *arguments, TF_CONFIG=config))
    return started


def _all_succeed(processes: list["subprocess.Popen[str]"]) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors


def _records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines()]


def _of(records: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [record for record in records if record["event"] == event]


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of four workers, for several questions."""
    out = tmp_path_factory.mktemp("four")
    _all_succeed(_together(out, *TINY))
    return out


def test_four_quarters_are_one_whole(four: Path, tmp_path: Path) -> None:
    """Four workers with a quarter of the batch each give the loss of one with all of it."""
    one = _of(_alone(tmp_path / "one", *TINY), "step")
    of_four = _of(_records(four / "0"), "step")
    seen = [(a["step"], a["loss"], b["loss"]) for a, b in zip(one, of_four, strict=True)]
    assert any(step == 10 for step, _, _ in seen)
    for step, alone, together in seen:
        assert alone == pytest.approx(together, rel=1e-4), step


def test_all_workers_end_with_the_same_weights(four: Path) -> None:
    digests = {_of(_records(four / str(i)), "end")[0]["weights_sha256"] for i in range(WORKERS)}
    assert len(digests) == 1


def test_one_workers_shard_moves_every_workers_weights(four: Path, tmp_path: Path) -> None:
    _all_succeed(_together(tmp_path, *TINY, "--perturb-shard", "3"))
    before, after = (
        [_of(_records(root / str(i)), "end")[0]["weights_sha256"] for i in range(WORKERS)]
        for root in (four, tmp_path)
    )
    assert len(set(after)) == 1
    assert all(a != b for a, b in zip(before, after, strict=True))


def test_shards_are_disjoint_and_together_everything(four: Path) -> None:
    shards = [(four / str(i) / "shard_ids.txt").read_text().split() for i in range(WORKERS)]
    ids = [one for shard in shards for one in shard]
    assert len(ids) == len(set(ids)) == 192


def test_a_worker_that_never_comes_is_named(tmp_path: Path) -> None:
    (process,) = _together(tmp_path, *TINY, "--start-deadline-s", "4", workers=2, absent=1)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "missing: 127.0.0.1:" in errors


def test_a_worker_that_dies_ends_the_others(tmp_path: Path) -> None:
    endless = ("--scenes", "192", "--encoder-steps", "100000", "--batch-size", "48")
    first, second = _together(tmp_path, *endless, workers=2)
    _wait_for(tmp_path / "1" / "timings.jsonl", '"step"', second)
    second.kill()
    second.communicate()
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 3, errors
    assert "another worker went away" in errors.splitlines()[-1]


def test_it_learns_and_resumes(tmp_path: Path) -> None:
    """Stopped half-way and started again it ends with the weights of one that went through."""
    longer = (*TINY[:4], "--steps", "40", *TINY[6:])
    whole = _alone(tmp_path / "whole", *longer)
    losses = [record["loss"] for record in _of(whole, "step") if record["phase"] == "train"]
    assert losses[-1] < losses[0]
    half = tmp_path / "half"
    _alone(half, *longer, "--stop-after", "15")
    resumed = _alone(half, *longer)
    ends = [_of(records, "end")[-1]["weights_sha256"] for records in (whole, resumed)]
    assert ends[0] == ends[1]


ONE_DOG = (
    '{"images": [{"id": 1, "file_name": "a.jpg"}],'
    ' "annotations": [{"image_id": 1, "caption": "a dog"}]}'
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no captions.json in it"),
        ("{", "not JSON"),
        ('{"images": [], "annotations": []}', "'annotations' is missing or empty"),
        (ONE_DOG, "image 'a.jpg' is not there"),
    ],
)
def test_bad_data_is_one_line(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "captions.json").write_text(content)
    process = _run(tmp_path / "out", "--data", str(tmp_path))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said in errors
    assert len(errors.strip().splitlines()) == 1


def test_a_gpu_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    process = _run(tmp_path, *TINY, "--device", "gpu", CUDA_VISIBLE_DEVICES="-1")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "sees no GPU" in errors.splitlines()[-1]


def _wait_for(file: Path, text: str, process: "subprocess.Popen[str]") -> None:
    from threading import Event

    tick = Event()
    for _ in range(600):
        if file.exists() and text in file.read_text():
            return
        assert process.poll() is None
        tick.wait(0.1)
    pytest.fail(f"{text} never came")
