"""report.compare: speed-ups worked out by hand, and what none is computed from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import report_records

from gpuvm import report
from gpuvm.errors import BadInput
from gpuvm.report import Comparison, Spread

GPU, CPU = "/device:GPU:0", "/device:CPU:0"
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a finished run of stock: its program took ``seconds``, a step ``step_s``."""

    def one(
        seconds: float,
        *,
        vms: int = 1,
        device: str | None = GPU,
        step_s: float = 0.1,
        vm: dict[str, Any] | None = None,
        **manifest: Any,
    ) -> Path:
        number = len(list(tmp_path.iterdir()))
        run = report_records.RunRecords(tmp_path, f"stock-20261124-0130{number:02d}-ab12", vms)
        known = {"simulated": False, "cpus": 8, "memory_gib": 32.0}
        members = [run.vm(i, name, **(known | (vm or {}))) for i, name in enumerate(run.names, 1)]
        run.manifest(**({"workload": "stock", "args": [], "vms": members} | manifest))
        for name in run.names:
            run.phase("train", name, 1, seconds)
            if device is not None:
                run.start(name, 2, device=device)
                rate = {"step_seconds": step_s, "examples_per_second": 100.0}
                run.timing(name, "step", 3, phase="train", step=1, steps=1, loss=1.0, **rate)
        return run.dir

    return one


def compare(*folders: Path) -> Comparison:
    return report.compare(report.build(folders).runs)


def test_with_and_without_a_gpu(make: Make) -> None:
    hidden = {"device": CPU, "gpus_hidden": True, "step_s": 0.4}
    found = compare(make(10), make(30, **hidden), make(12), make(36, **hidden), make(11))
    with_gpu, without = found.sides
    assert with_gpu.name == "passthrough: GP100GL [Tesla P100 PCIe 16GB]"
    assert without.name == found.baseline == "no GPU (hidden)"
    assert with_gpu.whole == Spread(10, 11, 12, 3)
    assert without.whole == Spread(30, 33, 36, 2)
    (ratio,) = found.ratios
    assert ratio.speed_up == pytest.approx(3)
    assert ratio.saved == pytest.approx(100 * 2 / 3)
    assert ratio.step_speed_up == pytest.approx(4)
    assert ratio.efficiency is None, "the number of VMs is the same"
    assert ratio.beyond_spread is True
    assert found.note is None
    assert "TensorFlow: 2.21.0" in found.equal
    assert found.different == ()


def test_a_difference_within_the_spread_is_said(make: Make) -> None:
    none = {"device": CPU, "vm": {"accelerator": "none", "gpus": []}}
    (ratio,) = compare(make(10), make(20), make(18, **none), make(25, **none)).ratios
    assert ratio.beyond_spread is False


def test_more_vms(make: Make) -> None:
    found = compare(make(40, vms=4, distributed=True), make(100))
    assert found.baseline == "1 VM"
    (ratio,) = found.ratios
    assert ratio.speed_up == pytest.approx(2.5)
    assert ratio.efficiency == pytest.approx(2.5 / 4)
    assert ratio.beyond_spread is None, "one run of a side says nothing of the spread"
    assert found.different == ("distributed: 4 VMs yes; 1 VM no",)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"device": CPU}, "it was to use the GPU, and used the CPU"),
        (
            {"device": CPU, "vm": {"simulated": True}},
            "its GPU is simulated: TensorFlow used the CPU",
        ),
        ({"device": None}, "which device it used is not recorded"),
    ],
)
def test_no_speed_up_of_another_device(make: Make, changed: dict[str, Any], why: str) -> None:
    without = make(30, device=CPU, gpus_hidden=True)
    (ratio,) = compare(make(10, **changed), without).ratios
    assert ratio.speed_up is None
    assert str(ratio.refused).startswith(why)


def test_the_lab_says_first_that_its_gpus_are_simulated(make: Make) -> None:
    simulated = {"device": CPU, "vm": {"simulated": True}}
    found = compare(make(10, **simulated), make(10, gpus_hidden=True, **simulated))
    assert found.note == report.comparison.SIMULATED
    assert found.ratios[0].speed_up is None


def test_the_side_without_a_gpu_is_the_baseline_under_any_name(make: Make) -> None:
    """Where accelerators and VMs do not tell sides apart, they are named by their runs."""
    hidden = {"device": CPU, "gpus_hidden": True}
    found = compare(make(10), make(12, args=["--x"]), make(30, **hidden))
    assert [side.without_gpu for side in found.sides] == [False, False, True]
    assert found.baseline == found.sides[2].name
    assert all(ratio.speed_up for ratio in found.ratios)


def test_nothing_is_said_of_simulated_gpus_that_were_all_hidden(make: Make) -> None:
    hidden = {"device": CPU, "gpus_hidden": True, "vm": {"simulated": True}}
    found = compare(make(10, **hidden), make(20, args=["--x"], **hidden))
    assert found.note is None
    assert found.ratios[0].speed_up is not None


def test_a_program_of_ones_own_is_compared_by_its_times(make: Make) -> None:
    own = {"device": None, "workload": "train", "contract": False}
    old, new = {"train.py": "a" * 64, "x.py": "c" * 64}, {"train.py": "b" * 64, "x.py": "c" * 64}
    found = compare(make(30, project=old, **own), make(20, project=new, **own))
    assert found.note == report.comparison.UNRECORDED
    assert found.ratios[0].speed_up == pytest.approx(1.5)
    assert found.different == ("files of the project: train.py",)


def test_runs_made_alike_are_sides_of_their_own_when_nothing_else_differs(make: Make) -> None:
    found = compare(make(10), make(20))
    assert [len(side.runs) for side in found.sides] == [1, 1]


def test_what_cannot_be_compared(make: Make) -> None:
    fine = make(10)
    for other, why in (
        (make(10, workload="style"), "different programs cannot be compared: stock, style"),
        (make(10, status="failed"), "is recorded as failed"),
        (make(0, ended=None), "its times are not recorded"),
        (fine, "two runs or more"),
    ):
        with pytest.raises(BadInput, match=why):
            compare(fine, other)
