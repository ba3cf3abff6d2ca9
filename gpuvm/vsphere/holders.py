"""Who holds which GPU: by the virtual hardware of every VM, and by what hosts bound at power-on.

A fixed device is named in its VM's hardware, also while that is powered off. A dynamic one is bound
when its VM starts (assignableHardwareBinding), a vGPU likewise (graphicsInfo).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from gpuvm.devices import Holder, PassthroughDevice, VGPUDevice
from gpuvm.inventory import MoRef
from gpuvm.vsphere.gpus import ANYWHERE, Holders
from gpuvm.vsphere.machines import devices_of
from gpuvm.vsphere.properties import Row

HOST_PATHS = ("name", "config.assignableHardwareBinding", "config.graphicsInfo")
VM_PATHS = ("name", "runtime.host", "runtime.powerState", "config.hardware.device")

UNSEEN = "a VM that this account cannot see"
ALL_UNSEEN = "VMs that this account cannot see"

_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$")


def holders(
    hosts: Mapping[Any, Row], vms: Mapping[Any, Row], ours: Collection[MoRef] = ()
) -> Holders:
    """By host name and PCI address, from rows of HOST_PATHS and VM_PATHS, or more.

    ``ours`` are the VMs that gpuvm made. A holder that is not ``sure`` may be on a host ANYWHERE.
    """
    found: dict[tuple[str, str], dict[MoRef, Holder]] = defaultdict(dict)
    sure = (*_fixed(hosts, vms), *_bound(hosts, vms), *_shared(hosts, vms))
    placed = {holder.moref for _, _, holder in sure if holder.sure}
    for host, address, holder in (*sure, *_unplaced(hosts, vms, placed)):
        known = replace(holder, ours=holder.moref in ours)
        found[host, address].setdefault(holder.moref, known)
    return {where: tuple(by_vm.values()) for where, by_vm in found.items()}


def name_of(ref: Any, row: Row) -> str:
    """What an object is called; its id where its name is not shown."""
    return str(row.get("name", ref._moId))


def _fixed(hosts: Mapping[Any, Row], vms: Mapping[Any, Row]) -> Iterator[tuple[str, str, Holder]]:
    for ref, row in vms.items():
        for device in devices_of(row.get("config.hardware.device", ())):
            if isinstance(device, PassthroughDevice):
                for host in _around(row, hosts):
                    yield host, device.pci_address, _holder(ref, row, sure="runtime.host" in row)


def _unplaced(
    hosts: Mapping[Any, Row], vms: Mapping[Any, Row], placed: Collection[MoRef]
) -> Iterator[tuple[str, str, Holder]]:
    """VMs whose hardware is not shown, and running ones with a GPU that no host says is theirs."""
    for ref, row in vms.items():
        holder = _holder(ref, row, sure=False)
        devices = devices_of(row.get("config.hardware.device", ()))
        bound = any(not isinstance(device, PassthroughDevice) for device in devices)
        lost = bound and holder.powered_on and holder.moref not in placed
        if lost or "config.hardware.device" not in row:
            yield from ((host, ANYWHERE, holder) for host in _around(row, hosts))


def _around(row: Row, hosts: Mapping[Any, Row]) -> list[str]:
    """Names of the VM's host; of all where it is not shown which one it is."""
    where = row.get("runtime.host")
    return [name_of(ref, host) for ref, host in hosts.items() if where in (None, ref)]


def _holder(ref: Any, row: Row, *, sure: bool) -> Holder:
    """A VM whose power state is not shown is taken to run: it may."""
    powered_on = row.get("runtime.powerState", "poweredOn") == "poweredOn"
    return Holder(name_of(ref, row), powered_on, moref=ref._moId, sure=sure)


def _bound(hosts: Mapping[Any, Row], vms: Mapping[Any, Row]) -> Iterator[tuple[str, str, Holder]]:
    for ref, host in hosts.items():
        for binding in host.get("config.assignableHardwareBinding", ()):
            address = getattr(binding, "pciId", None) or binding.instanceId or ""
            match = _ADDRESS.search(address)
            if match and binding.vm is not None:
                yield name_of(ref, host), match[0], _running(binding.vm, vms)


def _shared(hosts: Mapping[Any, Row], vms: Mapping[Any, Row]) -> Iterator[tuple[str, str, Holder]]:
    """The API tells which VMs use a card, not how many vGPUs each has there.

    A VM that is on several cards has one on each at least; the rest are counted on all of them,
    because counting too many refuses a plan and counting too few fails it at power-on.
    """
    for ref, host in hosts.items():
        cards = {c.pciId: set(c.vm or ()) for c in host.get("config.graphicsInfo", ())}
        on = Counter(vm for users in cards.values() for vm in users)
        for address, users in cards.items():
            for vm in sorted(users, key=str):
                yield name_of(ref, host), address, _running(vm, vms, cards=on[vm])


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
