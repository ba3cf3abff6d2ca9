"""The first cause is said: whether VMs exist, are powered on, have an address; then the key."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from gpuvm.cli import run_targets, targets
from gpuvm.errors import GpuvmError, PreflightRefused
from gpuvm.events import Events
from gpuvm.inventory import VM


def vm(index: int, *, on: bool = True, address: str | None = "192.0.2.1", **more: Any) -> VM:
    name, addresses = f"gpuvm-{index:02d}", (address,) if address else ()
    return VM(name, f"vm-{index}", "esx-01", on, "u", index=index, addresses=addresses, **more)


OFF_1, OFF_2 = (vm(n, on=False, address=None) for n in (1, 2))
SILENT = vm(1, address=None)


@pytest.mark.parametrize(
    ("ours", "cause", "hint"),
    [
        ([], "no VM of 'gpuvm' exists", "'gpuvm provision'"),
        ([OFF_1], "gpuvm-01 is powered off", "'gpuvm start'"),
        ([OFF_1, OFF_2], "all VMs of 'gpuvm' are powered off", "'gpuvm start'"),
        ([SILENT, OFF_2], "gpuvm-01 has no address yet; VMware Tools is not", "'gpuvm status'"),
    ],
)
def test_why_no_vm_can_be_spoken_to(ours: list[VM], cause: str, hint: str) -> None:
    with pytest.raises(GpuvmError) as caught:
        targets._all_running(ours, "gpuvm")
    assert cause in str(caught.value)
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("ours", "cause", "hint"),
    [
        ([vm(1)], "'gpuvm' has 1", "'gpuvm provision --hosts 2'"),
        ([vm(1), OFF_2], "gpuvm-02 is powered off", "'gpuvm start gpuvm-02'"),
        ([vm(2), SILENT], "gpuvm-01 has no address yet", "'gpuvm status'"),
    ],
)
def test_why_a_run_cannot_be_distributed(ours: list[VM], cause: str, hint: str) -> None:
    refused = targets.too_few(ours, "gpuvm")
    assert cause in str(refused)
    assert hint in str(refused.hint)


def test_one_named_vm_is_too_few_for_a_distributed_run() -> None:
    """Of a deployment with two it is no reason to provision any."""
    refused = targets.too_few([vm(1), vm(2)], "gpuvm", ["gpuvm-01"])
    assert "--vm names gpuvm-01 alone" in str(refused)
    assert "provision" not in str(refused.hint)


def test_a_named_vm_of_a_deployment_without_any() -> None:
    with pytest.raises(GpuvmError, match="no VM of 'gpuvm' exists"):
        targets._find([], "gpuvm", "gpuvm-01")


@pytest.mark.parametrize(
    ("ours", "cause", "hint"),
    [
        ([], "the run was on vm-01, and 'gpuvm' has no such VM any more", "'gpuvm report mnist-"),
        ([vm(1, on=False)], "none of the run's VMs is running: vm-01", "'gpuvm start vm-01' "),
    ],
)
def test_why_a_run_cannot_be_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: list[VM], cause: str, hint: str
) -> None:
    """A VM that is gone cannot be started."""
    monkeypatch.setenv("GPUVM_RUNS_DIR", str(tmp_path))
    run_id = "mnist-20260101-000000-aaaa"
    record = {
        "run_id": run_id,
        "workload": "mnist",
        "vcenter": {"name": "vc"},
        "started": "2026-01-01T00:00:00Z",
        "vms": [{"name": "vm-01"}],
    }
    (tmp_path / run_id).mkdir()
    (tmp_path / run_id / "manifest.json").write_text(json.dumps(record))
    ours = [replace(one, name="vm-01") for one in ours]
    guests = run_targets.Guests(cast("Any", None), "gpuvm", ours, [], Events(), [])
    with pytest.raises(PreflightRefused) as refused:
        guests.run(run_id)
    assert cause in str(refused.value)
    assert hint in str(refused.value.hint)
    assert ("gpuvm start" in str(refused.value.hint)) == bool(ours)
