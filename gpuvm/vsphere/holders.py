"""Who holds which GPU: by the virtual hardware of every VM, and by what hosts bound at power-on.

A fixed device is named in its VM's hardware, also while that is powered off. A dynamic one is bound
when its VM starts (assignableHardwareBinding), a vGPU likewise (graphicsInfo).
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from gpuvm.inventory import Holder, PassthroughDevice, VGPUDevice
from gpuvm.vsphere.gpus import Holders
from gpuvm.vsphere.machines import devices_of
from gpuvm.vsphere.properties import Row

HOST_PATHS = ("name", "config.assignableHardwareBinding", "config.graphicsInfo")
VM_PATHS = ("name", "runtime.host", "runtime.powerState", "config.hardware.device")

UNSEEN = "a VM that this account cannot see"

_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$")


def holders(hosts: Mapping[Any, Row], vms: Mapping[Any, Row]) -> Holders:
    """Rows of HOST_PATHS and VM_PATHS, or more."""
    found: dict[tuple[str, str], list[Holder]] = defaultdict(list)
    for host, address, holder in (*_fixed(hosts, vms), *_bound(hosts, vms), *_shared(hosts, vms)):
        if holder.vm not in {known.vm for known in found[host, address]}:
            found[host, address].append(holder)
    return found


def _fixed(hosts: Mapping[Any, Row], vms: Mapping[Any, Row]) -> Iterator[tuple[str, str, Holder]]:
    for row in vms.values():
        host = hosts.get(row.get("runtime.host"))
        for device in devices_of(row.get("config.hardware.device", ())):
            if host is not None and isinstance(device, PassthroughDevice):
                yield host["name"], device.pci_address, _holder(row)


def _bound(hosts: Mapping[Any, Row], vms: Mapping[Any, Row]) -> Iterator[tuple[str, str, Holder]]:
    for host in hosts.values():
        for binding in host.get("config.assignableHardwareBinding", ()):
            address = getattr(binding, "pciId", None) or binding.instanceId
            match = _ADDRESS.search(address)
            if match and binding.vm is not None:
                yield host["name"], match[0], _bound_holder(vms.get(binding.vm))


def _shared(hosts: Mapping[Any, Row], vms: Mapping[Any, Row]) -> Iterator[tuple[str, str, Holder]]:
    for host in hosts.values():
        for card in host.get("config.graphicsInfo", ()):
            for vm in card.vm or ():
                yield host["name"], card.pciId, _bound_holder(vms.get(vm))


def _holder(row: Row) -> Holder:
    return Holder(row.get("name", UNSEEN), row.get("runtime.powerState") == "poweredOn")


def _bound_holder(row: Row | None) -> Holder:
    if row is None:
        return Holder(UNSEEN, powered_on=True)
    devices = devices_of(row.get("config.hardware.device", ()))
    profile = next((d.profile for d in devices if isinstance(d, VGPUDevice)), None)
    return Holder(row.get("name", UNSEEN), powered_on=True, profile=profile)
