"""style: the loss decreases, grids are distributed, an interruption loses little."""

import faulthandler
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from programs import TIMEOUT_S, Program, all_succeed, of, records, score
from typing_extensions import override

from common.cluster import Cluster
from common.errors import BadInput
from common.files import replacing
from common.log import Log
from common.program import Session
from style import images, options, saved_state, transfer, vgg19
from style.grid import Cell
from style.images import Pixels
from style.optimizers import LBFGS, Adam

style = Program("style")
TINY = ("--size", "48", "--rounds", "2", "--iterations", "6", "--device", "cpu")
SHORT = ("--size", "32", "--rounds", "1", "--iterations", "2", "--device", "cpu")
GRID = ("--content-weights", "0:2:2", "--style-weights", "0:10:2")
STATE = "checkpoints/content1-style5.npz"

pytestmark = pytest.mark.tensorflow


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def picture(out: Path) -> np.ndarray:
    with Image.open(out / "samples/content1-style5.png") as image:
        return np.asarray(image, float)


def done(out: Path) -> int:
    with np.load(out / STATE) as kept:
        return int(kept["done"])


def plain(file: Path, colour: str, size: tuple[int, int] = (40, 30)) -> Path:
    Image.new("RGB", size, colour).save(file)
    return file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("style")
    style.by_hand(out, *TINY)
    return out


@pytest.fixture
def again(made: Path, tmp_path: Path) -> Path:
    """What a run left behind, to run with once more."""
    return Path(shutil.copytree(made, tmp_path / "again"))


def test_style_loss_decreases_and_the_network_is_recorded(made: Path) -> None:
    found = records(made)
    assert score(found, "style_loss") < score(found, "style_loss_start") / 10
    assert of(found, "step")[-1]["loss"] < of(found, "step")[0]["loss"]
    reported = results(made)
    assert "random weights" in reported["notes"][0]
    assert picture(made).std() > 5, "it is a picture, not a colour"


def test_colours_of_the_style_are_transferred(made: Path) -> None:
    content, wanted = images.sample_content(48)[0], images.sample_style(48)[0]
    found = picture(made) / 255
    assert distance(found, wanted) < distance(content, wanted) / 2


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Between how their colours are spread."""
    spreads = [np.cov(image.reshape(-1, 3).T) for image in (one, other)]
    return float(np.abs(spreads[0] - spreads[1]).sum())


def test_a_plain_style_has_a_loss_too(tmp_path: Path) -> None:
    red = str(plain(tmp_path / "red.png", "red"))
    found = style(tmp_path / "out", *SHORT, "--content", red, "--style", red)
    assert all(np.isfinite(r["value"]) for r in of(found, "score"))


def test_lbfgs_needs_fewer_evaluations_than_adam(tmp_path: Path) -> None:
    few = ("--size", "32", "--rounds", "1", "--device", "cpu")
    lbfgs = style(tmp_path / "lbfgs", *few, "--iterations", "20")
    adam = style(tmp_path / "adam", *few, "--iterations", "60", "--optimizer", "adam")
    assert of(lbfgs, "end")[0]["evaluations"] < 30
    assert of(lbfgs, "step")[-1]["loss"] <= of(adam, "step")[-1]["loss"]


def test_the_gradient_of_one_pixel_does_not_end_lbfgs() -> None:
    """Of a mean over many pixels it is below scipy's own limit from the start."""
    start = np.full((300, 300, 3), 0.3, np.float32)
    goal = np.linspace(0.25, 0.35, start.size).reshape(start.shape)
    optimizer = LBFGS(lambda p: (float(((p - goal) ** 2).mean()), 2 * (p - goal) / p.size), start)
    assert optimizer.run(10) < 1e-9


def test_it_resumes_from_its_saved_state(tmp_path: Path) -> None:
    """Scipy's L-BFGS restarts from the picture, so the result is as good, but not identical."""
    style(tmp_path, *TINY, "--stop-after", "4")
    assert "stopped" not in str(results(tmp_path)["notes"]), "the one picture is there"
    resumed = style(tmp_path, *TINY)
    assert [r["step"] for r in of(resumed, "step")] == [4, 6, 12]
    again = style(tmp_path, *TINY)
    assert len(of(again, "step")) == 3, "nothing was left to do"


