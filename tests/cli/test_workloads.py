"""The shipped workloads through the command line, tiny: each on one VM, a sweep over two, captions.

One story in one module, in order; each test is a chapter that stands on the one before.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from studio_page import chromium, studio

Lab = Any

GRID = ("--content-weights=0:1:2", "--style-weights", "5:5:1")
TINY = {
    "stock": ("--minutes", "1200", "--stocks", "8", "--epochs", "1", "--no-xla"),
    "style": (*GRID, "--size", "32", "--rounds", "1", "--iterations", "2"),
    "mnist": ("--epochs", "1", "--batch-size", "128"),
    "captioning": (
        *("--scenes", "96", "--batch-size", "24", "--encoder-steps", "2", "--steps", "2"),
        *("--beam", "1"),
    ),
}
pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module", autouse=True)
def two(lab: Lab) -> None:
    done = lab("provision", "--hosts", "2")
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize("name", ["captioning", "stock", "mnist"])
def test_on_one_vm(lab: Lab, name: str) -> None:
    data = _run(lab, name)
    assert data["scores"]
    assert [vm["name"] for vm in _manifest(data)["vms"]] == ["gpuvm-01"]


def test_style_and_a_sweep_over_one_vm(lab: Lab) -> None:
    data = _run(lab, "style", "--sweep", "--vm", "gpuvm-02")
    assert data["scores"]
    assert _captions(Path(data["dir"]) / "gpuvm-02") == {"content 0, style 5", "content 1, style 5"}


def test_sweep_of_two_cells_makes_one_contact_sheet(lab: Lab) -> None:
    done = lab("run", "style", "--sweep", "--", *TINY["style"])
    assert done.exit_code == 0, done.stderr
    assert "contact sheet:" in done.stderr
    run = max(lab.home.glob("runs/style-*"), key=lambda run: run.stat().st_mtime)
    assert (run / "sheet.png").read_bytes().startswith(b"\x89PNG")
    made = {vm: _captions(run / vm) for vm in ("gpuvm-01", "gpuvm-02")}
    assert made == {"gpuvm-01": {"content 0, style 5"}, "gpuvm-02": {"content 1, style 5"}}
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["distributed"] is False, "they need nothing of each other"
    assert manifest["warnings"] == []


def test_missing_gpu_is_reported_with_the_programs_own_line(lab: Lab) -> None:
    done = lab("run", "mnist", "--", "--device", "gpu")
    assert done.exit_code == 1
    assert "the worker on gpuvm-01 ended with status 2" in done.stderr
    message = [line for line in done.stderr.splitlines() if line.startswith("  gpuvm-01 |")]
    assert message == ["  gpuvm-01 | mnist: --device gpu: TensorFlow sees no GPU here"]
    assert "Traceback" not in done.stderr


def test_captions_here_and_on_a_vm_are_the_same(lab: Lab) -> None:
    """With the latest run of captioning, which is not the latest run."""
    picture = next(lab.home.glob("runs/captioning-*/gpuvm-01/samples/000.png"))
    here = lab("caption", str(picture), "--beam", "1", "--json")
    assert here.exit_code == 0, here.stderr
    assert here.json["data"]["run_id"].startswith("captioning-")
    knows = "trained on 96 rendered scenes of coloured shapes, not photographs; BLEU-4 "
    assert here.json["data"]["knows"].startswith(knows)
    there = lab("caption", str(picture), "--beam", "1", "--on", "gpuvm-02", "--json")
    assert there.exit_code == 0, there.stderr
    assert there.json["data"] == here.json["data"] | {"vm": "gpuvm-02"}
    nobody = lab("caption", str(picture), "--on", "gpuvm-09")
    assert nobody.exit_code == 2
    assert "gpuvm-01" in nobody.stderr


def test_the_studio_captions_a_dropped_picture_and_says_what_the_run_knows(lab: Lab) -> None:
    picture = next(lab.home.glob("runs/captioning-*/gpuvm-01/samples/000.png"))
    with studio(lab) as url, chromium() as browser, browser.visit(url) as visit:
        visit.page.get_by_role("tab", name="Captions").click()
        visit.says("trained on 96 rendered scenes of coloured shapes, not photographs")
        visit.uploaded("picture", picture)
        visit.page.get_by_label("Where").click()
        visit.page.get_by_role("option", name="gpuvm-02").click()
        visit.page.get_by_role("button", name="Caption", exact=True).click()
        said = visit.page.locator("#caption-text")
        said.wait_for()
        assert said.inner_text().split()


def _run(lab: Lab, name: str, *options: str) -> dict[str, Any]:
    done = lab("run", name, *options, "--json", "--", *TINY[name])
    assert done.exit_code == 0, done.stderr
    data = dict(done.json["data"])
    assert data["status"] == "succeeded"
    assert data["warnings"] == [], "it keeps its own contract"
    return data


def _manifest(data: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads((Path(data["dir"]) / "manifest.json").read_text()))


def _captions(folder: Path) -> set[str]:
    results = json.loads((folder / "results.json").read_text())
    captions = {sample["caption"] for sample in results["samples"]}
    return {caption for caption in captions if caption.startswith("content")}
