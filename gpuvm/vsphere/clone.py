"""The spec of a CloneVM_Task, and of the ReconfigVM_Task that corrects what differs afterwards."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pyVmomi import vim

from gpuvm.devices import Device
from gpuvm.inventory import NIC, VM, MoRef, Network
from gpuvm.ownership import POLICY_KEY
from gpuvm.vsphere import pci_devices, policies

USE_64BIT_MMIO = "pciPassthru.use64bitMMIO"
MMIO_SIZE_GB = "pciPassthru.64bitMMIOSizeGB"


@dataclass(frozen=True)
class CloneRequest:
    """A VM to create. With devices, all memory is reserved and hot-add is off.

    ``extra_config`` has the mark and the guestinfo keys. None keeps the template's ``cpus`` and
    ``memory_gib``, and for ``host`` it leaves the choice to DRS. With a ``snapshot`` it is a linked
    clone. ``nics`` are the template's network adapters.
    """

    name: str
    instance_uuid: str
    template: MoRef
    host: MoRef | None
    resource_pool: MoRef
    datastore: MoRef
    folder: MoRef
    cpus: int | None
    memory_gib: float | None
    devices: tuple[Device, ...]
    mmio_gib: int | None
    extra_config: dict[str, str]
    annotation: str
    network: Network | None = None
    nics: tuple[NIC, ...] = ()
    snapshot: MoRef | None = None
    storage_policy: str | None = None
    """Its id; it is applied to the VM by a reconfigure, not in the clone."""
    device_group: str = ""
    """The vendor device group that consists of the devices."""
    metadata: dict[str, str] = field(default_factory=dict, hash=False)
    """The guestinfo keys that are known only once the VM exists."""
    own_tpm: bool = False
    """The template has a virtual TPM: the clone gets a new one, with its own secrets."""
    cores_per_socket: int = 1
    """The template's; it is changed if the number of CPUs is not a multiple of it."""


def clone_spec(request: CloneRequest, reference: Any) -> Any:
    """Return the CloneSpec; ``reference(kind, moref)`` returns a managed object."""
    spec = vim.vm.CloneSpec(
        location=_location(request, reference),
        powerOn=False,
        template=False,
        config=_config(request, reference),
    )
    if request.own_tpm:
        spec.tpmProvisionPolicy = "replace"
    if request.snapshot is not None:
        spec.snapshot = reference(vim.vm.Snapshot, request.snapshot)
    return spec


def repair_spec(vm: VM, request: CloneRequest, disks: Sequence[Any] = ()) -> Any | None:
    """Return a ConfigSpec for what differs between the VM and the request; None if nothing does.

    ``disks`` are the VM's, read only if a storage policy must be applied.
    """
    spec = vim.vm.ConfigSpec()
    changes: dict[str, tuple[object, object]] = {
        "numCPUs": (vm.cpus, request.cpus),
        "memoryMB": (vm.memory_gib * 1024, _mib(request.memory_gib)),
        "annotation": (vm.annotation, request.annotation),
    }
    if request.devices:
        changes["memoryReservationLockedToMax"] = (vm.memory_locked, True)
    differs: dict[str, object] = {
        key: wanted for key, (is_, wanted) in changes.items() if wanted not in (None, is_)
    }
    for key, wanted in differs.items():
        setattr(spec, key, wanted)
    if "numCPUs" in differs and request.cpus is not None:
        spec.numCoresPerSocket = _other_cores_per_socket(request.cpus, vm.cores_per_socket)
    if request.devices and vm.hot_add:
        spec.cpuHotAddEnabled = spec.memoryHotAddEnabled = False
        differs["hot_add"] = False
    options = {k: v for k, v in _options(request).items() if vm.extra_config.get(k, "") != v}
    later = {k: v for k, v in request.metadata.items() if vm.extra_config.get(k) != v}
    spec.extraConfig = _option_values(_kept(options, vm) | later)
    spec.deviceChange = pci_devices.changes(vm.devices, request.devices)
    if spec.deviceChange:
        spec.deviceGroups = pci_devices.groups(request.device_group)
    if request.storage_policy is not None and policies.is_due(vm, request.storage_policy):
        policies.apply_to(spec, request.storage_policy, disks, vm.foreign_disks)
        spec.extraConfig.extend(_option_values({POLICY_KEY: request.storage_policy}))
    return spec if differs or spec.extraConfig or spec.deviceChange else None