def test_stopped_grid_names_the_missing_cells(tmp_path: Path) -> None:
    style(tmp_path, *SHORT, *GRID, "--stop-after", "3")
    reported = results(tmp_path)
    assert reported["notes"][-1] == "stopped after picture 2 of 4"
    assert [s["caption"] for s in reported["samples"]] == [
        "2 of the grid's 4",
        "content 0, style 0",
        "content 0, style 10",
    ]


def test_resumed_adam_gives_the_same_result() -> None:
    def evaluate(pixels: np.ndarray) -> tuple[float, np.ndarray]:
        return float((pixels**2).sum()), 2 * pixels

    whole = Adam(evaluate, np.full((2, 2, 3), 0.9, np.float32))
    whole.run(20)
    stopped = Adam(evaluate, np.full((2, 2, 3), 0.9, np.float32))
    stopped.run(7)
    resumed = Adam(evaluate, stopped.pixels, stopped.memory)
    resumed.run(13)
    assert (resumed.pixels == whole.pixels).all()


ENDLESS = ("--size", "32", "--rounds", "1", "--iterations", "1000000", "--device", "cpu")


def test_killed_adam_run_resumes_to_the_same_picture(tmp_path: Path) -> None:
    options = (*ENDLESS, "--optimizer", "adam", "--save-every", "2")
    out = tmp_path / "killed"
    saved = killed_at_a_checkpoint(out, options)
    until = str(done(out) + 4)
    resumed = style(out, *options, "--stop-after", until)
    assert of(resumed, "step")[0]["step"] > saved
    whole = style(tmp_path / "whole", *options, "--stop-after", until)
    assert np.abs(picture(out) - picture(tmp_path / "whole")).max() <= 1
    losses = [of(found, "step")[-1]["loss"] for found in (resumed, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_killed_lbfgs_run_resumes_from_its_picture(tmp_path: Path) -> None:
    options = (*ENDLESS, "--save-every", "2")
    saved = killed_at_a_checkpoint(tmp_path, options)
    before = done(tmp_path)
    resumed = style(tmp_path, *options, "--stop-after", str(before + 4))
    steps = of(resumed, "step")
    assert saved <= before < steps[0]["step"]
    assert steps[-1]["step"] == before + 4
    assert steps[-1]["loss"] < steps[0]["loss"]


def killed_at_a_checkpoint(out: Path, arguments: tuple[str, ...]) -> int:
    """Its records go through a pipe, so that each is read at the moment that it is written."""
    out.mkdir(exist_ok=True)
    os.mkfifo(out / "timings.jsonl")
    process = style.start(out, *arguments)
    with (out / "timings.jsonl").open(encoding="utf-8") as reported:
        found = (json.loads(line) for line in reported)
        step = next(int(r["step"]) for r in found if r["event"] == "checkpoint")
        process.kill()
    process.communicate(timeout=TIMEOUT_S)
    (out / "timings.jsonl").unlink()
    return step


def test_long_round_is_saved_in_between(tmp_path: Path) -> None:
    long = ("--size", "32", "--rounds", "1", "--iterations", "20", "--device", "cpu")
    found = style(tmp_path, *long, "--optimizer", "adam", "--save-every", "8")
    assert [r["step"] for r in of(found, "checkpoint")] == [8, 16, 20]
    assert {r["path"] for r in of(found, "checkpoint")} == {STATE}


class Unlogged(Log):
    def __init__(self) -> None:
        pass

    @override
    def __call__(self, event: str, **fields: Any) -> None:
        pass


class Painter(transfer.StyleTransfer):
    """Without a network: every picture has the same loss, and none is saved."""

    def __init__(self, given: options.Options) -> None:
        self.options = given
        self.session = Session("style", None, None, Unlogged(), given.out, Cluster())

    @override
    def evaluate(self, pixels: Pixels, cell: Cell) -> tuple[float, Pixels, tuple[float, ...]]:
        return 1.0, pixels, ()

    @override
    def save(self, cell: Cell, optimizer: LBFGS | Adam, done: int) -> str:
        return ""


def test_the_watchdog_is_about_one_evaluation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A round may take hours."""
    heard: list[str] = []
    for name, said in (
        ("dump_traceback_later", "armed"),
        ("cancel_dump_traceback_later", "cancelled"),
    ):
        monkeypatch.setattr(faulthandler, name, lambda *_, say=said, **__: heard.append(say))
    rounds = ("--rounds", "1", "--iterations", "3", "--save-every", "9", "--stall-s", "7")
    painter = Painter(options.parse(["--out", str(tmp_path), "--optimizer", "adam", *rounds]))
    cell, start = Cell(1, 5), np.full((2, 2, 3), 0.5, np.float32)
    optimizer = Adam(lambda pixels: painter._watched(pixels, cell), start)
    transfer.Optimization(painter, cell, optimizer, 0, (0, 3)).run()
    assert heard == ["armed"] * 3 + ["cancelled"]


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (("--content", "{red}"), "content"),
        (("--variation-weight", "0.1"), "variation weight"),
    ],
)
def test_saved_picture_with_other_options_is_refused(
    again: Path, tmp_path: Path, other: tuple[str, ...], what: str
) -> None:
    red = plain(tmp_path / "red.png", "red")
    before = (again / STATE).read_bytes()
    event_log = style.refused(again, *TINY, *(part.format(red=red) for part in other))
    assert f"{STATE} was made with another {what}; use another --out" in event_log
    assert "Traceback" not in event_log
    assert (again / STATE).read_bytes() == before


class Named(vgg19.Network):
    """Only a digest."""

    def __init__(self, name: str) -> None:
        self.name = name

    @override
    def digest(self) -> str:
        return self.name


def test_picture_records_all_options(tmp_path: Path) -> None:
    given = options.parse(["--out", str(tmp_path)])
    network, first, second = Named("n"), np.zeros((2, 2, 3)), np.ones((2, 2, 3))
    recorded = transfer.made_with(network, first, second, given)
    others = [
        transfer.made_with(network, second, second, given),
        transfer.made_with(network, first, first, given),
        transfer.made_with(network, first.reshape(1, 4, 3), second, given),
        transfer.made_with(Named("m"), first, second, given),
        transfer.made_with(network, first, second, replace(given, size=8)),
        transfer.made_with(network, first, second, replace(given, variation_weight=0.5)),
        transfer.made_with(network, first, second, replace(given, optimizer="adam")),
        transfer.made_with(network, first, second, replace(given, iterations=5)),
    ]
    assert all(other != recorded for other in others)


def loaded(file: Path, made_with: Mapping[str, str]) -> saved_state.SavedState:
    state = saved_state.load(file, made_with)
    assert state is not None
    return state


@pytest.mark.parametrize("left", [0, 1, 100, -100, -1])
def test_a_truncated_state_is_damaged(tmp_path: Path, left: int) -> None:
    file = tmp_path / "state.npz"
    saved_state.save(file, saved_state.SavedState(np.ones((9, 9, 3), np.float32), 3), {"size": "9"})
    assert loaded(file, {"size": "9"}).done == 3
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(saved_state.Damaged, match=r"state\.npz is damaged"):
        saved_state.load(file, {"size": "9"})


def test_the_state_of_an_older_run_is_read(tmp_path: Path) -> None:
    file, pixels = tmp_path / "state.npz", np.ones((9, 9, 3), np.float32)
    np.savez(file, pixels=pixels, done=3, wish=np.array('{"size": "9"}'))
    assert loaded(file, {"size": "9"}).done == 3
    with pytest.raises(BadInput, match="made with another size"):
        saved_state.load(file, {"size": "8"})


def test_replaced_file_stays_complete_until_the_end(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    file.write_text("old")
    with replacing(file) as half:
        half.write_text("n")
        assert file.read_text() == "old"
    assert file.read_text() == "n"


def test_more_iterations_than_asked_for_are_refused(again: Path) -> None:
    assert "has had 12 iterations, more than 6" in style.refused(again, *TINY, "--rounds", "1")


def test_damaged_state_is_reported_and_training_restarted(again: Path) -> None:
    (again / STATE).write_bytes((again / STATE).read_bytes()[:5000])
    process = style.start(again, *TINY)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    assert f"{STATE} is damaged" in errors
    assert "Traceback" not in errors
    assert [r["step"] for r in of(records(again), "step")] == [6, 12, 6, 12]


def test_complete_state_needs_no_other_file(again: Path) -> None:
    """Neither the picture for people nor what a kill left half written."""
    before = picture(again)
    (again / "samples/content1-style5.png").write_bytes(b"\x89PNG")
    (again / "checkpoints/.content1-style5.npz").write_bytes(b"PK")
    style(again, *TINY)
    assert (picture(again) == before).all()


def test_grid_is_distributed_and_merged(tmp_path: Path) -> None:
    all_succeed(style.together(tmp_path, *SHORT, *GRID, workers=2))
    files = [sorted(p.name for p in (tmp_path / w / "samples").glob("c*.png")) for w in ("0", "1")]
    assert [len(names) for names in files] == [2, 2]
    assert not set(files[0]) & set(files[1])
    assert results(tmp_path / "0")["samples"][0]["caption"] == "2 of the grid's 4"
    third = style(tmp_path / "third", *SHORT, *GRID, "--cells", "1/4")
    assert of(third, "end")[0]["ok"] is True
    assert (tmp_path / "third" / "samples" / "sheet.png").exists()
    assert len(list((tmp_path / "third" / "samples").glob("c*.png"))) == 1


def test_empty_share_succeeds_and_is_merged(tmp_path: Path) -> None:
    pair = (*SHORT, "--style-weights", "0:10:2")
    found = style(tmp_path / "none", *pair, "--cells", "3/4")
    assert of(found, "end")[0]["ok"] is True
    reported = results(tmp_path / "none")
    assert reported["samples"] == []
    assert reported["notes"][-1] == "no picture here: this share of the grid's 2 is empty"
    style(tmp_path / "one", *pair, "--cells", "1/4")
    folders = [str(tmp_path / name) for name in ("none", "one")]
    process = style.start(tmp_path / "all", "--gather", *folders)
    sheet, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    with Image.open(sheet.strip()) as image:
        assert image.width > 100
    alone = style.refused(tmp_path / "nothing", "--gather", str(tmp_path / "none"))
    assert "there is no picture in any of the folders" in alone


def test_damaged_results_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{")
    reported = style.refused(tmp_path / "all", "--gather", str(tmp_path))
    assert "results.json is damaged" in reported
    assert "Traceback" not in reported


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--content", "nowhere.jpg"), "nowhere.jpg: no such file"),
        (("--content", __file__), "not a picture"),
        (("--weights", "nowhere.h5"), "nowhere.h5: no such file"),
        (("--weights", __file__), "not the weights of a VGG19"),
        (("--content-weight", "3"), "3 is not between 0 and 2"),
        (("--content-weight", "much"), "'much' is not a number"),
        (("--variation-weight", "-1"), "-1 is not 0 or more"),
        (("--style-weights", "1:2"), "'1:2' is not FROM:TO:COUNT"),
        (("--style-weights", "0:50:2"), "50 is not between 0 and 10"),
        (("--content-weights", "0:3:2"), "3 is not between 0 and 2"),
        (("--content-weights", "nan:2:2"), "nan is not between 0 and 2"),
        (("--style-weights", "0:2:0"), "0:2:0: COUNT must be from 1 to 100"),
        (("--style-weights", "2:2:3"), "2:2:3: FROM must be below TO"),
        (("--cells", "4/4"), "the first must be from 0 to 3"),
        (("--save-every", "0"), "--save-every must be at least 1"),
        (("--device", "gpu"), "sees no GPU"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    reported = style.refused(tmp_path, *TINY, *arguments)
    assert message in reported
    assert "Traceback" not in reported


def test_a_download_that_fails_says_what_works_offline(tmp_path: Path) -> None:
    nowhere = {"https_proxy": "http://127.0.0.1:9", "KERAS_HOME": str(tmp_path / "keras")}
    process = style.start(tmp_path / "out", *TINY, "--weights", "download", **nowhere)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2
    assert "VGG19's weights could not be downloaded" in errors
    assert "--weights FILE.h5" in errors
    assert "not the weights" not in errors


def test_trained_weights_of_the_right_shapes_are_taken(tmp_path: Path) -> None:
    """Keras's own untrained VGG19, saved as its weights are: the shapes are right."""
    code = (
        "import sys; from tensorflow.keras.applications import VGG19;"
        "VGG19(weights=None, include_top=False).save_weights(sys.argv[1])"
    )
    file = tmp_path / "vgg19.weights.h5"
    subprocess.run([sys.executable, "-c", code, str(file)], check=True, capture_output=True)
    style(tmp_path / "out", *TINY, "--rounds", "1", "--weights", str(file))
    assert results(tmp_path / "out")["notes"][0] == "VGG19 by its shapes, vgg19.weights.h5"
    assert of(records(tmp_path / "out"), "end")[0]["ok"] is True
