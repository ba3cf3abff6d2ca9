"""Grids of pictures and what a program of one's own left: bounded, and only from inside the run."""

from pathlib import Path

import pytest
import report_records

from gpuvm import report
from gpuvm.report.gallery import MOST, gallery
from gpuvm.report.own_files import MOST_FILES, MOST_PICTURES
from gpuvm.report.scores import media_type
from gpuvm.report.vms import TAIL_LINES

PNG = b"\x89PNG\r\n\x1a\n"


def test_a_sweep_is_one_grid_over_all_its_vms(tmp_path: Path) -> None:
    found = gallery(report.build([report_records.sweep_run(tmp_path)]).runs)
    assert found is not None
    assert (found.down, found.across, found.left_out) == ("content", "style", 0)
    assert found.columns == (0.0, 2.5, 5.0, 10.0)
    assert [row.value for row in found.rows] == [0.0, 1.0, 2.0]
    assert {len(cell) for row in found.rows for cell in row.cells} == {1}
    assert {one.run for row in found.rows for cell in row.cells for one in cell} == {None}


def test_single_runs_are_a_grid_together_with_gaps(tmp_path: Path) -> None:
    weights = ((1, 5), (1, 10), (2, 5))
    runs = [report_records.style_run(tmp_path, *pair) for pair in weights]
    found = gallery(report.build(runs).runs)
    assert found is not None
    sizes = [[len(cell) for cell in row.cells] for row in found.rows]
    assert sizes == [[1, 1], [1, 0]]
    assert found.rows[0].cells[0][0].run == runs[0].name
    assert gallery(report.build(runs[:1]).runs) is None, "one picture is no grid"


def test_a_large_grid_is_thinned_with_its_corners(tmp_path: Path) -> None:
    run = report_records.RunRecords(tmp_path, "style-20261124-040000-eeee", 1)
    run.manifest(workload="style")
    vm = run.names[0]
    (run.dir / vm).mkdir()
    (run.dir / vm / "one.png").write_bytes(PNG)
    cells = [{"a": a, "b": b} for a in range(25) for b in range(12)]
    run.results(vm, samples=[{"image": "one.png", "caption": "x", "at": at} for at in cells])
    found = gallery(report.build([run.dir]).runs)
    assert found is not None
    assert (len(found.rows), len(found.columns)) == (MOST, MOST)
    assert (found.rows[-1].value, found.columns[0], found.columns[-1]) == (24, 0, 11)
    assert found.left_out == 25 * 12 - MOST * MOST


def test_what_a_program_left_is_listed_and_its_pictures_are_shown(tmp_path: Path) -> None:
    run = report.build([report_records.own_run(tmp_path)]).runs[0]
    assert run.own is not None
    assert {(file.name, file.size) for file in run.own.files} >= {
        ("curve.csv", 4),
        ("project/model/weights.bin", 123_456),
    }
    assert run.own.count == 4
    assert [one.caption for one in run.own.pictures] == ["project/plot.png", "project/plot.svg"]
    (tail,) = run.vms[0].tails
    assert len(tail.lines) == TAIL_LINES
    assert tail.lines[-1] == "<script>alert(1)</script>"


def test_many_files_and_pictures_and_links_out_of_the_run(tmp_path: Path) -> None:
    run_dir = report_records.own_run(tmp_path)
    folder = run_dir / "gpuvm-01/more"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number:03}.png").write_bytes(PNG)
    (folder / "huge.png").write_bytes(PNG + bytes(5 << 20))
    (folder / "link.png").symlink_to("/etc/hostname")
    own = report.build([run_dir]).runs[0].own
    assert own is not None
    assert len(own.files) == MOST_FILES
    assert own.count == 4 + 301
    assert len(own.pictures) == MOST_PICTURES


def test_a_shipped_workload_has_no_such_list(tmp_path: Path) -> None:
    assert report.build([report_records.captioning_run(tmp_path)]).runs[0].own is None


@pytest.mark.parametrize(
    ("begins", "kind"),
    [
        (b"<svg xmlns=''>", "image/svg+xml"),
        (b'<?xml version="1.0"?>\n<!-- x -->\n<svg>', "image/svg+xml"),
        (b"<html><body>", None),
        (b"text with <svg", None),
        (b"GIF89a", "image/gif"),
    ],
)
def test_kinds_of_pictures(begins: bytes, kind: str | None) -> None:
    assert media_type(begins) == kind