def _location(request: CloneRequest, reference: Any) -> Any:
    location = vim.vm.RelocateSpec(
        pool=reference(vim.ResourcePool, request.resource_pool),
        datastore=reference(vim.Datastore, request.datastore),
    )
    if request.host is not None:
        location.host = reference(vim.HostSystem, request.host)
    if request.snapshot is not None:
        location.diskMoveType = "createNewChildDiskBacking"
    return location


UNLIMITED = -1


def _config(request: CloneRequest, reference: Any) -> Any:
    spec = vim.vm.ConfigSpec(
        instanceUuid=request.instance_uuid,
        annotation=request.annotation,
        extraConfig=_option_values(_options(request) | _no_policy(request)),
        deviceChange=pci_devices.added(request.devices),
        deviceGroups=pci_devices.groups(request.device_group),
    )
    if request.network is not None and request.nics:
        spec.deviceChange.append(connected(request.nics[0], request.network, reference))
    if request.cpus is not None:
        spec.numCPUs = request.cpus
        spec.numCoresPerSocket = _other_cores_per_socket(request.cpus, request.cores_per_socket)
    if request.memory_gib is not None:
        spec.memoryMB = round(request.memory_gib * 1024)  # type: ignore[assignment]
    if request.devices:
        spec.memoryReservationLockedToMax = True
        # The reservation cannot exceed the limit, which the clone inherits from its template.
        spec.memoryAllocation = vim.ResourceAllocationInfo(limit=UNLIMITED)
        spec.cpuHotAddEnabled = spec.memoryHotAddEnabled = False
    return spec


def _other_cores_per_socket(cpus: int, present: int) -> int | None:
    """Return the largest divisor of both if CPUs are not a multiple of ``present``, else None."""
    return None if cpus % present == 0 else math.gcd(cpus, present)


def _options(request: CloneRequest) -> dict[str, str]:
    if not request.devices or request.mmio_gib is None:
        return request.extra_config
    mmio = {USE_64BIT_MMIO: "TRUE", MMIO_SIZE_GB: str(request.mmio_gib)}
    return {**mmio, **request.extra_config}


def _no_policy(request: CloneRequest) -> dict[str, str]:
    """Clear the record of an applied policy, which the clone may have inherited."""
    return {} if request.storage_policy is None else {POLICY_KEY: ""}


def _kept(options: dict[str, str], vm: VM) -> dict[str, str]:
    """A marked VM keeps its guestinfo keys: it booted with them, or its guest published them."""
    return {k: v for k, v in options.items() if not (k.startswith("guestinfo.") and vm.generation)}


def _option_values(options: dict[str, str]) -> list[Any]:
    return [vim.option.OptionValue(key=key, value=value) for key, value in options.items()]


def _mib(gib: float | None) -> int | None:
    return None if gib is None else round(gib * 1024)


def connected(nic: NIC, network: Network, reference: Any) -> Any:
    """Return the change that connects the template's adapter to ``network``."""
    adapter = getattr(vim.vm.device, nic.kind)(key=nic.key, backing=_backing(network, reference))
    adapter.connectable = vim.vm.device.VirtualDevice.ConnectInfo(
        startConnected=True, allowGuestControl=True, connected=False
    )
    return vim.vm.device.VirtualDeviceSpec(operation="edit", device=adapter)


def _backing(network: Network, reference: Any) -> Any:
    """Return the backing for this kind of network; vCenter refuses any other.

    A distributed port group is named by its key and its switch, an opaque network by its id and
    its type, a standard network by itself.
    """
    kinds = vim.vm.device.VirtualEthernetCard
    if network.opaque_id is not None:
        return kinds.OpaqueNetworkBackingInfo(
            opaqueNetworkId=network.opaque_id, opaqueNetworkType=network.opaque_type
        )
    if network.portgroup_key is None:
        named = reference(vim.Network, network.moref)
        return kinds.NetworkBackingInfo(deviceName=network.name, network=named)
    port = vim.dvs.PortConnection(
        portgroupKey=network.portgroup_key, switchUuid=network.switch_uuid
    )
    return kinds.DistributedVirtualPortBackingInfo(port=port)
