"""Drift beyond single VMs in vCenter: surplus VMs, and GPUs that guests do not see."""

from dataclasses import replace
from pathlib import Path

import pytest

from gpuvm.cli.status import (
    Against,
    Inside,
    Seen,
    _differences_from_spec,
    _in_the_guest,
    _vm_json,
    row,
)
from gpuvm.devices import PassthroughDevice
from gpuvm.inventory import VM, Cluster, Inventory, VCenter
from gpuvm.spec import ClusterSpec


def vm(gpus: int = 0, index: int = 1) -> VM:
    devices = tuple(PassthroughDevice(f"0000:{n:02x}:00.0", "system-1") for n in range(gpus))
    return VM("gpuvm-01", "vm-1", "esx-01", True, "u", index=index, devices=devices)


SITE = Inventory(
    vcenter=VCenter(
        "Lab", "https://vc", "8.0.3", "8.0.3.0", "4f1f6f8e-0000-4000-8000-000000000001"
    ),
    cluster=Cluster("GPU-Cluster", "c-1", "/Lab/host/GPU-Cluster", "Lab", "rp-1", "f-1"),
    hosts=(),
    templates=(),
    datastores=(),
    networks=(),
    vms=(),
    names_in_folder=frozenset(),
)
WHY = "its driver, or the 64-bit MMIO window"


@pytest.mark.parametrize(
    ("given", "seen", "drift"),
    [
        (0, 0, []),
        (2, 2, []),
        (2, None, []),
        (2, 0, [f"the guest sees no GPU, its virtual hardware has 2: {WHY}"]),
        (2, 1, [f"the guest sees 1 GPU, its virtual hardware has 2: {WHY}"]),
        (1, 2, ["the guest sees 2 GPUs, its virtual hardware has 1"]),
    ],
)
def test_gpus_are_counted_on_both_sides(given: int, seen: int | None, drift: list[str]) -> None:
    assert list(_in_the_guest(vm(gpus=given), Inside("", seen))) == drift


def test_one_too_many() -> None:
    against = Against(ClusterSpec(hosts=2), Path("gpuvm.yaml"), counted=True)
    assert list(_differences_from_spec(vm(index=3), against, SITE)) == [
        "surplus: the spec has 2 VMs"
    ]
    assert (
        list(_differences_from_spec(vm(index=3), Against(ClusterSpec(), None, counted=False), SITE))
        == []
    )


@pytest.mark.parametrize(
    ("answered", "shown"), [("192.0.2.5", "192.0.2.5"), (None, "198.51.100.5")]
)
def test_address_is_the_one_that_answered(answered: str | None, shown: str) -> None:
    two_cards = replace(vm(), addresses=("198.51.100.5", "192.0.2.5"))
    seen = Seen(two_cards, (), Inside("no GPU", 0, address=answered), ())
    assert shown in row(seen)
    assert _vm_json(seen)["address"] == shown
