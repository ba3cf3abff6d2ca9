"""What exists in the vCenter, as frozen values; nothing here does I/O.

``gpuvm.vsphere`` fills an :class:`Inventory` in one read, ``gpuvm.planner`` decides from it.
"""

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote

from gpuvm.devices import (
    GPU,
    Device,
    DeviceGroup,
    DynamicDevice,
    PassthroughDevice,
    VGPUDevice,
    in_group,
)

MoRef = str
"""A managed object's id, such as ``vm-42``; only ``gpuvm.vsphere`` turns it into an object."""


@dataclass(frozen=True)
class VCenter:
    """``name`` is ``AboutInfo.name``: the lab's says that it is a lab."""

    name: str
    url: str
    version: str
    api_version: str
    instance_uuid: str


@dataclass(frozen=True)
class Host:
    name: str
    moref: MoRef
    connection_state: str
    in_maintenance_mode: bool
    in_quarantine_mode: bool
    memory_gib: float
    reserved_gib: float
    """Memory reservations of the VMs that are powered on, and what ESXi itself needs for them."""
    model: str
    gpus: tuple[GPU, ...]
    datastores: tuple[MoRef, ...]
    networks: tuple[MoRef, ...]
    """What it reaches; names would not do, for two networks may have one name."""
    power_state: str = "poweredOn"
    version: str = ""
    """Of ESXi."""
    rebinds: bool = False
    """Passthrough is switched without a reboot (deviceRebindWithoutRebootSupported)."""
    device_groups: tuple[DeviceGroup, ...] = ()
    problem: str = ""
    """Why it did not answer for its devices; empty if it did, or was not asked."""
    hidden: str = ""
    """What vCenter does not show of it without which no VM can be placed; empty as a rule."""
    gpus_hidden: str = ""
    """What vCenter does not show of its GPUs."""
    nvswitches: tuple[str, ...] = ()
    """PCI addresses of the switches that connect the GPUs of an HGX board."""
    hypervisor_gib: float | None = None
    """Memory that ESXi keeps for itself; None if unknown."""

    @property
    def switched_gpus(self) -> tuple[GPU, ...]:
        """Those behind the NVSwitches; an HGX board has SXM modules, beside which cards may be."""
        modules = tuple(gpu for gpu in self.gpus if "SXM" in gpu.name.upper())
        return (modules or self.gpus) if self.nvswitches else ()

    def device_group(self, name: str) -> DeviceGroup | None:
        return next((group for group in self.device_groups if group.name == name), None)

    @property
    def away(self) -> str | None:
        """Why the host cannot be reached at all, or None."""
        if self.connection_state != "connected":
            return _CONNECTION.get(self.connection_state, self.connection_state)
        if self.power_state != "poweredOn":
            return f"not powered on ({self.power_state})"
        return None

    @property
    def unusable(self) -> str | None:
        """Why no VM can be placed here, or None."""
        if self.away is not None:
            return self.away
        if self.in_maintenance_mode:
            return "in maintenance mode"
        if self.in_quarantine_mode:
            return "in quarantine mode"
        silent = f"its PCI devices cannot be read ({self.problem})" if self.problem else None
        return self.hidden or silent


@dataclass(frozen=True)
class Cluster:
    name: str
    moref: MoRef
    path: str
    datacenter: str
    resource_pool: MoRef
    vm_folder: MoRef
    drs_places: bool = False
    """DRS is on and fully automated: vCenter chooses the host of a VM that is powered on."""
    unreserved_gib: float | None = None
    """What the resource pool has left for reservations; None where it does not tell."""
    datacenter_path: str = ""
    """Empty where the account cannot see all the way up to it."""


@dataclass(frozen=True)
class Snapshot:
    name: str
    moref: MoRef
    current: bool


