"""Hosts with an HGX board: NVSwitches are shown; a plan for part of a board has a warning."""

from pathlib import Path

from simulated_vcenter import QUICK, rig_of

from gpuvm.lab.description import GPUDescription, HostDescription, describe

MODULES = ("0000:07:00.0", "0000:0f:00.0", "0000:47:00.0", "0000:4e:00.0")
SWITCHES = ("0000:c4:00.0", "0000:c5:00.0")


def function(address: str, device_id: int, name: str, class_id: int, memory: int) -> GPUDescription:
    return GPUDescription(
        pci_address=address,
        vendor_id=0x10DE,
        device_id=device_id,
        sub_vendor_id=0x10DE,
        sub_device_id=0x1463,
        class_id=class_id,
        name=name,
        memory_gib=memory,
        bars_mib=(32,) if class_id == 0x0680 else None,
    )


def test_warning_for_part_of_a_board_but_not_for_single_gpus(home: Path) -> None:
    modules = [function(a, 0x20B2, "GA100 [A100 SXM4 80GB]", 0x0302, 80) for a in MODULES]
    switches = [function(a, 0x1AF1, "GA100 [A100 NVSwitch]", 0x0680, 1) for a in SWITCHES]
    host = HostDescription(name="hgx-01", memory_gib=2048, gpus=(*modules, *switches))
    shape = describe().model_copy(update={"timings": QUICK, "hosts": (host,), "vms": ()})
    with rig_of(home, "hgx", shape) as rig, rig.connect() as connection:
        (seen,) = connection.read_inventory().hosts
        assert [gpu.pci_address for gpu in seen.gpus] == list(MODULES)
        assert seen.nvswitches == SWITCHES
        several = {"mode": "passthrough", "count": 2}
        reported = [
            f.text for f in rig.plan(connection, accelerator=several, memory_gib=512).findings
        ]
        assert len(reported) == 1
        assert "error 802" in reported[0]
        dynamic = {"mode": "dynamic", "count": 4}
        assert rig.plan(connection, accelerator=dynamic, memory_gib=1024).findings
        assert rig.plan(connection, memory_gib=256).findings == ()
