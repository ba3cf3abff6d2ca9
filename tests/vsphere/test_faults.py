"""Hints for faults of hosts and vCenters: by text, else by type."""

import pytest
from pyVmomi import vim, vmodl

from gpuvm import settings
from gpuvm.vsphere.connection import _no_connection
from gpuvm.vsphere.faults import hint_for, task_failed

POWER_ON = "Module 'DevicePowerOn' power on failed."
NO_RESET = (
    "Failed to register the device pciPassthru0 due to unavailable hardware or software support."
)
NO_VGPU = "The amount of graphics resource available in the parent resource pool is insufficient"


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (NO_RESET, "passthru.map"),
        (NO_VGPU, "gpuvm gpus"),
        ("could not initialize plugin '/usr/lib64/vmware/plugin/libnvidia-vgx.so'", "vGPU driver"),
        ("The following device(s) (pciPassthru0) are not available on host esx-01.", "gpuvm plan"),
        ("PCIPassthru: total number of pages needed (1048592) exceeds limit", "mmio_gib"),
    ],
)
def test_a_known_text_has_its_hint(text: str, advice: str) -> None:
    assert advice in (hint_for("GenericVmConfigFault", (POWER_ON, text)) or "")


@pytest.mark.parametrize("fault", ["InvalidHostState", "InvalidState", "InvalidProperty"])
def test_a_known_type_has_its_hint(fault: str) -> None:
    assert hint_for(fault, ("The operation is not allowed in the current state.",))


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (vmodl.query.InvalidProperty(name="config.noSuch"), "property config.noSuch"),
        (vim.fault.InvalidVmConfig(property="numCPUs"), "property numCPUs"),
        (
            vim.fault.InvalidDeviceSpec(property="backing", deviceIndex=2),
            "device change 2: backing",
        ),
        (vmodl.fault.InvalidArgument(invalidProperty="spec.pool"), "argument spec.pool"),
    ],
)
def test_what_is_refused_is_named(fault: object, named: str) -> None:
    error = task_failed("clone", "gpuvm-01", fault, "")
    assert named in str(error)
    assert error.hint


def test_a_fault_that_names_nothing_has_no_empty_name() -> None:
    assert (
        "property" not in str(task_failed("read", "x", vmodl.query.InvalidProperty(), "")).split()
    )


@pytest.mark.parametrize(
    ("host", "there"), [("vc.example", "vc.example:443"), ("2001:db8::10", "[2001:db8::10]:443")]
)
def test_hinted_url_is_valid(host: str, there: str) -> None:
    assert settings.authority(host, 443) == there
    error = _no_connection(host, 443, OSError("no route"))
    assert f"https://{there}/sdk/" in (error.hint or "")
    assert there in str(error)


def test_a_proxy_that_is_not_used_is_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert "PROXY" not in (_no_connection("vc", 443, OSError("x")).hint or "")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert "HTTPS_PROXY is set" in (_no_connection("vc", 443, OSError("x")).hint or "")
