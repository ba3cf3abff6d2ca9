"""The numbers of whole recorded runs, among them such as no run should be, worked out by hand."""

from pathlib import Path
from typing import Any

import pytest
import report_records
from PIL import Image
from report_records import T0, RunRecords

from gpuvm import report
from gpuvm.report import RunReport
from gpuvm.report.records import read_manifest

VM = "gpuvm-01"


def numbers(run: RunReport) -> dict[str, Any]:
    """What a reader would call the result."""
    return {
        "seconds": run.seconds,
        "outcomes": [vm.outcome for vm in run.vms],
        "steps": [vm.steps for vm in run.vms],
        "rates": [vm.examples_per_second for vm in run.vms],
        "step_ms": [vm.step_seconds and 1000 * vm.step_seconds for vm in run.vms],
        "phases": {f"{row.group} {row.name}": row.overall_s for row in run.phases},
        "losses": {curve.label: (len(curve.points), curve.points[-1]) for curve in run.curves},
        "scores": {score.name: score.value for score in run.scores},
        "energy_wh": run.energy_wh,
    }


def one_step(run: RunRecords) -> None:
    run.phase("train", VM, 1, 5)
    run.start(VM)
    run.timing(
        VM, "step", 2, step=1, steps=1, loss=0.5, step_seconds=0.25, examples_per_second=256.0
    )
    run.timing(VM, "end", 3, ok=True, steps=1, seconds=3.0)
    run.gpu(VM, 1, 50.0, 100.0, 90.0)


def zero_duration(run: RunRecords) -> None:
    run.manifest(ended="2026-11-24T01:30:00+00:00", vms=real(run))
    run.phase("train", VM, 0, 0.0)
    run.start(VM)
    run.timing(VM, "step", 0, step=1, loss=0.0, step_seconds=0.0, examples_per_second=0.0)
    run.timing(VM, "end", 0, ok=True, steps=1, seconds=0.0)
    for _ in range(2):
        run.gpu(VM, 0, 0.0, 0.0, 25.0)


def clock_set_back(run: RunRecords) -> None:
    """By an hour, here and in the guest, in the middle of the run."""
    run.manifest(ended="2026-11-24T00:32:00+00:00", vms=real(run))
    run.phase("push", VM, 0, 2)
    run.event(t=T0 + 3, kind="phase", name="train", vm=VM, state="start")
    ended = {"t": T0 - 3600 + 60, "kind": "phase", "name": "train", "vm": VM, "state": "end"}
    run.event(**ended, seconds=57.0, ok=True)
    run.start(VM, 3)
    run.timing(VM, "phase", 4, name="train", state="start")
    for n, t in enumerate((5.0, 15.0, -3570.0, -3560.0), start=1):
        rate = {"step_seconds": 0.5, "examples_per_second": 128.0}
        run.timing(VM, "step", t, step=n, steps=4, loss=1 / n, **rate)
        run.gpu(VM, t, 80.0, 1024.0, 180.0, interval_s=10.0)
    run.timing(VM, "phase", -3559, name="train", state="end")
    run.timing(VM, "end", -3558, ok=True, steps=4, seconds=50.0)


def nothing_fetched(run: RunRecords) -> None:
    run.phase("push", VM, 0, 2)
    run.phase("train", VM, 2, None)


EMPTY: dict[str, Any] = {
    "seconds": 120.0,
    "outcomes": ["finished"],
    "steps": [None],
    "rates": [None],
    "step_ms": [None],
    "phases": {},
    "losses": {},
    "scores": {},
    "energy_wh": None,
}
RUNS = {
    "one step": (
        one_step,
        EMPTY
        | {
            "steps": [1],
            "rates": [256.0],
            "step_ms": [250.0],
            "phases": {"run train": 5.0},
            "losses": {VM: (1, (1, 0.5))},
        },
    ),
    "zero duration": (
        zero_duration,
        EMPTY
        | {
            "seconds": 0.0,
            "steps": [1],
            "rates": [0.0],
            "step_ms": [0.0],
            "phases": {"run train": 0.0},
            "losses": {VM: (1, (1, 0.0))},
        },
    ),
    "a clock that was set back": (
        clock_set_back,
        EMPTY
        | {
            "seconds": None,
            "steps": [4],
            "rates": [128.0],
            "step_ms": [500.0],
            "phases": {"run push": 2.0, "run train": 57.0, "workload train": 0.0},
            "losses": {VM: (4, (4, 0.25))},
            "energy_wh": pytest.approx(2 * 10 * 180 / 3600),
        },
    ),
    "nothing was fetched": (
        nothing_fetched,
        EMPTY | {"outcomes": ["no records"], "phases": {"run push": 2.0, "run train": None}},
    ),
}


