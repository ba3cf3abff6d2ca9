"""A site without problems, as values: two hosts with a free P100 each, and a template."""

from dataclasses import replace
from typing import Any

from gpuvm.devices import GPU
from gpuvm.inventory import (
    NIC,
    Cluster,
    Datastore,
    Host,
    Inventory,
    Network,
    VCenter,
    VMTemplate,
)

UUID = "4f1f6f8e-0000-4000-8000-000000000001"
VMFS = "vmfs"


def gpu(host: str, **changes: Any) -> GPU:
    """A free P100."""
    healthy = GPU(
        host=host,
        pci_address="0000:3b:00.0",
        vendor_id=0x10DE,
        device_id=0x15F8,
        name="Tesla P100",
        memory_gib=16,
        capable=True,
        enabled=True,
        active=True,
        dependent_device="0000:3b:00.0",
        system_id=f"system-of-{host}",
    )
    return replace(healthy, **changes)


def host(name: str, **changes: Any) -> Host:
    healthy = Host(
        name=name,
        moref=f"of-{name}",
        connection_state="connected",
        in_maintenance_mode=False,
        in_quarantine_mode=False,
        memory_gib=256,
        reserved_gib=0,
        model="PowerEdge R730",
        gpus=(gpu(name),),
        datastores=("store-1",),
        networks=("net-1",),
        version="8.0.3",
    )
    return replace(healthy, **changes)


TEMPLATE = VMTemplate(
    name="tf",
    moref="vm-1",
    path="/Lab/vm/tf",
    firmware="efi",
    hardware_version=17,
    cpus=8,
    memory_gib=32,
    disk_gib=40,
    nics=(NIC(4000, "VirtualVmxnet3"),),
    has_gpu=False,
    guest_id="centos7_64Guest",
)
SITE = Inventory(
    vcenter=VCenter("vCenter", "https://vc", "8.0.3", "8.0.3.0", UUID),
    cluster=Cluster("GPUs", "c-1", "/Lab/host/GPUs", "Lab", "pool-1", "folder-1"),
    hosts=(host("esx-01"), host("esx-02")),
    templates=(TEMPLATE,),
    datastores=(Datastore(VMFS, "store-1", 4000, accessible=True),),
    networks=(Network("VM Network", "net-1"),),
    vms=(),
    names_in_folder=frozenset(),
)
