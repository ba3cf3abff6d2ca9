"""From a row of properties to a :class:`~gpuvm.inventory.VM`, its addresses and host keys."""

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Any

from pyVmomi import vim

from gpuvm import ownership
from gpuvm.devices import Device, DynamicDevice, PassthroughDevice, VGPUDevice
from gpuvm.inventory import VM
from gpuvm.ownership import Mark
from gpuvm.spec import ClusterSpec
from gpuvm.vsphere.properties import HOST_KEYS_KEY, Row, extra_config, not_shown

_NEEDED = {
    "runtime.powerState": "power state",
    "runtime.host": "host",
    "config.hardware.device": "virtual hardware",
    "config.hardware.numCPU": "CPUs",
    "config.hardware.memoryMB": "memory",
    "config.instanceUuid": "instance UUID",
}
"""Properties that must be readable before gpuvm changes a VM."""

_PUBLIC_KEY = re.compile(r"[a-z0-9][a-z0-9@.-]* [A-Za-z0-9+/]+=*( |$)")
"""A line of known_hosts without its host, as sshd's files of public keys have it."""
_KEPT_PREFIXES = ("gpuvm.", "guestinfo.", "pciPassthru.")


def vm_from_row(ref: Any, row: Row, vcenter_uuid: str, host_name: Callable[[Any], str]) -> VM:
    """Return the VM; ``row`` has VM_PATHS or fewer, and missing ones are empty.

    A VM whose power state is not shown counts as powered on.
    """
    config = extra_config(row)
    mark = Mark.read(config)
    uuid = str(row.get("config.instanceUuid", ""))
    devices = tuple(row.get("config.hardware.device", ()))
    host = row.get("runtime.host")
    return VM(
        name=row.get("name", ref._moId),
        moref=ref._moId,
        host=host_name(host) if host is not None else "",
        powered_on=row.get("runtime.powerState", "poweredOn") == "poweredOn",
        instance_uuid=uuid,
        ownership=ownership.ownership(vcenter_uuid, mark, uuid),
        deployment=mark.deployment if mark else None,
        index=mark.index if mark else None,
        generation=mark.generation if mark else None,
        spec_digest=mark.spec_digest if mark else None,
        cpus=row.get("config.hardware.numCPU", 0),
        cores_per_socket=row.get("config.hardware.numCoresPerSocket") or 1,
        memory_gib=row.get("config.hardware.memoryMB", 0) / 1024,
        memory_locked=bool(row.get("config.memoryReservationLockedToMax", False)),
        hot_add=bool(row.get("config.cpuHotAddEnabled") or row.get("config.memoryHotAddEnabled")),
        devices=devices_of(devices),
        firmware=row.get("config.firmware", ""),
        connection_state=str(row.get("runtime.connectionState", "connected")),
        question=getattr(row.get("runtime.question"), "text", "") or "",
        addresses=addresses(devices, row.get("guest.net", ()), row.get("guest.toolsRunningStatus")),
        macs=macs(devices),
        host_keys=host_keys(config),
        annotation=row.get("config.annotation", ""),
        creation_spec=mark.creation_spec if mark else "",
        tools_running=row.get("guest.toolsRunningStatus") == "guestToolsRunning",
        template=bool(row.get("config.template", False)),
        hidden=not_shown(row, _NEEDED),
        folder=_moref(row.get("parent")),
        resource_pool=_moref(row.get("resourcePool")),
        networks=tuple(ref._moId for ref in row.get("network", ())),
        datastores=tuple(ref._moId for ref in row.get("datastore", ())),
        foreign_disks=foreign_disks(
            devices, row.get("config.files.vmPathName", ""), mark.disks if mark else None
        ),
        extra_config=_kept(config, mark),
    )


def _moref(ref: Any | None) -> str:
    return "" if ref is None else str(ref._moId)


def _kept(config: dict[str, str], mark: Mark | None) -> dict[str, str]:
    """Return the keys that gpuvm writes and those of the creation spec: only these are repaired."""
    spec = ClusterSpec.from_creation_spec(mark.creation_spec) if mark else None
    of_spec = spec.extra_config if spec else {}
    return {k: v for k, v in config.items() if k.startswith(_KEPT_PREFIXES) or k in of_spec}


