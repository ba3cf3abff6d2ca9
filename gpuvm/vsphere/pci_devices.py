"""A VM's PCI devices as the API wants them, and what must be added and removed.

The fixed backing is the usual mistake: ``deviceId`` is unsigned hex without ``0x`` (a decimal one
is accepted and the VM then does not power on), ``vendorId`` the signed short, ``systemId`` that of
the very host (API reference of VirtualPCIPassthroughDeviceBackingInfo; govmomi issue 2248). The
dynamic one has its ids as plain unsigned numbers.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pyVmomi import vim

from gpuvm.devices import Device, DynamicDevice, PassthroughDevice, in_group

FIRST_KEY = 100
NEW_GROUP = -1
"""What the devices of a new vendor device group have in common until vCenter gives it a key."""


def added(devices: Iterable[Device]) -> list[Any]:
    """Each new device has a negative key of its own; equal ones would be one device."""
    return [
        vim.vm.device.VirtualDeviceSpec(operation="add", device=_new(-key, device))
        for key, device in enumerate(devices, start=FIRST_KEY)
    ]


def groups(name: str) -> Any | None:
    """The vendor device group that the added devices make up (VirtualDeviceGroups, 8.0.0.1)."""
    if not name:
        return None
    group = vim.vm.VirtualDeviceGroups.VendorDeviceGroup(
        groupInstanceKey=NEW_GROUP, deviceGroupName=name
    )
    return vim.vm.VirtualDeviceGroups(deviceGroup=[group])


def changes(present: Sequence[Device], wanted: Sequence[Device]) -> list[Any]:
    """Wanted minus present is added, present minus wanted removed; equal ones are counted.

    A vendor device group comes and goes whole.
    """
    more, less = _minus(wanted, present), _minus(present, wanted)
    if (more or less) and any(map(in_group, (*more, *less))):
        more, less = list(wanted), list(present)
    return [*added(more), *map(_removed, less)]


def backing(device: Device) -> Any:
    """Raises ValueError for a fixed device whose host did not tell its ``systemId``."""
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
    made = vim.vm.device.VirtualPCIPassthrough(key=key, backing=backing(device))
    if not isinstance(device, PassthroughDevice) and device.sequence:
        made.deviceGroupInfo = vim.vm.device.VirtualDevice.DeviceGroupInfo(
            groupInstanceKey=NEW_GROUP, sequenceId=device.sequence
        )
    return made


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
    """An unsigned 16-bit id as the API's signed short."""
    return number - 0x10000 if number >= 0x8000 else number
