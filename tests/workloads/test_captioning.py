"""captioning.py by itself: it learns, it resumes, it is honest, and its distribution is real."""

import subprocess
from pathlib import Path

import pytest
from programs import Program, all_succeed, of, records

captioning = Program("captioning")
TINY = ("--scenes", "192", "--encoder-steps", "6", "--steps", "12", "--batch-size", "48")
WORKERS = 4

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of four workers, for several questions."""
    out = tmp_path_factory.mktemp("four")
    all_succeed(captioning.together(out, *TINY))
    return out


def test_four_quarters_are_one_whole(four: Path, tmp_path: Path) -> None:
    """Four workers with a quarter of the batch each give the loss of one with all of it."""
    one = of(captioning(tmp_path / "one", *TINY), "step")
    of_four = of(records(four / "0"), "step")
    seen = [(a["step"], a["loss"], b["loss"]) for a, b in zip(one, of_four, strict=True)]
    assert any(step == 10 for step, _, _ in seen)
    for step, alone, together in seen:
        assert alone == pytest.approx(together, rel=1e-4), step


def test_all_workers_end_with_the_same_weights(four: Path) -> None:
    digests = {of(records(four / str(i)), "end")[0]["weights_sha256"] for i in range(WORKERS)}
    assert len(digests) == 1


def test_one_workers_shard_moves_every_workers_weights(four: Path, tmp_path: Path) -> None:
    all_succeed(captioning.together(tmp_path, *TINY, "--perturb-shard", "3"))
    before, after = (
        [of(records(root / str(i)), "end")[0]["weights_sha256"] for i in range(WORKERS)]
        for root in (four, tmp_path)
    )
    assert len(set(after)) == 1
    assert all(a != b for a, b in zip(before, after, strict=True))


def test_shards_are_disjoint_and_together_everything(four: Path) -> None:
    shards = [(four / str(i) / "shard_ids.txt").read_text().split() for i in range(WORKERS)]
    ids = [one for shard in shards for one in shard]
    assert len(ids) == len(set(ids)) == 192


def test_a_worker_that_never_comes_is_named(tmp_path: Path) -> None:
    (process,) = captioning.together(
        tmp_path, *TINY, "--start-deadline-s", "4", workers=2, absent=1
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "missing: 127.0.0.1:" in errors


def test_a_worker_that_dies_ends_the_others(tmp_path: Path) -> None:
    endless = ("--scenes", "192", "--encoder-steps", "100000", "--batch-size", "48")
    first, second = captioning.together(tmp_path, *endless, workers=2)
    _wait_for(tmp_path / "1" / "timings.jsonl", '"step"', second)
    second.kill()
    second.communicate()
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 3, errors
    assert "another worker went away" in errors.splitlines()[-1]


def test_it_learns_and_resumes(tmp_path: Path) -> None:
    """Stopped half-way and started again it ends with the weights of one that went through."""
    longer = (*TINY[:4], "--steps", "40", *TINY[6:])
    whole = captioning(tmp_path / "whole", *longer)
    losses = [record["loss"] for record in of(whole, "step") if record["phase"] == "train"]
    assert losses[-1] < losses[0]
    half = tmp_path / "half"
    captioning(half, *longer, "--stop-after", "15")
    resumed = captioning(half, *longer)
    ends = [of(records, "end")[-1]["weights_sha256"] for records in (whole, resumed)]
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
    process = captioning.start(tmp_path / "out", "--data", str(tmp_path))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said in errors
    assert len(errors.strip().splitlines()) == 1


def test_a_gpu_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    process = captioning.start(tmp_path, *TINY, "--device", "gpu", CUDA_VISIBLE_DEVICES="-1")
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
