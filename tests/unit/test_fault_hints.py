"""What is advised for faults as hosts and vCenters report them: by text, else by type."""

import pytest

from gpuvm.vsphere.faults import hint_for

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
        ("PCIPassthru: total number of pages needed (1048592) exceeds limit", "mmio_gib"),
    ],
)
def test_a_known_text_has_its_hint(text: str, advice: str) -> None:
    assert advice in (hint_for("GenericVmConfigFault", (POWER_ON, text)) or "")


@pytest.mark.parametrize("fault", ["InvalidHostState", "InvalidState", "InvalidProperty"])
def test_a_known_type_has_its_hint(fault: str) -> None:
    assert hint_for(fault, ("The operation is not allowed in the current state.",))
