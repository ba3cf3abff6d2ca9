"""What exists in the vCenter, as frozen values; nothing here does I/O.

``gpuvm.vsphere`` fills an :class:`Inventory` in one read, ``gpuvm.planner`` decides from it.
"""

from dataclasses import dataclass, field
from typing import Literal

MoRef = str
"""A managed object's id, such as ``vm-42``; only ``gpuvm.vsphere`` turns it into an object."""

NVIDIA_VENDOR_ID = 0x10DE


@dataclass(frozen=True)
class VCenter:
    """``name`` is ``AboutInfo.name``: the lab's says that it is a lab."""

    name: str
    url: str
    version: str
    api_version: str
    instance_uuid: str


@dataclass(frozen=True)
class Holder:
    """A VM that names a GPU in its virtual hardware."""

    vm: str
    powered_on: bool


@dataclass(frozen=True)
class GPU:
    """One physical function as the host lists it (HostPciDevice, HostPciPassthruInfo).

    Ids are unsigned 16-bit numbers. ``system_id`` is the host's own, from
    ``QueryConfigTarget(host=…)``; ``memory_gib`` is None where nobody knows it.
    """

    host: str
    pci_address: str
    vendor_id: int
    device_id: int
    name: str
    memory_gib: int | None
    capable: bool
    enabled: bool
    active: bool
    dependent_device: str
    system_id: str | None
    label: str = ""
    holders: tuple[Holder, ...] = ()

    @property
    def state(self) -> str:
        """One phrase for a table: free, held by …, reboot pending, not enabled, incapable."""
        if self.holders:
            return "held by " + ", ".join(_held(h) for h in self.holders)
        if not self.capable:
            return "not capable of passthrough"
        if not self.enabled:
            return "passthrough not enabled"
        if not self.active:
            return "passthrough enabled, host reboot pending"
        return "free"

    @property
    def free(self) -> bool:
        return self.active and not self.holders


@dataclass(frozen=True)
class Host:
    name: str
    moref: MoRef
    connection_state: str
    in_maintenance_mode: bool
    in_quarantine_mode: bool
    memory_gib: float
    reserved_gib: float
    """Memory reservations of the VMs that are powered on."""
    model: str
    gpus: tuple[GPU, ...]
    datastores: tuple[str, ...]
    networks: tuple[str, ...]

    @property
    def unusable(self) -> str | None:
        """Why no VM can be placed here, or None."""
        if self.connection_state != "connected":
            return self.connection_state
        if self.in_maintenance_mode:
            return "in maintenance mode"
        if self.in_quarantine_mode:
            return "in quarantine mode"
        return None


@dataclass(frozen=True)
class Cluster:
    name: str
    moref: MoRef
    path: str
    datacenter: str
    resource_pool: MoRef
    vm_folder: MoRef


@dataclass(frozen=True)
class VMTemplate:
    name: str
    moref: MoRef
    path: str
    firmware: str
    hardware_version: int
    cpus: int
    memory_gib: float
    disk_gib: float
    nics: int
    has_gpu: bool
    guest_id: str


@dataclass(frozen=True)
class Datastore:
    name: str
    moref: MoRef
    free_gib: float
    accessible: bool


@dataclass(frozen=True)
class Network:
    name: str
    moref: MoRef


@dataclass(frozen=True)
class PassthroughDevice:
    """A fixed DirectPath I/O device in a VM's virtual hardware.

    ``device_id`` is the backing's own text: unsigned hex without ``0x``.
    """

    key: int
    pci_address: str
    device_id: str
    vendor_id: int
    system_id: str


Ownership = Literal["ours", "copy", "other"]


@dataclass(frozen=True)
class VM:
    """A VM of the cluster; ``extra_config`` holds only the ``gpuvm.*`` and ``guestinfo.*`` keys."""

    name: str
    moref: MoRef
    host: str
    powered_on: bool
    instance_uuid: str
    ownership: Ownership = "other"
    deployment: str | None = None
    index: int | None = None
    generation: str | None = None
    spec_digest: str | None = None
    cpus: int = 0
    memory_gib: float = 0
    memory_locked: bool = False
    hot_add: bool = False
    devices: tuple[PassthroughDevice, ...] = ()
    address: str | None = None
    host_keys: tuple[str, ...] = ()
    """OpenSSH public keys that the guest published through guestinfo."""
    annotation: str = ""
    extra_config: dict[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Inventory:
    vcenter: VCenter
    cluster: Cluster
    hosts: tuple[Host, ...]
    templates: tuple[VMTemplate, ...]
    datastores: tuple[Datastore, ...]
    networks: tuple[Network, ...]
    vms: tuple[VM, ...]
    """Only VMs that carry our mark, copies of them included."""
    names_in_folder: frozenset[str]
    """Names taken in the folder that new VMs go to."""

    @property
    def gpus(self) -> tuple[GPU, ...]:
        return tuple(gpu for host in self.hosts for gpu in host.gpus)

    def ours(self, deployment: str) -> tuple[VM, ...]:
        """The deployment's VMs by index; copies are left out."""
        mine = [v for v in self.vms if v.ownership == "ours" and v.deployment == deployment]
        return tuple(sorted(mine, key=lambda v: v.index or 0))

    def copies(self, deployment: str) -> tuple[VM, ...]:
        return tuple(v for v in self.vms if v.ownership == "copy" and v.deployment == deployment)


def _held(holder: Holder) -> str:
    return f"{holder.vm} ({'powered on' if holder.powered_on else 'powered off'})"
