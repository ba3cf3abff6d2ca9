"""The report as Markdown and CSV."""

import csv
from pathlib import Path

import report_records

from gpuvm import report


def test_markdown_says_what_the_page_says_first(tmp_path: Path) -> None:
    text = report.markdown(report.build([report_records.captioning_run(tmp_path)]))
    assert text.startswith("## captioning: succeeded\n")
    assert "captioning on 4 VMs together succeeded in 2 min 51 s, BLEU-4 0.912." in text
    assert "| gpuvm-04 | esx-04.lab.local |" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {"Score", "VM", "Phase"} <= {line.split(" | ")[0].strip("| ") for line in tables}


def test_the_summary_names_the_score_of_the_first_tile(tmp_path: Path) -> None:
    run = report_records.RunRecords(tmp_path, "captioning-20261124-013000-ab12", 1)
    run.manifest()
    run.start("gpuvm-01")
    for name, decoder, value in (
        ("bleu1", "greedy", 0.9),
        ("exact_match", "greedy", 0.7),
        ("bleu4", "greedy", 0.8),
        ("bleu4", "beam 3", 0.85),
    ):
        run.timing("gpuvm-01", "score", name=name, decoder=decoder, value=value)
    built = report.build([run.dir]).runs[0]
    assert [(score.name, score.decoder) for score in built.main_scores] == [
        ("bleu4", "greedy"),
        ("exact_match", "greedy"),
    ]
    assert built.summary.endswith("BLEU-4 0.800.")


def test_markdown_of_a_guest_is_data(tmp_path: Path) -> None:
    run = report_records.RunRecords(tmp_path, "x-20261124-013000-ab12", 1)
    run.manifest(workload="x", status="failed", error="a | b\n# <img src=x> [l](http://x)")
    text = report.markdown(report.build([run.dir]))
    assert r"**Error:** a \| b # \<img src=x\> \[l\](http://x)" in text


def test_csv_has_a_row_for_each_logged_step(tmp_path: Path) -> None:
    data = report.build([report_records.captioning_run(tmp_path)])
    header, *rows = csv.reader(report.steps_csv(data).splitlines())
    assert tuple(header) == report.text.STEP_COLUMNS
    assert len(rows) == sum(len(curve.points) for curve in data.runs[0].curves) > 0
    assert {row[1] for row in rows} == {f"gpuvm-0{i}" for i in range(1, 5)}
