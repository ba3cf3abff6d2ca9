"""A VM's PCI devices in the API's types, and the changes from the present to the required ones.

In the fixed backing, ``deviceId`` is unsigned hex without ``0x`` (a decimal one is accepted, but
the VM does not power on), ``vendorId`` a signed short, and ``systemId`` that of the VM's host (API
reference of VirtualPCIPassthroughDeviceBackingInfo; govmomi issue 2248). In the dynamic backing,
ids are unsigned numbers.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pyVmomi import vim

from gpuvm.devices import Device, DynamicDevice, PassthroughDevice, in_group

FIRST_KEY = 100
NEW_GROUP = -1
"""Temporary key of a new vendor device group; vCenter replaces it."""


def added(devices: Iterable[Device]) -> list[Any]:
    """Return the changes that add the devices, each with its own temporary negative key."""
    return [
        vim.vm.device.VirtualDeviceSpec(operation="add", device=_new(-key, device))
        for key, device in enumerate(devices, start=FIRST_KEY)
    ]


def groups(name: str) -> Any | None:
    """Return the vendor device group of the added devices (VirtualDeviceGroups, 8.0.0.1)."""
    if not name:
        return None
    group = vim.vm.VirtualDeviceGroups.VendorDeviceGroup(
        groupInstanceKey=NEW_GROUP, deviceGroupName=name
    )
    return vim.vm.VirtualDeviceGroups(deviceGroup=[group])


def changes(present: Sequence[Device], wanted: Sequence[Device]) -> list[Any]:
    """Return the changes: ``wanted`` minus ``present`` is added, the reverse removed.

    A vendor device group is added and removed as a whole.
    """
    more, less = _minus(wanted, present), _minus(present, wanted)
    if (more or less) and any(map(in_group, (*more, *less))):
        more, less = list(wanted), list(present)
    return [*added(more), *map(_removed, less)]


def backing(device: Device) -> Any:
    """Return the device's backing. Raises ValueError for a fixed one without ``systemId``."""
    kinds = vim.vm.device.VirtualPCIPassthrough
    if isinstance(device, PassthroughDevice):
        return _fixed(device)
    if isinstance(device, DynamicDevice):
        return kinds.DynamicBackingInfo(
            deviceName="",
            allowedDevice=[
                kinds.AllowedDevice(vendorId=vendor, deviceId=number)
                for vendor, number in device.allowed
            ],
            customLabel=device.label or None,
        )
    return kinds.VmiopBackingInfo(vgpu=device.profile)


def _new(key: int, device: Device) -> Any:
    new = vim.vm.device.VirtualPCIPassthrough(key=key, backing=backing(device))
    if not isinstance(device, PassthroughDevice) and device.sequence:
        new.deviceGroupInfo = vim.vm.device.VirtualDevice.DeviceGroupInfo(
            groupInstanceKey=NEW_GROUP, sequenceId=device.sequence
        )
    return new


def _fixed(device: PassthroughDevice) -> Any:
    if not device.system_id:
        raise ValueError(f"the host offers no systemId for {device.pci_address}")
    return vim.vm.device.VirtualPCIPassthrough.DeviceBackingInfo(
        id=device.pci_address,
        deviceId=device.device_id,
        systemId=device.system_id,
        vendorId=_signed(device.vendor_id),
        deviceName=device.name,
    )


def _minus(these: Sequence[Device], others: Sequence[Device]) -> list[Device]:
    left = Counter(others)
    kept = []
    for device in these:
        if left[device]:
            left[device] -= 1
        else:
            kept.append(device)
    return kept


def _removed(device: Device) -> Any:
    return vim.vm.device.VirtualDeviceSpec(
        operation="remove", device=vim.vm.device.VirtualPCIPassthrough(key=device.key)
    )


def _signed(number: int) -> int:
    """Convert an unsigned 16-bit id to the API's signed short."""
    return number - 0x10000 if number >= 0x8000 else number