def real(run: RunRecords) -> list[dict[str, Any]]:
    return [run.vm(i, name, simulated=False) for i, name in enumerate(run.names, start=1)]


@pytest.mark.parametrize("name", RUNS)
def test_degenerate_runs(tmp_path: Path, name: str) -> None:
    make, expected = RUNS[name]
    run = RunRecords(tmp_path, "stock-20261124-013000-ab12", 1)
    run.manifest(vms=real(run))
    make(run)
    data = report.build([run.dir])
    assert numbers(data.runs[0]) == expected
    assert_shown(tmp_path, data)
    twice = report.build([run.dir, run.dir])
    assert_shown(tmp_path, twice)


def assert_shown(tmp_path: Path, data: report.ReportData) -> None:
    report.write_html(data, tmp_path / "page.html")
    report.write_png(data, tmp_path / "slide.png")
    with Image.open(tmp_path / "slide.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (1920, 1080))
        assert picture.convert("L").getextrema() == (0, 255)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not {" nan", " inf", ">nan", ">inf", ">-"} & set(page.lower().split("<"))


def test_a_comparison_with_a_run_that_took_no_time(tmp_path: Path) -> None:
    made = []
    for number, step_s in enumerate((0.0, 0.5)):
        run = RunRecords(tmp_path, f"stock-20261124-01300{number}-ab12", 1)
        run.manifest(vms=real(run), gpus_hidden=bool(number), ended="2026-11-24T01:30:00+00:00")
        run.start(VM, device=f"/device:{'CPU' if number else 'GPU'}:0")
        run.timing(VM, "step", 1, step=1, step_seconds=step_s)
        made.append(run.dir)
    (ratio,) = report.compare(report.build(made).runs).ratios
    assert (ratio.refused, ratio.speed_up, ratio.saved, ratio.step_speed_up) == (None,) * 4


def test_a_whole_run(tmp_path: Path) -> None:
    found = numbers(report.build([report_records.captioning_run(tmp_path)]).runs[0])
    assert found.pop("losses").keys() == {f"gpuvm-0{n}" for n in range(1, 5)}
    assert [round(rate) for rate in found.pop("rates")] == [624, 620, 624, 626]
    assert [round(step) for step in found.pop("step_ms")] == [103, 103, 103, 102]
    assert found == {
        "seconds": pytest.approx(171.4),
        "outcomes": ["finished"] * 4,
        "steps": [400] * 4,
        "phases": {
            name: pytest.approx(seconds, abs=0.051)
            for name, seconds in {
                "provisioning plan": 0.8,
                "provisioning clone": 28.0,
                "provisioning configure": 9.0,
                "provisioning power_on": 10.3,
                "provisioning address": 18.05,
                "provisioning ready": 22.61,
                "run push": 1.5,
                "run check_network": 1.1,
                "run train": 158.2,
                "run fetch": 5.1,
                "workload data": 6.1,
                "workload encoder": 41.0,
                "workload features": 11.4,
                "workload train": 71.0,
                "workload evaluate": 17.5,
            }.items()
        },
        "scores": {"bleu4": 0.934, "exact_match": 0.762},
        "energy_wh": None,
    }


def test_a_failed_vm_counts_as_far_as_it_came(tmp_path: Path) -> None:
    run = report.build([report_records.failed_run(tmp_path)]).runs[0]
    found = numbers(run)
    assert found["outcomes"] == ["failed", "failed", "unfinished", "failed"]
    assert found["steps"] == [180] * 4
    assert found["phases"]["run train"] is None
    assert run.lost[0].name == "gpuvm-03"


def test_the_list_of_runs_has_the_same_first_score(tmp_path: Path) -> None:
    folder = report_records.captioning_run(tmp_path)
    (run,) = report.build([folder]).runs
    first = report.first_score(folder, read_manifest(folder))
    assert first == run.main_scores[0]