def foreign_disks(devices: Iterable[Any], vmx: str, cloned: int | None) -> tuple[str, ...]:
    """Return the files of disks that were attached after the clone, which had ``cloned`` disks.

    The clone's disks are the first ``cloned`` ones, by device key, in the folder of the VM's .vmx.
    All others are foreign, and so are all disks if the .vmx is unknown.
    """
    own = vmx.rpartition("/")[0]
    disks = [device for device in devices if isinstance(device, vim.vm.device.VirtualDisk)]
    files = [
        str(getattr(disk.backing, "fileName", "") or "") for disk in sorted(disks, key=_device_key)
    ]
    in_folder = [file for file in files if own and file.rpartition("/")[0] == own]
    return tuple(file for file in files if file not in in_folder[:cloned])


def _device_key(device: Any) -> int:
    return int(device.key)


def devices_of(devices: Iterable[Any]) -> tuple[Device, ...]:
    """Return the GPU devices of a VM's virtual hardware; ids are as in the backings."""
    found = map(_device, pci_devices_of(devices))
    return tuple(device for device in found if device is not None)


def pci_devices_of(devices: Iterable[Any]) -> tuple[Any, ...]:
    """Those that ``devices_of`` reads."""
    return tuple(d for d in devices if isinstance(d, vim.vm.device.VirtualPCIPassthrough))


def _device(device: Any) -> Device | None:
    """Convert a device by its backing: fixed, dynamic or vGPU; None for any other."""
    kinds = vim.vm.device.VirtualPCIPassthrough
    key, backing = device.key, device.backing
    sequence = getattr(device.deviceGroupInfo, "sequenceId", 0)
    if isinstance(backing, kinds.DeviceBackingInfo):
        return PassthroughDevice(
            pci_address=backing.id,
            system_id=backing.systemId or "",
            device_id=backing.deviceId or "",
            vendor_id=(backing.vendorId or 0) & 0xFFFF,
            name=backing.deviceName or "",
            key=key,
        )
    if isinstance(backing, kinds.DynamicBackingInfo):
        return DynamicDevice(
            allowed=tuple((d.vendorId, d.deviceId) for d in backing.allowedDevice or ()),
            label=backing.customLabel or "",
            assigned=backing.assignedId or "",
            key=key,
            sequence=sequence,
        )
    if isinstance(backing, kinds.VmiopBackingInfo):
        return VGPUDevice(backing.vgpu or "", key=key, sequence=sequence)
    return None


def addresses(devices: Iterable[Any], nets: Iterable[Any], tools: str | None) -> tuple[str, ...]:
    """Return the guest's preferred addresses on the VM's NICs: IPv4 first, then by adapter.

    Bridges in the guest (docker0, virbr0) have other MACs; they and link-local addresses are left
    out. An adapter without a MAC matches nothing, because tunnels in the guest have none either.
    """
    if tools != "guestToolsRunning":
        return ()
    own = macs(devices)
    found = [
        (own.index(mac), address)
        for net in nets
        if (mac := (net.macAddress or "").lower()) in own and net.ipConfig is not None
        for entry in net.ipConfig.ipAddress or ()
        if entry.state == "preferred" and (address := ip_address(entry.ipAddress)) is not None
    ]
    usable = [(nic, a) for nic, a in found if not a.is_link_local]
    return tuple(str(a) for _, a in sorted(usable, key=lambda one: (one[1].version, one[0])))


def ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None for what is no address: a guest reports what it likes."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def macs(devices: Iterable[Any]) -> tuple[str, ...]:
    """Return the MAC addresses of the VM's network adapters, in order, in lower case."""
    kind = vim.vm.device.VirtualEthernetCard
    nics = sorted((d for d in devices if isinstance(d, kind) and d.macAddress), key=_device_key)
    return tuple(str(d.macAddress).lower() for d in nics)


def host_keys(config: dict[str, str]) -> tuple[str, ...]:
    """Return the OpenSSH public keys that the guest's first-boot unit published."""
    try:
        text = base64.b64decode(config.get(HOST_KEYS_KEY, ""), validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return ()
    return tuple(line.strip() for line in text.splitlines() if _PUBLIC_KEY.match(line.strip()))
