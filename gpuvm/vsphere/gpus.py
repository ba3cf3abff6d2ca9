"""A host's GPUs: PCI devices, passthrough state, memory, vGPU types, and the VMs that hold them."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from pyVmomi import vim, vmodl

from gpuvm.devices import (
    GPU,
    NVIDIA_VENDOR_ID,
    DeviceGroup,
    Holder,
    PassthroughDevice,
    VGPUDevice,
    VGPUProfile,
)
from gpuvm.inventory import Host, MoRef
from gpuvm.vsphere.faults import Undecodable, translated
from gpuvm.vsphere.properties import Row
from gpuvm.vsphere.virtual_machines import devices_of

HOST_GPU_PATHS = (
    "hardware.pciDevice",
    "config.pciPassthruInfo",
    "config.graphicsInfo",
    "config.graphicsConfig",
    "config.sharedPassthruGpuTypes",
)

# GiB by PCI device id (pci.ids): the host does not report GPUs with passthrough in graphicsInfo.
_MEMORY_GIB = {
    0x15F7: 12,
    0x15F8: 16,
    0x15F9: 16,
    0x1B38: 24,
    0x1BB3: 8,
    0x1DB1: 16,
    0x1DB4: 16,
    0x1DB5: 32,
    0x1DB6: 32,
    0x1DF6: 32,
    0x1EB8: 16,
    0x20B0: 40,
    0x20B2: 80,
    0x20B5: 80,
    0x20B7: 24,
    0x20F1: 40,
    0x2235: 48,
    0x2236: 24,
    0x2330: 80,
    0x2331: 80,
    0x2335: 141,
    0x233B: 141,
    0x26B5: 48,
    0x26B9: 48,
    0x27B8: 24,
    0x102D: 12,
    0x13BD: 8,
    0x13F2: 8,
}

Holders = Mapping[tuple[str, str], Sequence[Holder]]
"""By host name and PCI address."""

ANYWHERE = ""
"""Instead of a PCI address: any GPU of the host."""

_NVSWITCH = 0x0680
SHARED_DIRECT, _PASSED_THROUGH = "sharedDirect", "direct"


@dataclass(frozen=True)
class Target:
    """The result of ``QueryConfigTarget(host=…)`` for one host.

    ``system_ids`` is by PCI address: hosts of the same model have GPUs at the same addresses, so
    the result of one host must not be used for another. ``profile_gib`` and ``groups`` need API
    8.0. ``queried`` is False without a call; ``problem`` is why the call failed.
    """

    system_ids: dict[str, str] = field(default_factory=dict)
    profile_gib: dict[str, int] = field(default_factory=dict)
    groups: tuple[DeviceGroup, ...] = ()
    queried: bool = True
    problem: str = ""

    def system_id(self, pci_address: str) -> str | None:
        return self.system_ids.get(pci_address, "" if self.queried else None)


NOT_QUERIED = Target(queried=False)
AT_ONCE = 8
"""Calls of QueryConfigTarget; the connection has as many sockets."""


def read_target(browser: Any, host: Any) -> Target:
    """Query one host. Any fault is a problem of this host only, not of the cluster.

    If the host agent hangs, there are runtime faults (HostCommunication, SystemError) besides those
    that the method declares. Raises Unreachable and NoPermission.
    """
    if browser is None:
        return Target(problem="its cluster has no environment browser")
    with translated("reading the host's devices", host._moId):
        try:
            target = browser.QueryConfigTarget(host=host)
        except (vim.fault.NoPermission, vim.fault.NotAuthenticated):
            raise
        except vmodl.MethodFault as fault:
            return Target(problem=_reason(fault))
        except Undecodable as error:
            return Target(problem=f"its answer cannot be decoded: {error}")
    return target_of(target)


def read_targets(browser: Any, hosts: Sequence[Any]) -> list[Target]:
    """Each host's, AT_ONCE at a time. Raises as read_target does."""
    if len(hosts) < 2:
        return [read_target(browser, host) for host in hosts]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            return list(pool.map(lambda host: read_target(browser, host), hosts))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def target_of(target: Any | None) -> Target:
    """Convert a vim.vm.ConfigTarget; nearly all of its properties are optional."""
    if target is None:
        return Target()
    profiles = getattr(target, "vgpuProfileInfo", None) or ()
    return Target(
        {
            info.pciDevice.id: info.systemId
            for info in target.pciPassthrough or ()
            if info.pciDevice
        },
        {p.profileName: p.fbSizeInGib for p in profiles if p.fbSizeInGib},
        tuple(_group(info) for info in getattr(target, "vendorDeviceGroupInfo", None) or ()),
    )


