"""One CloneVM_Task that carries everything, and the one reconfigure that repairs the rest."""

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
    """A VM as it is wanted. With devices it implies all memory reserved and hot-add off.

    ``extra_config`` holds the mark and the guestinfo keys; ``cpus`` and ``memory_gib`` None leave
    the template's. ``host`` None leaves the choice to DRS. With a ``snapshot`` it is a linked
    clone. ``nics`` are the template's cards.
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
    """Its id; it is applied to the VM as made, not in the clone."""
    device_group: str = ""
    """The vendor device group that the devices make up together."""
    metadata: dict[str, str] = field(default_factory=dict, hash=False)
    """Of the guestinfo keys those that could only be known once the VM was there."""
    own_tpm: bool = False
    """The template has a virtual TPM: the clone gets a new one, with secrets of its own."""
    cores_per_socket: int = 1
    """The template's; a number of CPUs that it does not divide gets another one."""


def clone_spec(request: CloneRequest, reference: Any) -> Any:
    """``reference(kind, moref)`` makes a managed object of this connection."""
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
    """Return what differs between the VM as read back and the request; None if nothing does.

    ``disks`` are the VM's, as vCenter shows them, where a storage policy is due.
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
        extraConfig=_option_values(_options(request) | _not_yet(request)),
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
        # No more can be reserved than a limit allows, and a clone has its template's.
        spec.memoryAllocation = vim.ResourceAllocationInfo(limit=UNLIMITED)
        spec.cpuHotAddEnabled = spec.memoryHotAddEnabled = False
    return spec


def _other_cores_per_socket(cpus: int, present: int) -> int | None:
    """The most that divides both: vCenter wants the CPUs to be a multiple. None if that is so."""
    return None if cpus % present == 0 else math.gcd(cpus, present)


def _options(request: CloneRequest) -> dict[str, str]:
    if not request.devices or request.mmio_gib is None:
        return request.extra_config
    mmio = {USE_64BIT_MMIO: "TRUE", MMIO_SIZE_GB: str(request.mmio_gib)}
    return {**mmio, **request.extra_config}


def _not_yet(request: CloneRequest) -> dict[str, str]:
    """A clone of a VM of ours says of itself that it has a policy, and has none."""
    return {} if request.storage_policy is None else {POLICY_KEY: ""}


def _kept(options: dict[str, str], vm: VM) -> dict[str, str]:
    """A VM that exists keeps what its guest published and what it first booted with."""
    return {k: v for k, v in options.items() if not (k.startswith("guestinfo.") and vm.generation)}


def _option_values(options: dict[str, str]) -> list[Any]:
    return [vim.option.OptionValue(key=key, value=value) for key, value in options.items()]


def _mib(gib: float | None) -> int | None:
    return None if gib is None else round(gib * 1024)


def connected(nic: NIC, network: Network, reference: Any) -> Any:
    """The change that puts the template's card on ``network``, everything else about it kept."""
    card = getattr(vim.vm.device, nic.kind)(key=nic.key, backing=_backing(network, reference))
    card.connectable = vim.vm.device.VirtualDevice.ConnectInfo(
        startConnected=True, allowGuestControl=True, connected=False
    )
    return vim.vm.device.VirtualDeviceSpec(operation="edit", device=card)


def _backing(network: Network, reference: Any) -> Any:
    """By what vCenter knows each kind of network; it refuses any other backing.

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