@dataclass(frozen=True)
class NIC:
    """A network card of a template; ``kind`` is its class in the API, such as VirtualVmxnet3."""

    key: int
    kind: str
    network: str = ""
    """The name of its network, or the key of its distributed port group; empty if unknown."""


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
    nics: tuple[NIC, ...]
    has_gpu: bool
    guest_id: str
    snapshots: tuple[Snapshot, ...] = ()
    unfinished: bool = False
    """Its notes say that its snapshot is being made; it may be a VM meanwhile."""
    host: MoRef = ""
    datastores: tuple[MoRef, ...] = ()
    """Where its disks are; empty if that is not known."""
    tools: str = "guestToolsUnmanaged"
    """``guest.toolsVersionStatus2``: guestToolsNotInstalled when there are none."""
    secure_boot: bool = False
    vtpm: bool = False
    encrypted: bool = False
    nested_hv: bool = False
    cores_per_socket: int = 1
    disks: int = 1
    used_gib: float | None = None
    """What its disks take, less than ``disk_gib`` where they are thin; None: not known."""
    hidden: str = ""
    """What vCenter does not show of it, though a clone depends on it; empty as a rule."""
    networks: tuple[MoRef, ...] = ()


@dataclass(frozen=True)
class Datastore:
    name: str
    moref: MoRef
    free_gib: float
    accessible: bool
    path: str = ""
    hidden: str = ""
    """What vCenter does not show of it; then its room is not known and it is taken to be there."""
    maintenance: bool = False
    """In maintenance mode or entering it: what is there is moved away."""
    troubles: tuple[tuple[MoRef, str], ...] = ()
    """Hosts that have it and cannot write to it, and why."""

    def why_not_on(self, host: "Host") -> str | None:
        """Why a VM on this host cannot have its disks here; None when it can."""
        if self.moref not in host.datastores:
            return "it is not mounted there"
        if not self.accessible:
            return "it is not accessible"
        if self.maintenance:
            return "it is in maintenance mode"
        return dict(self.troubles).get(host.moref)


@dataclass(frozen=True)
class Network:
    """A distributed port group has a key, and the UUID of its switch.

    An opaque network, such as a segment of NSX, has an id and a type of whoever manages it.
    """

    name: str
    moref: MoRef
    portgroup_key: str | None = None
    switch_uuid: str | None = None
    path: str = ""
    opaque_id: str | None = None
    opaque_type: str | None = None


@dataclass(frozen=True)
class StoragePolicy:
    """``id`` is the API's id; vCenter allows two of one name."""

    name: str
    id: str


def is_called(wanted: str, *, name: str, path: str, moref: MoRef) -> bool:
    """By name, by inventory path or by MoRef id, for every kind of object alike.

    vCenter stores a slash, a backslash and a percent sign of a name as %2f, %5c and %25, and the
    vSphere Client shows the sign: both are accepted.
    """
    return wanted in (name, unquote(name), path, moref)


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
    devices: tuple[Device, ...] = ()
    firmware: str = ""
    connection_state: str = "connected"
    question: str = ""
    """The question that vCenter waits to be answered before the VM continues."""
    addresses: tuple[str, ...] = ()
    """All that the guest reports on the VM's own network cards, the likeliest first."""
    macs: tuple[str, ...] = ()
    """Of its network cards, in their order."""
    host_keys: tuple[str, ...] = ()
    """OpenSSH public keys that the guest published through guestinfo."""
    annotation: str = ""
    creation_spec: str = ""
    """What it was made from, as JSON (ClusterSpec.creation_spec_json)."""
    tools_running: bool = False
    cores_per_socket: int = 1
    template: bool = False
    """Somebody made a VM template of it."""
    hidden: str = ""
    """What vCenter does not show of it, so that nothing may be concluded; empty as a rule."""
    folder: MoRef = ""
    resource_pool: MoRef = ""
    networks: tuple[MoRef, ...] = ()
    datastores: tuple[MoRef, ...] = ()
    """Where its disks are."""
    foreign_disks: tuple[str, ...] = ()
    """Files of attached disks that did not come with the clone: destroying the VM deletes them."""
    extra_config: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def power(self) -> str:
        """For people: on, off, template, or ``?`` where vCenter does not show enough."""
        if self.hidden:
            return "?"
        return "template" if self.template else "on" if self.powered_on else "off"

    @property
    def copy_of_ours(self) -> str:
        """What is known of a VM with our mark that is not ours."""
        if not self.instance_uuid:
            return f"{self.name} may be one of our VMs or a copy of one: {self.hidden}"
        return f"{self.name} is a copy of one of our VMs"

    @property
    def address(self) -> str | None:
        return self.addresses[0] if self.addresses else None

    @property
    def pci_addresses(self) -> tuple[str, ...]:
        """On its host: of fixed devices always, of dynamic ones while it is powered on."""
        fixed = [d.pci_address for d in self.devices if isinstance(d, PassthroughDevice)]
        return (*fixed, *(d.assigned for d in self.devices if isinstance(d, DynamicDevice)))

    @property
    def accelerator(self) -> str:
        """The mode, as gpuvm.yaml has it, that its virtual hardware is of."""
        if any(map(in_group, self.devices)):
            return "device-group"
        modes = {PassthroughDevice: "passthrough", DynamicDevice: "dynamic", VGPUDevice: "vgpu"}
        return next((modes[type(device)] for device in self.devices), "none")

    def has(self, gpu: GPU) -> bool:
        """The GPU is, or would be, this VM's."""
        named = gpu.host == self.host and gpu.pci_address in self.pci_addresses
        return named or self.moref in {holder.moref for holder in gpu.holders}


