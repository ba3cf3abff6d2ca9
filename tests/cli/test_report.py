"""gpuvm report: pages and pictures are files, text is printed, prefixes name runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import report_records
from PIL import Image
from typer.testing import CliRunner

from gpuvm import paths
from gpuvm.cli import main

Report = Callable[..., Any]


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
    """Of two captioning runs and one of the user's own, from the folder beside theirs."""
    monkeypatch.chdir(tmp_path)
    paths.runs_dir().mkdir(exist_ok=True)
    for make in (report_records.captioning_run, report_records.failed_run, report_records.own_run):
        make(paths.runs_dir())
    return lambda *arguments: CliRunner().invoke(main.app, ["report", *arguments])


def test_a_picture_is_a_file_in_the_run_or_where_it_is_wanted(
    report: Report, tmp_path: Path
) -> None:
    done = report("captioning-20261124-0130", "--format", "png")
    assert done.exit_code == 0, done.output
    file = "runs/captioning-20261124-013000-ab12/report.png"
    assert done.stdout.splitlines()[-1] == f"report: {file}"
    assert "\0" not in done.stdout
    done = report("captioning-20261124-01", "captioning-20261124-02", "--format", "png")
    assert done.stdout.splitlines()[-1] == "report: runs/report.png"
    report("train", "--format", "png", "-o", "slides/one.png")
    for picture in (file, "runs/report.png", "slides/one.png"):
        with Image.open(tmp_path / picture) as image:
            assert (image.format, image.size) == ("PNG", (1920, 1080))


def test_text_is_printed_and_a_page_is_not(report: Report) -> None:
    assert report("train", "--format", "md").stdout.startswith("## train.py: succeeded")
    shown = report("train").stdout
    assert "report: runs/train-20261124-060000-0000/report.html" in shown
    assert "<html" not in shown


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("captioning",), "several runs fit: captioning-20261124-013000-ab12, captioning-2026"),
        (("style",), "run 'style' not found in runs"),
        (("train", "--format", "csv", "--open"), "--open needs --format html or png"),
        (("train", "--format", "png", "-o", "."), "cannot write .: "),
        (("train", "--format", "html", "-o", "runs/train-20261124-060000-0000"), "cannot write ru"),
    ],
)
def test_what_is_refused(report: Report, arguments: tuple[str, ...], problem: str) -> None:
    done = report(*arguments)
    assert done.exit_code == 2
    assert problem in " ".join(done.output.split())
