"""captioning by itself: it learns, it resumes, and its distribution is real."""

import shutil
import signal
from pathlib import Path

import pytest
from forked import Forked
from programs import Program, Records, all_succeed, of, records, score

from captioning.options import parse

captioning = Program("captioning")
SMALL = ("--batch-size", "48", "--beam", "1")
TINY = ("--scenes", "192", "--encoder-steps", "6", "--steps", "12", *SMALL)
LONGER = (*TINY, "--steps", "40", "--checkpoint-every", "4")
LEARNS = ("--scenes", "2400", "--encoder-steps", "200", "--steps", "160", *SMALL)
WORKERS = 2

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of two workers, for several questions."""
    out = tmp_path_factory.mktemp("together")
    all_succeed(captioning.together(out, *TINY, workers=WORKERS))
    return out


def test_two_halves_are_one_whole(together: Path, tmp_path: Path) -> None:
    """Two workers with half of the batch each give the loss of one with all of it."""
    one = of(captioning(tmp_path / "one", *TINY), "step")
    of_two = of(records(together / "0"), "step")
    seen = [(a["step"], a["loss"], b["loss"]) for a, b in zip(one, of_two, strict=True)]
    assert any(step == 10 for step, _, _ in seen)
    for step, alone, halved in seen:
        assert alone == pytest.approx(halved, rel=1e-4), step


def test_all_workers_end_with_the_same_weights(together: Path) -> None:
    digests = {of(records(together / str(i)), "end")[0]["weights_sha256"] for i in range(WORKERS)}
    assert len(digests) == 1


def test_shard_of_one_worker_changes_every_workers_weights(together: Path, tmp_path: Path) -> None:
    all_succeed(captioning.together(tmp_path, *TINY, "--perturb-shard", "1", workers=WORKERS))
    before, after = (
        [of(records(root / str(i)), "end")[0]["weights_sha256"] for i in range(WORKERS)]
        for root in (together, tmp_path)
    )
    assert len(set(after)) == 1
    assert all(a != b for a, b in zip(before, after, strict=True))


def test_shards_are_disjoint_and_together_everything(together: Path) -> None:
    shards = [(together / str(i) / "shard_ids.txt").read_text().split() for i in range(WORKERS)]
    ids = [one for shard in shards for one in shard]
    assert len(ids) == len(set(ids)) == 192


def test_missing_worker_is_named(tmp_path: Path) -> None:
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
    assert "another worker was lost" in errors.splitlines()[-1]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learnt")
    captioning(out, "train", *LEARNS)
    return out


def test_it_learns_to_caption_unseen_scenes(learnt: Path) -> None:
    """Held-out scenes, which language alone (the captions of other images) does not describe."""
    found = records(learnt)
    losses = {r["phase"]: r["loss"] for r in of(found, "step")}
    assert losses["encoder"] < 2
    assert losses["train"] < 0.4
    assert score(found, "bleu4") > score(found, "bleu4_shuffled") + 0.3
    assert score(found, "exact_match") > 0.05
    assert score(found, "exact_match_shuffled") < 0.02


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return captioning(tmp_path_factory.mktemp("whole"), *LONGER)


def test_killed_run_resumes_to_the_same_result(whole: Records, tmp_path: Path) -> None:
    process = captioning.start(tmp_path, *LONGER)
    _wait_for(tmp_path / "timings.jsonl", "checkpoints/train-", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not of(records(tmp_path), "end")
    assert _digest(captioning(tmp_path, *LONGER)) == _digest(whole)


def test_stopped_run_resumes_to_the_same_result(whole: Records, tmp_path: Path) -> None:
    captioning(tmp_path, *LONGER, "--stop-after", "15")
    assert _digest(captioning(tmp_path, *LONGER)) == _digest(whole)


@pytest.mark.parametrize(
    "other",
    [
        ("--scenes", "193"),
        ("--encoder-steps", "7"),
        ("--steps", "13"),
        ("--batch-size", "24"),
        ("--encoder-batch-size", "96"),
        ("--learning-rate", "0.001"),
        ("--seed", "2"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    stopped: Path, tmp_path: Path, other: tuple[str, str]
) -> None:
    shutil.copytree(stopped, tmp_path / "out")
    message = captioning.refused(tmp_path / "out", *TINY, *other)
    assert "belongs to another run (192 examples" in message
    assert len(message.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stopped")
    captioning(out, *TINY, "--stop-after", "1")
    return out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--learning-rate", "0"), "--learning-rate must be more than 0"),
        (("--seed", "-1"), "--seed must be from 0 to 4294967295"),
        (("--steps", "0"), "--steps must be at least 1"),
        (("caption",), "caption must come first"),
        (("trian",), "invalid choice: 'trian'"),
    ],
)
def test_bad_arguments_are_refused(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert message in captioning.refused(tmp_path, *arguments)


def test_the_paper_preset_is_the_papers() -> None:
    options = parse(["--out", "out", "--preset", "paper"])
    assert (options.steps, options.batch_size, options.learning_rate) == (3_000_000, 1, 0.001)


def test_missing_gpu_is_an_error(tmp_path: Path) -> None:
    process = captioning.start(tmp_path, *TINY, "--device", "gpu", CUDA_VISIBLE_DEVICES="-1")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "sees no GPU" in errors.splitlines()[-1]


def _wait_for(file: Path, text: str, process: Forked) -> None:
    from threading import Event

    tick = Event()
    for _ in range(600):
        if file.exists() and text in file.read_text():
            return
        assert process.poll() is None
        tick.wait(0.1)
    pytest.fail(f"{text} never came")


def _digest(found: Records) -> str:
    return str(of(found, "end")[-1]["weights_sha256"])
