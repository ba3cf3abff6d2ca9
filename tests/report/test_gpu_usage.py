"""How GPUs were used: energy by hand, gaps and clocks that are set, and what is never computed."""

from pathlib import Path
from typing import Any

import pytest
import report_records
from report_records import RunRecords

from gpuvm import report
from gpuvm.errors import BadInput
from gpuvm.report import RunReport
from gpuvm.report.gpu_usage import MOST_POINTS

VM = "gpuvm-01"


@pytest.fixture
def run(tmp_path: Path) -> RunRecords:
    """With a real GPU."""
    return real(tmp_path, "stock-20261124-013000-ab12")


def real(folder: Path, run_id: str, vms: int = 1, **changes: Any) -> RunRecords:
    made = RunRecords(folder, run_id, vms)
    machines = [made.vm(i, name, simulated=False) for i, name in enumerate(made.names, start=1)]
    made.manifest(**({"vms": machines} | changes))
    for name in made.names:
        made.start(name, device="/device:GPU:0", device_name="Tesla P100")
    return made


def built(run: RunRecords) -> RunReport:
    return report.build([run.dir]).runs[0]


def test_energy_is_the_trapezoid_over_the_samples(run: RunRecords) -> None:
    for t, power in ((0, 100.0), (2, 200.0), (4, 200.0), (6, 100.0)):
        run.gpu(VM, t, 50.0, 4096.0, power)
    (gpu,) = built(run).gpu_usage
    assert gpu.energy_wh == pytest.approx((2 * 150 + 2 * 200 + 2 * 150) / 3600)
    assert gpu.power_w == pytest.approx(1000 / 6)
    assert (gpu.measured_s, gpu.gaps, gpu.samples) == (6.0, 0, 4)
    assert built(run).energy_wh == gpu.energy_wh


def test_a_gap_is_not_bridged(run: RunRecords) -> None:
    for t in (0, 2, 1000, 1002):
        run.gpu(VM, t, 50.0, 4096.0, 180.0)
    (gpu,) = built(run).gpu_usage
    assert gpu.energy_wh == pytest.approx(4 * 180 / 3600)
    assert (gpu.measured_s, gpu.gaps) == (4.0, 1)
    assert [(one.at_s, one.begins) for one in gpu.points] == [
        (0.0, True),
        (2.0, False),
        (1000.0, True),
        (1002.0, False),
    ]


def test_a_clock_that_was_set_back_costs_one_interval(run: RunRecords) -> None:
    for t in (0, 2, -3600, -3598):
        run.gpu(VM, t, 50.0, 4096.0, 180.0)
    (gpu,) = built(run).gpu_usage
    assert gpu.energy_wh == pytest.approx(4 * 180 / 3600)
    assert gpu.gaps == 1
    assert [one.at_s for one in gpu.points] == [0.0, 2.0, 4.0, 6.0]


def test_a_longer_interval_is_no_gap_and_weighs_more(run: RunRecords) -> None:
    run.gpu(VM, 0, 0.0, 4096.0, 100.0)
    run.gpu(VM, 2, 0.0, 4096.0, 100.0)
    run.gpu(VM, 10, 100.0, 4096.0, 100.0, interval_s=8.0)
    (gpu,) = built(run).gpu_usage
    assert (gpu.measured_s, gpu.gaps) == (10.0, 0)
    assert gpu.utilization == pytest.approx(100 * 8 / 12)


def test_several_gpus_are_added_up(tmp_path: Path) -> None:
    run = real(tmp_path, "mnist-20261124-013000-ab12", vms=2)
    for vm in run.names:
        for gpu in (0, 1):
            for t in (0, 2):
                run.gpu(vm, t, 90.0, 100.0, 180.0, gpu=gpu)
    found = built(run)
    assert [(one.vm, one.gpu) for one in found.gpu_usage] == [
        ("gpuvm-01", 0),
        ("gpuvm-01", 1),
        ("gpuvm-02", 0),
        ("gpuvm-02", 1),
    ]
    assert found.energy_wh == pytest.approx(4 * 2 * 180 / 3600)


def test_a_vgpu_without_power_has_no_energy(run: RunRecords) -> None:
    for t in (0, 2):
        run.gpu(VM, t, 90.0, 100.0, None)
    found = built(run)
    assert (found.energy_wh, found.gpu_usage[0].power_w) == (None, None)
    assert found.energy_note == f"no power was reported on {VM}, as is usual for a vGPU"
    assert "No GPU energy: no power was reported" in report.markdown(report.build([run.dir]))


