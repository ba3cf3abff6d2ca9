"""style_transfer.py: the style's loss falls, grids are shared out, pictures are checked."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import Program, all_succeed, of, records, score

style = Program("style_transfer")
TINY = ("--size", "48", "--rounds", "2", "--iterations", "6", "--device", "cpu")
GRID = ("--content-weights", "0:2:2", "--style-weights", "0:10:2")

pytestmark = pytest.mark.tensorflow


def test_the_styles_loss_falls_and_what_the_network_was_is_said(tmp_path: Path) -> None:
    found = style(tmp_path, *TINY)
    assert score(found, "style_loss") < score(found, "style_loss_start") / 4
    assert of(found, "step")[-1]["loss"] < of(found, "step")[0]["loss"]
    results = json.loads((tmp_path / "results.json").read_text())
    assert "random weights" in results["notes"][0]
    picture = np.asarray(Image.open(tmp_path / results["samples"][0]["image"]), float)
    assert picture.std() > 5, "it is a picture, not a colour"


def test_lbfgs_needs_fewer_evaluations_than_adam(tmp_path: Path) -> None:
    few = ("--size", "48", "--rounds", "1", "--device", "cpu")
    lbfgs = style(tmp_path / "lbfgs", *few, "--iterations", "25")
    adam = style(tmp_path / "adam", *few, "--iterations", "75", "--optimizer", "adam")
    assert of(lbfgs, "end")[0]["steps"] < 40
    assert of(lbfgs, "step")[-1]["loss"] <= of(adam, "step")[-1]["loss"]


def test_it_goes_on_from_the_picture_that_it_saved(tmp_path: Path) -> None:
    """Scipy's L-BFGS begins anew from it, so the result is as good, not the same."""
    style(tmp_path, *TINY, "--stop-after", "1")
    resumed = style(tmp_path, *TINY)
    assert [r["step"] for r in of(resumed, "step")] == [1, 2]
    again = style(tmp_path, *TINY)
    assert len(of(again, "step")) == 2, "nothing was left to do"


def test_a_grid_is_shared_out_and_gathered(tmp_path: Path) -> None:
    short = ("--size", "32", "--rounds", "1", "--iterations", "2", "--device", "cpu")
    all_succeed(style.together(tmp_path, *short, *GRID, workers=2))
    made = [sorted(p.name for p in (tmp_path / w / "samples").glob("c*.png")) for w in ("0", "1")]
    assert [len(names) for names in made] == [2, 2]
    assert not set(made[0]) & set(made[1])
    third = style(tmp_path / "third", *short, *GRID, "--cells", "1/4")
    assert of(third, "end")[0]["ok"] is True
    assert (tmp_path / "third" / "samples" / "sheet.png").exists()
    assert len(list((tmp_path / "third" / "samples").glob("c*.png"))) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--content", "nowhere.jpg"), "nowhere.jpg: no such file"),
        (("--content", __file__), "not a picture"),
        (("--weights", "nowhere.h5"), "nowhere.h5: no such file"),
        (("--weights", __file__), "not the weights of a VGG19"),
        (("--content-weight", "3"), "3 is not between 0 and 2"),
        (("--style-weights", "1:2"), "'1:2' is not FROM:TO:COUNT"),
        (("--cells", "4/4"), "the first must be from 0 to 3"),
        (("--device", "gpu"), "sees no GPU"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    told = style.refused(tmp_path, *TINY, *arguments)
    assert said in told
    assert "Traceback" not in told


def test_trained_weights_of_the_right_shapes_are_taken(tmp_path: Path) -> None:
    """Keras's own untrained VGG19, saved as its weights are: the shapes are right."""
    import subprocess
    import sys

    code = (
        "import sys; from tensorflow.keras.applications import VGG19;"
        "VGG19(weights=None, include_top=False).save_weights(sys.argv[1])"
    )
    file = tmp_path / "vgg19.weights.h5"
    subprocess.run([sys.executable, "-c", code, str(file)], check=True, capture_output=True)
    style(tmp_path / "out", *TINY, "--rounds", "1", "--weights", str(file))
    notes = json.loads((tmp_path / "out" / "results.json").read_text())["notes"]
    assert notes[0] == "VGG19 by its shapes, vgg19.weights.h5"
    assert of(records(tmp_path / "out"), "end")[0]["ok"] is True