def gpus_of(host: str, row: Row, target: Target, holders: Holders) -> list[GPU]:
    devices = [device for device in row.get("hardware.pciDevice", ()) if is_gpu(device)]
    state = {info.id: info for info in row.get("config.pciPassthruInfo", ())}
    graphics = {info.pciId: info for info in row.get("config.graphicsInfo", ())}
    profiles, types = _profiles(row, target), _graphics_types(row)
    return [
        _gpu(
            host,
            device,
            state.get(device.id),
            graphics.get(device.id),
            target.system_id(device.id),
            "config.pciPassthruInfo" in row,
            (*holders.get((host, device.id), ()), *holders.get((host, ANYWHERE), ())),
            _profiles_of_gpu(device, devices, profiles),
            types(device.id),
        )
        for device in devices
    ]


def with_target(host: Host, target: Target) -> Host:
    """Return the host with the result of its QueryConfigTarget."""
    known = (
        replace(
            gpu,
            system_id=target.system_id(gpu.pci_address),
            profiles=tuple(
                replace(one, memory_gib=target.profile_gib.get(one.name) or one.memory_gib)
                for one in gpu.profiles
            ),
        )
        for gpu in host.gpus
    )
    return replace(host, gpus=tuple(known), device_groups=target.groups, problem=target.problem)


def profile_memory_gib(name: str) -> int | None:
    """Return the framebuffer from NVIDIA's names, such as 4 for grid_p100-4q; None if unknown."""
    match = re.search(r"-(\d+)[a-z]+$", name)
    return int(match[1]) if match else None


def _reason(fault: Any) -> str:
    """Return the fault's type and, if it has one, its text."""
    name = type(fault).__name__.rsplit(".", maxsplit=1)[-1]
    text = (getattr(fault, "msg", None) or "").strip()
    return f"{name}: {text}" if text else name


def _group(info: Any) -> DeviceGroup:
    """Convert a group; each component has a prototype of its device with its sequence id."""
    found = [(c, devices_of([c.device])) for c in info.componentDeviceInfo or ()]
    return DeviceGroup(
        info.deviceGroupName,
        tuple(device for _, devices in found for device in devices),
        tuple(component.type for component, devices in found if not devices),
    )


def _profiles(row: Row, target: Target) -> tuple[VGPUProfile, ...]:
    names = row.get("config.sharedPassthruGpuTypes", ())
    return tuple(
        VGPUProfile(name, target.profile_gib.get(name) or profile_memory_gib(name))
        for name in names
    )


def _graphics_types(row: Row) -> Callable[[str], str | None]:
    """Return the graphics type of a GPU by its PCI address.

    The active type takes precedence over the configured one, and the device's over the host's
    default (API reference of HostGraphicsConfig). A GPU with passthrough has no other active type.
    """
    config = row.get("config.graphicsConfig")
    default = getattr(config, "hostDefaultGraphicsType", None)
    own = {one.deviceId: one.graphicsType for one in getattr(config, "deviceType", None) or ()}
    active = {
        info.pciId: info.graphicsType
        for info in row.get("config.graphicsInfo", ())
        if info.graphicsType != _PASSED_THROUGH
    }
    return lambda address: active.get(address) or own.get(address) or default