@dataclass(frozen=True)
class UnreadableVM:
    """A VM that vCenter lists without its configuration, which alone would say whose it is.

    Its host or datastore is away, or this account may not see more. ``instance_uuid`` is what
    vCenter remembers in the VM's summary; empty where it does not.
    """

    name: str
    moref: MoRef
    host: str
    powered_on: bool
    connection_state: str
    instance_uuid: str = ""

    @property
    def power(self) -> str:
        return "on" if self.powered_on else "off"

    @property
    def why(self) -> str:
        """Such as ``it is inaccessible: vCenter cannot read its configuration``."""
        if self.connection_state == "connected":
            return "vCenter shows nothing of its configuration"
        return f"it is {self.connection_state}: vCenter cannot read its configuration"


UNREADABLE_HINT = (
    "bring its host and datastore back, or, if it is lost, remove it from the vCenter's inventory"
)


@dataclass(frozen=True)
class Deployment:
    """``unreadable`` are VMs that seem to be its own and cannot be verified."""

    ours: tuple[VM, ...]
    copies: tuple[VM, ...]
    unreadable: tuple[UnreadableVM, ...]


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
    unreadable: tuple[UnreadableVM, ...] = ()
    """VMs of anybody of which vCenter shows no configuration."""
    notes: tuple[str, ...] = ()
    """What was not to be seen and may matter, a sentence each."""
    policies: tuple[StoragePolicy, ...] = ()
    """Only read if the spec names one."""
    policies_hidden: str = ""
    """Why they could not be read; empty as a rule."""

    def host(self, name: str) -> Host | None:
        return next((host for host in self.hosts if host.name == name), None)

    @property
    def gpus(self) -> tuple[GPU, ...]:
        return tuple(gpu for host in self.hosts for gpu in host.gpus)

    def ours(self, deployment: str) -> tuple[VM, ...]:
        """The deployment's VMs by index; copies are left out."""
        mine = [v for v in self.vms if v.ownership == "ours" and v.deployment == deployment]
        return tuple(sorted(mine, key=lambda v: v.index or 0))

    def copies(self, deployment: str) -> tuple[VM, ...]:
        return tuple(v for v in self.vms if v.ownership == "copy" and v.deployment == deployment)


_CONNECTION = {"notResponding": "not responding"}


@dataclass(frozen=True)
class Licence:
    """``expires`` is a date as text, None for one that never does or does not say."""

    name: str
    expires: str | None = None
    expired: bool = False
