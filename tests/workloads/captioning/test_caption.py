"""captioning's modes caption and evaluate: a trained run in use."""

import json
from pathlib import Path
from typing import Any

import pytest
from captioning_runs import greedy, use
from programs import Program, of, records

captioning = Program("captioning")
TINY = ("--scenes", "192", "--encoder-steps", "6", "--steps", "12", "--batch-size", "48")

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    captioning.by_hand(out, *TINY)
    return out


@pytest.mark.parametrize("beam", ["1", "3"])
def test_a_trained_run_captions_any_picture(trained: Path, beam: str) -> None:
    """The captions of its own samples are those from the end of the training."""
    samples = json.loads((trained / "results.json").read_text())["samples"]
    images = [str(trained / sample["image"]) for sample in samples[:3]]
    done = use("caption", *images, "--run", str(trained), "--beam", beam, "--json")
    assert done.returncode == 0, done.stderr
    reported = json.loads(done.stdout)
    assert [pair["image"] for pair in reported] == images
    if beam == "3":
        assert [pair["caption"] for pair in reported] == [s["caption"] for s in samples[:3]]


def test_evaluating_a_trained_run_again_gives_the_same_scores(trained: Path) -> None:
    done = use("evaluate", "--run", str(trained), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == pytest.approx(greedy(records(trained)))
    assert {r["decoder"] for r in of(records(trained), "score")} == {"greedy", "beam 3"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("caption", "nowhere.png", "--run", "RUN"), "nowhere.png: no such file"),
        (("caption", __file__, "--run", "RUN"), "not an image"),
        (("caption", "--run", "RUN"), "no pictures given"),
        (("evaluate", "--run", "/nowhere"), "no finished captioning run there"),
    ],
)
def test_bad_input_to_a_trained_run_is_one_line(
    trained: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = use(*(str(trained) if a == "RUN" else a for a in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("mode", [("caption", __file__), ("evaluate",)])
def test_missing_gpu_is_an_error(
    trained: Path, monkeypatch: pytest.MonkeyPatch, mode: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    done = use(*mode, "--run", str(trained), "--device", "gpu")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "captioning: --device gpu: TensorFlow sees no GPU here"


VGG16 = {"vgg16_weights": "/guest/vgg16.h5", "vgg16_sha256": "ab" * 32}


@pytest.mark.parametrize("mode", [("caption", "a.png"), ("evaluate",)])
@pytest.mark.parametrize(
    ("about", "arguments", "message"),
    [
        (VGG16, (), "not at /guest/vgg16.h5: --vgg16-weights FILE.h5 (SHA-256 abab"),
        (VGG16, ("--vgg16-weights", "/nowhere.h5"), "/nowhere.h5: no such file"),
        (VGG16, ("--vgg16-weights", __file__), "not the weights that the run used"),
        ({}, ("--vgg16-weights", __file__), "this run used an encoder of its own"),
    ],
)
def test_weights_of_a_run_are_required(
    trained: Path,
    tmp_path: Path,
    mode: tuple[str, ...],
    about: dict[str, Any],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    run = _other(trained, tmp_path, **about)
    done = use(*mode, "--run", str(run), *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_moved_images_must_be_given_again(trained: Path, tmp_path: Path) -> None:
    run = _other(trained, tmp_path, real=True, data="/guest/flickr8k")
    for arguments, message in (
        ((), "the run's images are not at /guest/flickr8k: set --data DIR"),
        (("--data", "/nowhere"), "/nowhere: no such folder"),
    ):
        done = use("evaluate", "--run", str(run), *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def _other(trained: Path, folder: Path, **about: Any) -> Path:
    """The same run, had it been of other data or weights."""
    model = json.loads((trained / "model.json").read_text()) | about
    (folder / "model.json").write_text(json.dumps(model))
    (folder / "checkpoints").symlink_to(trained / "checkpoints")
    return folder
