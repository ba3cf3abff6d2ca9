"""Who holds which GPU: by the virtual hardware of every VM, and by what hosts bound at power-on.

A fixed device is named in its VM's hardware, also while that is powered off. A dynamic one is bound
when its VM starts (assignableHardwareBinding), a vGPU likewise (graphicsInfo).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from gpuvm.inventory import Holder, MoRef, PassthroughDevice, VGPUDevice
from gpuvm.vsphere.gpus import Holders
from gpuvm.vsphere.machines import devices_of
from gpuvm.vsphere.properties import Row

HOST_PATHS = ("name", "config.assignableHardwareBinding", "config.graphicsInfo")
VM_PATHS = ("name", "runtime.host", "runtime.powerState", "config.hardware.device")

UNSEEN = "a VM that this account cannot see"

_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$")


def holders(
    hosts: Mapping[Any, Row], vms: Mapping[Any, Row], ours: Collection[MoRef] = ()
) -> Holders:
    """Rows of HOST_PATHS and VM_PATHS, or more; ``ours`` are the VMs that gpuvm made."""
    found: dict[tuple[str, str], dict[MoRef, Holder]] = defaultdict(dict)
    for host, address, holder in (*_fixed(hosts, vms), *_bound(hosts, vms), *_shared(hosts, vms)):
        known = replace(holder, ours=holder.moref in ours)
        found[host, address].setdefault(holder.moref, known)
    return {where: tuple(by_vm.values()) for where, by_vm in found.items()}


def _fixed(hosts: Mapping[Any, Row], vms: Mapping[Any, Row]) -> Iterator[tuple[str, str, Holder]]:
    for ref, row in vms.items():
        host = hosts.get(row.get("runtime.host"))
        powered_on = row.get("runtime.powerState") == "poweredOn"
        for device in devices_of(row.get("config.hardware.device", ())):
            if host and "name" in host and isinstance(device, PassthroughDevice):
                holder = Holder(row.get("name", UNSEEN), powered_on, moref=ref._moId)
                yield host["name"], device.pci_address, holder


def _bound(hosts: Mapping[Any, Row], vms: Mapping[Any, Row]) -> Iterator[tuple[str, str, Holder]]:
    for host in hosts.values():
        for binding in host.get("config.assignableHardwareBinding", ()):
            address = getattr(binding, "pciId", None) or binding.instanceId
            match = _ADDRESS.search(address)
            if match and binding.vm is not None and "name" in host:
                yield host["name"], match[0], _running(binding.vm, vms)


def _shared(hosts: Mapping[Any, Row], vms: Mapping[Any, Row]) -> Iterator[tuple[str, str, Holder]]:
    """The API tells which VMs use a card, not how many vGPUs each has there.

    A VM that is on several cards has one on each at least; the rest are counted on all of them,
    because counting too many refuses a plan and counting too few fails it at power-on.
    """
    for host in hosts.values():
        if "name" not in host:
            continue
        cards = {c.pciId: set(c.vm or ()) for c in host.get("config.graphicsInfo", ())}
        on = Counter(vm for users in cards.values() for vm in users)
        for address, users in cards.items():
            for vm in sorted(users, key=str):
                yield host["name"], address, _running(vm, vms, cards=on[vm])


def _running(ref: Any, vms: Mapping[Any, Row], cards: int = 1) -> Holder:
    row = vms.get(ref, {})
    devices = devices_of(row.get("config.hardware.device", ()))
    profiles = [device.profile for device in devices if isinstance(device, VGPUDevice)]
    return Holder(
        row.get("name", UNSEEN),
        powered_on=True,
        profile=next(iter(profiles), None),
        moref=ref._moId,
        shares=max(1, len(profiles) - cards + 1),
    )
