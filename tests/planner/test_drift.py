"""What differs between a VM and its host: a GPU that is at another PCI address now."""

from dataclasses import replace

import healthy_site
import pytest

from gpuvm import planner
from gpuvm.devices import PassthroughDevice
from gpuvm.inventory import VM, Host
from gpuvm.spec import ClusterSpec

WHERE = "0000:3b:00.0"
MADE = VM(
    name="gpuvm-01",
    moref="vm-9",
    host="esx-01",
    powered_on=False,
    instance_uuid="u",
    index=1,
    creation_spec=ClusterSpec().creation_spec_json(),
    devices=(PassthroughDevice(WHERE, "system-of-esx-01"),),
    memory_locked=True,
)
MOVED = healthy_site.gpu("esx-01", pci_address="0000:5e:00.0")


@pytest.mark.parametrize(
    ("host", "reported"),
    [
        (healthy_site.host("esx-01"), ()),
        (healthy_site.host("esx-01", gpus=(MOVED,)), (f"esx-01 has no GPU at {WHERE}",)),
        (healthy_site.host("esx-01", gpus=(), gpus_hidden="config"), ()),
        (healthy_site.host("esx-01", gpus=(), connection_state="disconnected"), ()),
    ],
    ids=["there", "moved", "not shown", "not connected"],
)
def test_gpu_that_moved(host: Host, reported: tuple[str, ...]) -> None:
    inventory = replace(healthy_site.SITE, hosts=(host,))
    assert planner.drift(MADE, inventory) == reported
