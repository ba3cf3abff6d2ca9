"""captioning.py by itself: it learns, it resumes, it is honest, and its distribution is real."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from programs import WORKLOADS, Program, all_succeed, of, records

captioning = Program("captioning")
TINY = ("--scenes", "192", "--encoder-steps", "6", "--steps", "12", "--batch-size", "48")
WORKERS = 4

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of four workers, for several questions."""
    out = tmp_path_factory.mktemp("four")
    all_succeed(captioning.together(out, *TINY, workers=WORKERS))
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
    all_succeed(captioning.together(tmp_path, *TINY, "--perturb-shard", "3", workers=WORKERS))
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
        (None, "no captions.json"),
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    captioning(out, *TINY)
    return out


def _tell(*arguments: str) -> "subprocess.CompletedProcess[str]":
    program = WORKLOADS / "captioning.py"
    command = [sys.executable, str(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("beam", ["1", "3"])
def test_a_trained_run_captions_any_picture(trained: Path, beam: str) -> None:
    """What it says of a picture of its own samples is what it said at the end of the training."""
    samples = json.loads((trained / "results.json").read_text())["samples"]
    images = [str(trained / sample["image"]) for sample in samples[:3]]
    done = _tell("caption", *images, "--run", str(trained), "--beam", beam, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [pair["image"] for pair in told] == images
    if beam == "1":
        assert [pair["caption"] for pair in told] == [s["caption"] for s in samples[:3]]


def test_a_trained_run_is_scored_again_to_the_same(trained: Path) -> None:
    done = _tell("evaluate", "--run", str(trained), "--json")
    assert done.returncode == 0, done.stderr
    greedy = {
        r["name"]: r["value"]
        for r in of(records(trained), "score")
        if r["decoder"] == "greedy" and not r["name"].endswith("_shuffled")
    }
    assert json.loads(done.stdout) == pytest.approx(greedy)
    assert {r["decoder"] for r in of(records(trained), "score")} == {"greedy", "beam 3"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("caption", "nowhere.png", "--run", "RUN"), "nowhere.png: no such file"),
        (("caption", __file__, "--run", "RUN"), "not an image"),
        (("caption", "--run", "RUN"), "which pictures?"),
        (("evaluate", "--run", "/nowhere"), "no finished captioning run there"),
    ],
)
def test_bad_input_to_a_trained_run_is_one_line(
    trained: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = _tell(*(str(trained) if a == "RUN" else a for a in arguments))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def _pictures(folder: Path, count: int = 60) -> list[str]:
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    draw = np.random.default_rng(1)
    names = [f"{number:03d}.jpg" for number in range(count)]
    for name in names:
        Image.fromarray(draw.integers(0, 255, (40, 50, 3), np.uint8)).save(folder / name)
    return names


@pytest.mark.parametrize("layout", ["Flickr8k.token.txt", "captions.txt"])
def test_flickr_layouts_are_read(tmp_path: Path, layout: str) -> None:
    names = _pictures(tmp_path / "data" / "Images")
    pairs = [(name, f"A small, grey picture of number {n % 7}.") for n, name in enumerate(names)]
    if layout == "captions.txt":
        text = "image,caption\n" + "".join(f'{name},"{caption}"\n' for name, caption in pairs)
    else:
        text = "".join(f"{name}#0\t{caption}\n" for name, caption in pairs)
    (tmp_path / "data" / layout).write_text(text)
    few = ("--encoder-steps", "2", "--steps", "2", "--batch-size", "16")
    found = captioning(tmp_path / "out", "--data", str(tmp_path / "data"), *few)
    assert of(found, "end")[0]["ok"] is True
    words = json.loads((tmp_path / "out" / "model.json").read_text())["words"]
    assert "grey" in words


@pytest.mark.parametrize("weights", ["/nowhere.h5", __file__])
def test_wrong_vgg16_weights_are_one_line(tmp_path: Path, weights: str) -> None:
    said = captioning.refused(tmp_path, *TINY, "--vgg16-weights", weights)
    assert "no such file" in said or "not the weights of a VGG16" in said
    assert "Traceback" not in said
