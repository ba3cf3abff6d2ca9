"""Unset properties, in pyVmomi's own objects: reported or skipped, never guessed."""

from typing import Any

import pytest
from pyVmomi import vim

from gpuvm.errors import NotVisible
from gpuvm.vsphere.gpus import target_of
from gpuvm.vsphere.inventory_paths import Tree
from gpuvm.vsphere.materials import _hardware_version
from gpuvm.vsphere.virtual_machines import addresses

RUNNING = "guestToolsRunning"
CLUSTER = vim.ClusterComputeResource("domain-c1")
HOSTS, VMS = vim.Folder("group-h1"), vim.Folder("group-v1")
DATACENTER, POOL = vim.Datacenter("datacenter-1"), vim.ResourcePool("resgroup-1")
CHILD = vim.ResourcePool("resgroup-2")


def net(mac: str | None, ip: str) -> Any:
    entry = vim.net.IpConfigInfo.IpAddress(ipAddress=ip, prefixLength=24, state="preferred")
    return vim.vm.GuestInfo.NicInfo(
        macAddress=mac, ipConfig=vim.net.IpConfigInfo(ipAddress=[entry])
    )


def test_network_adapter_without_mac_has_no_address() -> None:
    """A tunnel in the guest has no MAC either: its address is not the VM's."""
    card = vim.vm.device.VirtualVmxnet3(key=4000)
    assert addresses([card], [net(None, "10.8.0.1"), net("", "10.8.0.2")], RUNNING) == ()
    known = vim.vm.device.VirtualVmxnet3(key=4001, macAddress="00:50:56:AA:BB:CC")
    nets = [net(None, "10.8.0.1"), net("00:50:56:aa:bb:cc", "192.0.2.7")]
    assert addresses([card, known], nets, RUNNING) == ("192.0.2.7",)


def test_device_without_details_does_not_exclude_its_host() -> None:
    reported = vim.vm.PciPassthroughInfo(
        pciDevice=vim.host.PciDevice(id="0000:3b:00.0"), systemId="system"
    )
    target = vim.vm.ConfigTarget(pciPassthrough=[vim.vm.PciPassthroughInfo(), reported])
    assert target_of(target).system_ids == {"0000:3b:00.0": "system"}
    assert target_of(vim.vm.ConfigTarget()).system_ids == {}
    assert target_of(None).system_ids == {}


@pytest.mark.parametrize(
    ("version", "number"), [("vmx-17", 17), ("", 0), (None, 0), ("vmx-", 0), ("unknown", 0)]
)
def test_hardware_version(version: str | None, number: int) -> None:
    assert _hardware_version(version) == number


def whole() -> dict[Any, dict[str, Any]]:
    return {
        DATACENTER: {"name": "Lab", "vmFolder": VMS},
        HOSTS: {"name": "host", "parent": DATACENTER},
        VMS: {"name": "vm", "parent": DATACENTER},
        CLUSTER: {"name": "GPUs", "parent": HOSTS, "resourcePool": POOL},
        POOL: {"name": "Resources", "parent": CLUSTER},
        CHILD: {"name": "training", "parent": POOL},
    }


def test_complete_tree() -> None:
    tree = Tree(whole())
    assert tree.datacenter(CLUSTER) == DATACENTER
    assert tree.folder(CLUSTER, None) == VMS
    assert tree.pool(CLUSTER, "training") == CHILD
    assert tree.browser(CLUSTER) is None


@pytest.mark.parametrize("hidden", [HOSTS, DATACENTER, VMS])
def test_a_folder_that_is_not_visible_is_named(hidden: Any) -> None:
    """A permission on a cluster alone shows none of what is above it."""
    tree = Tree({ref: row for ref, row in whole().items() if ref != hidden})
    with pytest.raises(NotVisible, match="VM folder") as caught:
        tree.folder(CLUSTER, None)
    assert caught.value.exit_code == 3
    assert "docs/permissions.md" in (caught.value.hint or "")


@pytest.mark.parametrize("wanted", [None, "training"])
def test_a_root_pool_that_is_not_visible_is_named(wanted: str | None) -> None:
    tree = Tree({ref: row for ref, row in whole().items() if ref != POOL})
    with pytest.raises(NotVisible, match="resource pool"):
        tree.pool(CLUSTER, wanted)
