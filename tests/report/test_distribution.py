"""A distributed run: its speed-up, its workers' times and its incidents, worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
import report_records
from report_records import RunRecords

from gpuvm import report
from gpuvm.cli import run_summary
from gpuvm.cli.console import PlainConsole
from gpuvm.report.distribution_model import AgainstOneVM, Distribution


def of(folder: Path) -> Distribution:
    found = report.build([folder]).runs[0].distribution
    assert found is not None
    return found


def changed(folder: Path, **changes: Any) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def texts(folder: Path, tmp_path: Path) -> tuple[str, str, str]:
    """Page, Markdown and what a terminal shows."""
    data = report.build([folder])
    report.write_html(data, tmp_path / "page.html")
    with (tmp_path / "terminal.txt").open("w") as terminal:
        PlainConsole(file=terminal, width=110).print(run_summary.of(data, 110))
    files = [tmp_path / "page.html", tmp_path / "terminal.txt"]
    page, terminal_text = (file.read_text(encoding="utf-8") for file in files)
    return page, report.markdown(data), terminal_text


def test_a_run_against_one_vm(tmp_path: Path) -> None:
    alone = report_records.one_vm_run(tmp_path)
    found = of(report_records.local_sgd_run(tmp_path)).against
    assert found is not None
    assert (found.run_id, found.refused, found.different) == (alone.name, None, ())
    assert {row.title: (row.one_vm_s, row.together_s) for row in found.rows} == {
        "Whole program": (40.0, 25.0),
        "Encoder": (3.0, 2.0),
        "Train": (24.0, 13.0),
    }
    assert [row.speed_up for row in found.rows] == pytest.approx([1.6, 1.5, 24 / 13])
    assert [row.efficiency for row in found.rows] == pytest.approx([160 / 3, 50, 800 / 13])


def test_what_the_workers_did_between_two_averages(tmp_path: Path) -> None:
    """The round that gpuvm-03 lost, and the 20 s that it was away, are left out."""
    workers = of(report_records.local_sgd_run(tmp_path)).workers
    assert [(one.phase, one.vm, one.slowest) for one in workers] == [
        (phase, f"gpuvm-0{n}", n == 2) for phase in ("encoder", "train") for n in (1, 2, 3)
    ]

    def shown(name: str) -> Any:
        values = [getattr(one, name) for one in workers]
        return pytest.approx(values, rel=1e-4)

    assert shown("step_seconds") == [0.4 / 48] * 3 + [1.3 / 48] * 3
    assert shown("computing_seconds") == [t / 48 for t in (0.2, 0.3, 0.2, 0.8, 1.2, 0.8)]
    assert shown("communicating") == [50, 25, 50, 500 / 13, 100 / 13, 500 / 13]
    assert [one.waiting for one in workers] == pytest.approx(
        [25, 0, 25, 400 / 13, 0, 400 / 13], abs=1e-3
    )


def test_it_is_in_every_form_of_the_report(tmp_path: Path) -> None:
    report_records.one_vm_run(tmp_path)
    for text in texts(report_records.local_sgd_run(tmp_path), tmp_path):
        for part in ("1.60 times as fast as one VM", "efficiency 53 % per VM", "27.1 ms", "38 %"):
            assert part in text
        assert "slowest" in text
        for part in ("silent for 15 s", "joined the others after a round", "22.4 s"):
            assert part in text
    (plain,) = run_summary.as_json(report.build([tmp_path / "captioning-20261124-110000-3333"]))[
        "runs"
    ]
    assert plain["distribution"]["strategy"] == "local-sgd"
    assert plain["distribution"]["incidents"][0]["lost_steps"] == 16


def test_older_records_leave_it_out(tmp_path: Path) -> None:
    """Their steps have times, and nothing says what was communicated."""
    folder = report_records.captioning_run(tmp_path)
    found = of(folder)
    assert (found.strategy, found.against, found.incidents) == (None, None, ())
    assert {one.computing_seconds for one in found.workers} == {None}
    assert [one.vm for one in found.workers if one.slowest] in [[f"gpuvm-0{n}"] for n in (1, 2, 3)]
    page, markdown, terminal = texts(folder, tmp_path)
    assert "Communicating" not in page
    assert "COMMUNICATING" not in terminal
    assert "Incident" not in page + markdown
    one = report.build([report_records.one_vm_run(tmp_path)]).runs[0]
    assert one.distribution is None


def test_all_reduce_from_its_steps(tmp_path: Path) -> None:
    run = RunRecords(tmp_path, "captioning-20261124-013000-ab12", 2)
    run.manifest(strategy="allreduce")
    for vm, communicating in zip(run.names, (0.03, 0.01), strict=True):
        run.start(vm)
        run.timing(vm, "step", 1, step=1, loss=2.0)
        for step in (10, 20):
            times = {"step_seconds": 0.04, "communication_seconds": communicating}
            run.timing(vm, "step", step, step=step, loss=1.0, **times)
    first, second = of(run.dir).workers
    assert (first.step_seconds, first.slowest, first.waiting) == (0.04, False, None)
    assert (first.communicating, second.communicating) == pytest.approx((75, 25))
    assert second.slowest
    assert second.computing_seconds == pytest.approx(0.03)
    assert "Waiting" not in texts(run.dir, tmp_path)[0]


NAN, LONG = float("nan"), 1e308


@pytest.mark.parametrize(
    "averages",
    [
        [],
        [(1, 48, 0.5)],
        [(1, 48, 0.5), (1, 96, 0.5)],
        [(1, 48, 0.5), (-3600, 96, 0.5)],
        [(1, 48, 0.5), (2, 48, 0.5)],
        [(1, 48, NAN), (2, 96, NAN), (3, 144, float("inf"))],
        [(1, 48, 0.5), (2, 96, 1.5), (3, 144, -1.0), (4, 192, LONG)],
    ],
)
def test_nothing_is_said_of_what_cannot_be(
    tmp_path: Path, averages: list[tuple[float, int, float]]
) -> None:
    run = RunRecords(tmp_path, "captioning-20261124-013000-ab12", 2)
    run.manifest(strategy="local-sgd", ended="2026-11-24T01:30:00+00:00")
    for vm in run.names:
        run.phase("train", vm, 0, 0.0)
        run.start(vm)
        for t, step, seconds in averages:
            run.timing(vm, "average", t, phase="train", step=step, seconds=seconds)
    assert of(run.dir).workers == ()
    for text in texts(run.dir, tmp_path):
        assert "<h2>Distribution" not in text
        assert not {"COMMUNICATING", "Communicating", "nan", "inf"} & set(text.split())


def against(run: Path) -> AgainstOneVM | None:
    return of(run).against


def test_only_a_run_of_the_same_is_compared_with(tmp_path: Path) -> None:
    run = report_records.local_sgd_run(tmp_path)
    assert against(run) is None, "there is none"
    alone = report_records.one_vm_run(tmp_path)
    text = (alone / "manifest.json").read_text()
    original = json.loads(text)
    gpu = original["vms"][0] | {"gpus": [original["vms"][0]["gpus"][0] | {"model": "A100"}]}
    others: tuple[dict[str, Any], ...] = (
        {"status": "failed"},
        {"workload": "stock"},
        {"args": ["--steps", "481"]},
        {"args": []},
        {"project": {"a.py": "0" * 64}},
        {"gpus_hidden": True},
        {"vms": [gpu]},
        {"vms": [original["vms"][0] | {"accelerator": "none", "gpus": []}]},
        {"vms": []},
    )
    for change in others:
        changed(alone, **change)
        assert against(run) is None, change
        (alone / "manifest.json").write_text(text)
    for args in (
        ["--steps", "480"],
        ["--seed=7", "--steps", "480", "--average-every", "4"],
        ["--global-batch", "--steps", "480"],
    ):
        changed(alone, args=args)
        assert against(run) is not None, args
    (alone / "manifest.json").write_text("{")
    assert against(run) is None, "it cannot be read"


def test_the_latest_is_compared_with_and_what_differs_is_said(tmp_path: Path) -> None:
    run = report_records.local_sgd_run(tmp_path)
    first = report_records.one_vm_run(tmp_path)
    later = first.rename(tmp_path / "captioning-20261124-100000-2222")
    started = {"started": "2026-11-24T01:00:00Z", "ended": "2026-11-24T01:01:00Z"}
    changed(later, run_id=later.name, gpuvm_version="0.0.9", **started)
    report_records.one_vm_run(tmp_path)
    found = against(run)
    assert found is not None
    assert found.run_id == later.name
    assert found.different == ("gpuvm: 1 VM 0.0.9; 3 VMs 0.1.0",)


def test_no_speed_up_of_a_simulated_gpu(tmp_path: Path) -> None:
    """As 'gpuvm compare' has it; both times are there."""
    run, alone = report_records.local_sgd_run(tmp_path), report_records.one_vm_run(tmp_path)
    for folder in (run, alone):
        vms = json.loads((folder / "manifest.json").read_text())["vms"]
        changed(folder, vms=[vm | {"simulated": True} for vm in vms])
    found = against(run)
    assert found is not None
    assert {row.speed_up for row in found.rows} == {row.efficiency for row in found.rows} == {None}
    assert found.sentence == (
        f"25.0 s against 40.0 s on one VM ({alone.name}); no speed-up is computed "
        "(its GPU is simulated: TensorFlow used the CPU)."
    )
    assert "Speed-up" not in texts(run, tmp_path)[0]


def test_a_resumed_run_is_not_compared_with(tmp_path: Path) -> None:
    run, alone = report_records.local_sgd_run(tmp_path), report_records.one_vm_run(tmp_path)
    file = alone / "gpuvm-01" / "timings.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    kept = [line for line in lines if line["event"] != "step" or line["step"] > 300]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in kept))
    assert against(run) is None


def test_of_a_run_that_started_again_only_the_whole_is_compared(tmp_path: Path) -> None:
    """As with all-reduce, where all workers begin again when one was lost."""
    run, _ = report_records.local_sgd_run(tmp_path), report_records.one_vm_run(tmp_path)
    for vm in ("gpuvm-01", "gpuvm-02", "gpuvm-03"):
        file = run / vm / "timings.jsonl"
        lines = file.read_text().splitlines(keepends=True)
        later = [line for line in lines if "start" in line or '"step": 480' in line]
        file.write_text("".join([*lines, *later]))
    found = against(run)
    assert found is not None
    (row,) = found.rows
    assert row.title == "Whole program"
    assert row.speed_up == pytest.approx(1.6)


def test_runs_that_took_no_time(tmp_path: Path) -> None:
    run, alone = report_records.local_sgd_run(tmp_path), report_records.one_vm_run(tmp_path)
    for folder in (run, alone):
        (folder / "events.jsonl").unlink()
        started = json.loads((folder / "manifest.json").read_text())["started"]
        changed(folder, ended=started)
    found = against(run)
    assert found is not None
    assert found.rows[0].speed_up is None
    assert found.rows[1].speed_up == pytest.approx(1.5)
    texts(run, tmp_path)


def test_a_truncated_list_of_incidents_is_said(tmp_path: Path) -> None:
    run = report_records.local_sgd_run(tmp_path)
    with (run / "incidents.jsonl").open("a") as file:
        file.write('{"at": "2026-')
    built = report.build([run]).runs[0]
    assert built.distribution is not None
    assert len(built.distribution.incidents) == 2
    assert "The last line of incidents.jsonl is truncated." in built.warnings


def test_compare_names_the_strategies(tmp_path: Path) -> None:
    one = report_records.local_sgd_run(tmp_path)
    other = one.rename(tmp_path / "captioning-20261124-120000-4444")
    changed(other, run_id=other.name, strategy="allreduce")
    one = report_records.local_sgd_run(tmp_path)
    found = report.compare(report.build([one, other]).runs)
    assert [side.name for side in found.sides] == ["3 VMs, local-sgd", "3 VMs, allreduce"]
    assert found.different == (
        "distributed: 3 VMs, local-sgd local-sgd; 3 VMs, allreduce allreduce",
    )
