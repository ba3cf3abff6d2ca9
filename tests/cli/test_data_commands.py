"""gpuvm data, gpuvm caption and gpuvm run before any connection to a vCenter."""

import json
from pathlib import Path
from typing import Any

import pytest

from gpuvm import runs

Gpuvm = Any

GRID = ["--content-weights", "0:2:5", "--style-weights", "0:10:5"]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_each_workload_is_listed_with_what_is_used_without(gpuvm: Gpuvm, cache: Path) -> None:
    done = gpuvm("data", GPUVM_CACHE_DIR=str(cache))
    assert done.exit_code == 0, done.stderr
    for word in ("stock", "style", "captioning", "mnist", "coco", "flickr8k", "flickr30k"):
        assert word in done.stdout
    assert "all of it is optional" in done.stdout
    assert "cocodataset.org, under its terms of use" in done.stdout
    assert "annotations/captions_train2017.json and train2017/*.jpg" in done.stdout
    assert f"dataset_coco.json, at {cache / 'data' / 'coco'}" in done.stdout
    assert "vgg19: 'gpuvm data fetch vgg19'" in done.stdout
    files = gpuvm("data", "--json", GPUVM_CACHE_DIR=str(cache)).json["data"]["files"]
    assert {file["workload"] for file in files} == {"stock", "style", "captioning", "mnist"}
    assert not any(file["here"] for file in files)
    assert all(file["optional"] and file["without"] for file in files)


def test_a_file_put_there_by_hand_is_checked(gpuvm: Gpuvm, cache: Path) -> None:
    (cache / "data" / "coco").mkdir(parents=True)
    (cache / "data" / "mnist.npz").write_text("something else")
    done = gpuvm("data", "--json", GPUVM_CACHE_DIR=str(cache))
    states = {file["name"]: file["state"] for file in done.json["data"]["files"]}
    assert (states["mnist"], states["coco"], states["vgg19"]) == ("wrong", "yes", "no")
    shown = gpuvm("data", GPUVM_CACHE_DIR=str(cache)).stdout
    assert "mnist.npz has another hash; 'gpuvm data fetch mnist'" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("data", "fetch", "vgg99"), "data file 'vgg99' not found"),
        (("data", "fetch", "coco"), "coco cannot be fetched: cocodataset.org"),
        (("caption", "none.png", "--run", "no-such-run"), "run 'no-such-run' not found"),
        (("caption", "none.png"), "there is no run of captioning in"),
        (("run", "captioning", "--sweep"), "captioning has no grid to share out"),
        (("run", "style", "--sweep", "--", "--cells=0/2"), "shared out over the VMs already"),
    ],
)
def test_bad_input_is_one_line(gpuvm: Gpuvm, arguments: tuple[str, ...], message: str) -> None:
    done = gpuvm(*arguments)
    assert done.exit_code == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_network_the_target_path_is_shown(gpuvm: Gpuvm, cache: Path) -> None:
    nowhere = {"https_proxy": "http://127.0.0.1:9", "GPUVM_CACHE_DIR": str(cache)}
    done = gpuvm("data", "fetch", "mnist", **nowhere)
    assert done.exit_code == 1
    assert f"copy the file to {cache / 'data' / 'mnist.npz'}" in done.stderr
    assert "Traceback" not in done.stderr


def test_caption_takes_the_latest_run_of_captioning(gpuvm: Gpuvm) -> None:
    older = _run(gpuvm, "captioning", "20260101-000000-aaaa")
    _run(gpuvm, "mnist", "20260102-000000-aaaa")
    picture = gpuvm.home / "bus.png"
    missing = gpuvm("caption", str(picture))
    assert missing.exit_code == 2
    assert f"{picture}: no such file" in missing.stderr
    picture.touch()
    done = gpuvm("caption", str(picture))
    assert done.exit_code == 2
    assert f"run {older} has no trained captioner" in done.stderr
    nobody = gpuvm("caption", str(picture), "--on", "gpuvm-01")
    assert "has no trained captioner" in nobody.stderr, "before any vCenter is asked"


def test_run_with_vgg16_features_names_the_weights_it_needs(gpuvm: Gpuvm, cache: Path) -> None:
    run_id = _run(gpuvm, "captioning", "20260101-000000-aaaa")
    model = gpuvm.home / "runs" / run_id / "gpuvm-01"
    model.mkdir()
    (model / "model.json").write_text('{"vgg16_weights": "/home/gpuvm/data/x/vgg16.h5"}')
    (gpuvm.home / "bus.png").touch()
    done = gpuvm("caption", "bus.png", GPUVM_CACHE_DIR=str(cache))
    assert done.exit_code == 2
    assert "@vgg16 has not been fetched" in done.stderr
    assert "gpuvm data fetch vgg16" in done.stderr


def test_run_without_captioner_is_a_one_line_error(gpuvm: Gpuvm) -> None:
    (gpuvm.home / "bus.png").touch()
    for workload in ("captioning", "stock_prediction", "mine"):
        run_id = _run(gpuvm, workload, "20260101-000000-aaaa")
        done = gpuvm("caption", "bus.png", "--run", run_id)
        assert done.exit_code == 2
        assert f"run {run_id} has no trained captioner" in done.stderr


@pytest.mark.parametrize(
    ("message", "added"),
    [
        ([], GRID),
        (["--size", "32"], GRID),
        (["--content-weights", "0:1:2"], []),
        (["--content-weights=0:1:2"], []),
        (["--style-weights=0:1:2", "--content-weight=1"], []),
        (["--style-weight", "3"], GRID[:2]),
        (["--style-weight=3"], GRID[:2]),
        (["--style-weight=3", "--content-weight=1"], []),
    ],
)
def test_weights_given_by_the_user_override_the_grid(message: list[str], added: list[str]) -> None:
    grid = runs.find("style").declaration.sweep
    assert grid is not None
    assert runs.sweep.with_grid(grid, message) == [*message, *added]


def _run(gpuvm: Gpuvm, workload: str, when: str) -> str:
    """A run's folder with nothing but its manifest."""
    run_id = f"{workload}-{when}"
    manifest = {
        "schema": 1,
        "run_id": run_id,
        "workload": workload,
        "args": [],
        "distributed": False,
        "vcenter": {"name": "vc", "url": "https://vc", "version": "8"},
        "cluster": "c",
        "deployment": "gpuvm",
        "started": "2026-01-01T00:00:00Z",
        "vms": [],
    }
    folder = gpuvm.home / "runs" / run_id
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return run_id