def _profiles_of_gpu(
    device: Any, devices: Sequence[Any], profiles: Sequence[VGPUProfile]
) -> tuple[VGPUProfile, ...]:
    """Return those of the host's vGPU types that this GPU offers.

    The API lists them by host. On a host with several GPU models, the model in the type's name
    decides, if a GPU of the host has that model.
    """
    names = {one.id: one.deviceName.lower() for one in devices}
    return tuple(
        p
        for p in profiles
        if _model(p.name) in names[device.id]
        or not any(_model(p.name) in name for name in names.values())
    )


def _model(profile: str) -> str:
    """Return the GPU model, such as p100 for grid_p100c-12q: letters after it are a variant."""
    match = re.match(r"(?:grid|nvidia)_([a-z]*\d+)", profile.lower())
    return match[1] if match else profile.lower()


def nvswitches_of(row: Row) -> tuple[str, ...]:
    """Return the NVSwitches: NVIDIA's bridges of the class *other* (0680)."""
    return tuple(
        device.id
        for device in row.get("hardware.pciDevice", ())
        if device.vendorId & 0xFFFF == NVIDIA_VENDOR_ID and device.classId & 0xFFFF == _NVSWITCH
    )


def is_gpu(device: Any) -> bool:
    """Whether it is an NVIDIA display controller or processing accelerator; ids are signed."""
    base_class = (device.classId & 0xFFFF) >> 8
    return device.vendorId & 0xFFFF == NVIDIA_VENDOR_ID and base_class in (0x03, 0x12)


def _gpu(
    host: str,
    device: Any,
    state: Any | None,
    graphics: Any | None,
    system_id: str | None,
    shown: bool,
    holders: Sequence[Holder],
    profiles: tuple[VGPUProfile, ...],
    graphics_type: str | None,
) -> GPU:
    device_id = device.deviceId & 0xFFFF
    kib = getattr(graphics, "memorySizeInKB", None) or 0
    active = bool(getattr(state, "passthruActive", False))
    return GPU(
        host=host,
        pci_address=device.id,
        vendor_id=device.vendorId & 0xFFFF,
        device_id=device_id,
        name=device.deviceName,
        memory_gib=round(kib / 1024**2) or _MEMORY_GIB.get(device_id),
        capable=bool(getattr(state, "passthruCapable", False)),
        enabled=bool(getattr(state, "passthruEnabled", False)),
        active=active,
        passthrough_shown=shown,
        dependent_device=getattr(state, "dependentDevice", None) or device.id,
        system_id=system_id,
        label=getattr(state, "hardwareLabel", None) or "",
        holders=tuple(holder for holder in holders if holder.certain),
        possible_holders=tuple(holder for holder in holders if not holder.certain),
        profiles=profiles if graphics_type == SHARED_DIRECT and not active else (),
        shared_direct=graphics_type == SHARED_DIRECT,
    )


HOST_PATHS = ("name", "config.assignableHardwareBinding", "config.graphicsInfo")
VM_PATHS = ("name", "runtime.host", "runtime.powerState", "config.hardware.device")

UNSEEN = "a VM that this account cannot see"
ALL_UNSEEN = "VMs that this account cannot see"

_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$")


def holders(
    hosts: Mapping[Any, Row], vms: Mapping[Any, Row], ours: Collection[MoRef] = ()
) -> Holders:
    """Return holders by host name and PCI address; rows have at least HOST_PATHS and VM_PATHS.

    ``ours`` are the VMs that gpuvm created. An uncertain holder may be under ANYWHERE of a host.
    """
    found: dict[tuple[str, str], dict[MoRef, Holder]] = defaultdict(dict)
    certain = (*_fixed(hosts, vms), *_dynamic_holders(hosts, vms), *_vgpu_holders(hosts, vms))
    placed = {holder.moref for _, _, holder in certain if holder.certain}
    for host, address, holder in (*certain, *_unplaced(hosts, vms, placed)):
        known = replace(holder, ours=holder.moref in ours)
        found[host, address].setdefault(holder.moref, known)
    return {where: tuple(by_vm.values()) for where, by_vm in found.items()}