def test_no_energy_of_a_part_of_the_gpus(tmp_path: Path) -> None:
    run = real(tmp_path, "mnist-20261124-013000-ab12", vms=2)
    for t in (0, 2):
        run.gpu(VM, t, 90.0, 100.0, 180.0)
    assert built(run).energy_wh is None
    assert built(run).energy_note == "the GPUs of gpuvm-02 were not sampled"


def test_no_energy_of_simulated_gpus(tmp_path: Path) -> None:
    run = RunRecords(tmp_path, "mnist-20261124-013000-ab12", 1)
    run.manifest()
    run.start(VM)
    for t in (0, 2):
        run.gpu(VM, t, 90.0, 100.0, 180.0)
    assert built(run).energy_wh is None
    page = tmp_path / "report.html"
    report.write_html(report.build([run.dir]), page)
    assert "no energy is computed from it" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("samples", [0, 1])
def test_too_few_samples_for_energy(run: RunRecords, samples: int) -> None:
    for _ in range(samples):
        run.gpu(VM, 0, 90.0, 100.0, 180.0)
    found = built(run)
    assert found.energy_wh is None
    assert [gpu.energy_wh for gpu in found.gpu_usage] == [None] * samples
    report.write_html(report.build([run.dir]), run.dir / "report.html")


def test_a_truncated_last_sample_is_left_out_and_a_corrupt_one_named(run: RunRecords) -> None:
    run.gpu(VM, 0, 90.0, 100.0, 180.0)
    run.append(f"{VM}/gpu_samples.jsonl", '{"t": 17')
    assert built(run).gpu_usage[0].samples == 1
    (warning,) = [one for one in built(run).warnings if "gpu_samples" in one]
    assert warning == f"The last line of {VM}/gpu_samples.jsonl is truncated and was skipped."
    run.append(f"{VM}/gpu_samples.jsonl", '\n{"t": "now", "gpu": 0}\n')
    with pytest.raises(BadInput, match=r"gpu_samples.jsonl:2: "):
        built(run)


def test_a_month_of_samples_is_averaged_for_the_chart(run: RunRecords) -> None:
    lines = [
        f'{{"t": {t}, "gpu": 0, "utilization": {t // 2 % 2 * 100}, "power_w": 90, "interval_s": 2}}'
        for t in range(0, 40_000, 2)
    ]
    run.append(f"{VM}/gpu_samples.jsonl", "\n".join(lines) + "\n")
    (gpu,) = built(run).gpu_usage
    assert len(gpu.points) <= MOST_POINTS
    assert {one.utilization for one in gpu.points} == {50.0}
    assert gpu.energy_wh == pytest.approx(39_998 * 90 / 3600)


def test_energy_is_compared_where_every_run_has_it(tmp_path: Path) -> None:
    hidden = {"gpus_hidden": True}
    runs = [
        real(tmp_path, f"stock-20261124-0{n}0000-ab12", **(hidden if n % 2 else {}))
        for n in range(4)
    ]
    for number, run in enumerate(runs):
        run.phase("train", VM, 0, 10)
        for t in (0, 2) if number != 3 else ():
            run.gpu(VM, t, 90.0, 100.0, 180.0 + number)
    with_gpu, without = report.compare(report.build([run.dir for run in runs]).runs).sides
    assert with_gpu.energy_wh is not None
    assert with_gpu.energy_wh.low == pytest.approx(180 * 2 / 3600)
    assert with_gpu.energy_wh.high == pytest.approx(182 * 2 / 3600)
    assert without.energy_wh is None
    page = tmp_path / "both.html"
    report.write_html(report.build([run.dir for run in runs]), page)
    shown = page.read_text(encoding="utf-8")
    assert "0.101 Wh (0.1 Wh to 0.101 Wh)" in shown
    assert shown.count('<td class="n">0.1 Wh</td>') == 2, "in the list of runs, and of its GPUs"


def test_a_record_of_an_older_version_has_no_usage(tmp_path: Path) -> None:
    found = report.build([report_records.captioning_run(tmp_path)]).runs[0]
    assert (found.gpu_usage, found.energy_wh, found.energy_note) == ((), None, None)
