"""captioning by itself and in lockstep: it learns, it resumes, and its distribution is real."""

import json
import shutil
import signal
from collections import Counter
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


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return captioning(tmp_path_factory.mktemp("alone"), *TINY)


def test_two_halves_are_one_whole(alone: Records, tmp_path: Path) -> None:
    """Two workers with half of the batch each give the loss of one with all of it."""
    all_succeed(captioning.together(tmp_path, *TINY, "--global-batch", workers=WORKERS))
    for index in range(WORKERS):
        _assert_same_losses(alone, records(tmp_path / str(index)))


def test_two_devices_are_one(alone: Records, tmp_path: Path) -> None:
    """Those of one machine share its batch."""
    _assert_same_losses(alone, captioning(tmp_path, *TINY, "--cpu-devices", "2"))


def _assert_same_losses(one: Records, other: Records) -> None:
    pairs = zip(of(one, "step"), of(other, "step"), strict=True)
    seen = [(a["step"], a["loss"], b["loss"]) for a, b in pairs]
    assert any(step == 10 for step, _, _ in seen)
    for step, expected, loss in seen:
        assert loss == pytest.approx(expected, rel=1e-4), step


@pytest.mark.parametrize("wire", ["float16", "bfloat16"])
def test_gradients_that_travel_in_two_bytes_train_alike(
    together: Path, tmp_path: Path, wire: str
) -> None:
    all_succeed(captioning.together(tmp_path, *TINY, "--wire", wire, workers=WORKERS))
    exact, coarse = (of(records(root / "0"), "step") for root in (together, tmp_path))
    first = {"encoder": True, "train": True}
    for one, other in zip(exact, coarse, strict=True):
        phase = one["phase"]
        # No update precedes the encoder's first loss, which is sent in two parts.
        most = 1e-4 if first[phase] and phase == "encoder" else 0.05
        assert other["loss"] == pytest.approx(one["loss"], rel=most)
        first[phase] = False


def test_a_step_of_each_worker_counts(together: Path) -> None:
    steps = [r["step"] for r in of(records(together / "0"), "step") if r["phase"] == "train"]
    assert steps == [2, 10, 12]
    timed = [r for r in of(records(together / "0"), "step") if "step_seconds" in r]
    assert all(0 < r["communication_seconds"] < r["step_seconds"] for r in timed)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_goes_on_with_the_workers_that_are_left(tmp_path: Path, workers: int) -> None:
    """After the loss of one: every example once an epoch, from the furthest checkpoint."""
    arguments = (*TINY, "--steps", "30", "--checkpoint-every", "4", "--trace-examples")
    first, second = captioning.together(tmp_path, *arguments, workers=2)
    _wait_for(tmp_path / "1" / "timings.jsonl", "checkpoints/train-", second)
    second.kill()
    second.communicate()
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 3, errors
    shutil.rmtree(tmp_path / "1" / "checkpoints")  # the other machine is a new one
    state = json.loads((tmp_path / "0" / "checkpoints" / "latest.json").read_text())
    saved = state["done"]["train"]
    before = [*_seen(tmp_path / "0", below=saved), *_seen(tmp_path / "1", below=saved)]
    for index in range(2):
        (tmp_path / str(index) / "seen.jsonl").unlink()
    all_succeed(captioning.together(tmp_path, *arguments, workers=workers))
    after = [one for index in range(workers) for one in _seen(tmp_path / str(index))]
    assert len(before) + len(after) == 30 * 48
    # 192 examples: seven epochs and half of one
    counts = Counter([*before, *after])
    assert len(counts) == 192
    assert set(counts.values()) <= {7, 8}
    ended = {of(records(tmp_path / str(i)), "end")[-1]["weights_sha256"] for i in range(workers)}
    assert len(ended) == 1


def _seen(out: Path, below: int = 1 << 30) -> list[int]:
    """The captioner's examples."""
    lines = [json.loads(line) for line in (out / "seen.jsonl").read_text().splitlines()]
    steps = [one for one in lines if one["phase"] == "train" and one["after"] < below]
    return [example for one in steps for example in one["examples"]]


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