def name_of(ref: Any, row: Row) -> str:
    """Return the object's name, or its id if vCenter does not show the name."""
    return str(row.get("name", ref._moId))


def _fixed(hosts: Mapping[Any, Row], vms: Mapping[Any, Row]) -> Iterator[tuple[str, str, Holder]]:
    for ref, row in vms.items():
        for device in devices_of(row.get("config.hardware.device", ())):
            if isinstance(device, PassthroughDevice):
                for host in _host_names(row, hosts):
                    yield host, device.pci_address, _holder(ref, row, certain="runtime.host" in row)


def _unplaced(
    hosts: Mapping[Any, Row], vms: Mapping[Any, Row], placed: Collection[MoRef]
) -> Iterator[tuple[str, str, Holder]]:
    """Yield VMs whose hardware is not shown, and running ones whose GPU no host reports."""
    for ref, row in vms.items():
        holder = _holder(ref, row, certain=False)
        devices = devices_of(row.get("config.hardware.device", ()))
        bound = any(not isinstance(device, PassthroughDevice) for device in devices)
        unknown = bound and holder.powered_on and holder.moref not in placed
        if unknown or "config.hardware.device" not in row:
            yield from ((host, ANYWHERE, holder) for host in _host_names(row, hosts))


def _host_names(row: Row, hosts: Mapping[Any, Row]) -> list[str]:
    """Return the name of the VM's host; of all hosts if vCenter does not show which one it is."""
    where = row.get("runtime.host")
    if where is not None:
        return [name_of(where, hosts[where])] if where in hosts else []
    return [name_of(ref, host) for ref, host in hosts.items()]


def _holder(ref: Any, row: Row, *, certain: bool) -> Holder:
    """A VM whose power state is not shown counts as powered on."""
    powered_on = row.get("runtime.powerState", "poweredOn") == "poweredOn"
    return Holder(name_of(ref, row), powered_on, moref=ref._moId, certain=certain)


def _dynamic_holders(
    hosts: Mapping[Any, Row], vms: Mapping[Any, Row]
) -> Iterator[tuple[str, str, Holder]]:
    for ref, host in hosts.items():
        for binding in host.get("config.assignableHardwareBinding", ()):
            address = getattr(binding, "pciId", None) or binding.instanceId or ""
            match = _ADDRESS.search(address)
            if match and binding.vm is not None:
                yield name_of(ref, host), match[0], _running(binding.vm, vms)


def _vgpu_holders(
    hosts: Mapping[Any, Row], vms: Mapping[Any, Row]
) -> Iterator[tuple[str, str, Holder]]:
    """The API reports the VMs that use a GPU, not how many vGPUs each has there.

    A VM on several GPUs has at least one vGPU on each; the rest are counted on all of them, because
    with too low a count the VM would fail to power on.
    """
    for ref, host in hosts.items():
        used = {c.pciId: set(c.vm or ()) for c in host.get("config.graphicsInfo", ())}
        gpus = Counter(vm for users in used.values() for vm in users)
        for address, users in used.items():
            for vm in sorted(users, key=str):
                yield name_of(ref, host), address, _running(vm, vms, gpus=gpus[vm])


def _running(ref: Any, vms: Mapping[Any, Row], gpus: int = 1) -> Holder:
    row = vms.get(ref, {})
    devices = devices_of(row.get("config.hardware.device", ()))
    profiles = [device.profile for device in devices if isinstance(device, VGPUDevice)]
    return Holder(
        row.get("name", UNSEEN),
        powered_on=True,
        profile=next(iter(profiles), None),
        moref=ref._moId,
        shares=max(1, len(profiles) - gpus + 1),
    )
