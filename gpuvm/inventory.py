"""What exists in the vCenter, as frozen values; nothing here does I/O.

``gpuvm.vsphere`` reads an :class:`Inventory`, ``gpuvm.planner`` compares it with a spec.
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
    """``name`` is ``AboutInfo.name``, which in the lab says that it is a lab."""

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
    """Memory reservations of the powered-on VMs, and their memory overhead."""
    model: str
    gpus: tuple[GPU, ...]
    datastores: tuple[MoRef, ...]
    networks: tuple[MoRef, ...]
    """By moref, because two networks may have the same name."""
    power_state: str = "poweredOn"
    version: str = ""
    """Of ESXi."""
    rebinds: bool = False
    """Passthrough is switched without a reboot (deviceRebindWithoutRebootSupported)."""
    device_groups: tuple[DeviceGroup, ...] = ()
    problem: str = ""
    """Why QueryConfigTarget failed for the host; empty if it did not, or was not called."""
    hidden: str = ""
    """Properties needed to place a VM that vCenter does not show; usually empty."""
    gpus_hidden: str = ""
    """Properties of its GPUs that vCenter does not show; usually empty."""
    nvswitches: tuple[str, ...] = ()
    """PCI addresses of the switches that connect the GPUs of an HGX board."""
    hypervisor_gib: float | None = None
    """Memory that ESXi keeps for itself; None if unknown."""
    cpu_threads: int = 0
    """Logical CPUs; 0 if unknown."""

    @property
    def switched_gpus(self) -> tuple[GPU, ...]:
        """The GPUs behind the NVSwitches: the SXM modules, if there are any."""
        modules = tuple(gpu for gpu in self.gpus if "SXM" in gpu.name.upper())
        return (modules or self.gpus) if self.nvswitches else ()

    def device_group(self, name: str) -> DeviceGroup | None:
        return next((group for group in self.device_groups if group.name == name), None)

    @property
    def unreachable(self) -> str | None:
        """Why vCenter cannot reach the host, or None."""
        if self.connection_state != "connected":
            return _CONNECTION.get(self.connection_state, self.connection_state)
        if self.power_state != "poweredOn":
            return f"not powered on ({self.power_state})"
        return None

    @property
    def unusable(self) -> str | None:
        """Why no VM can be placed on the host, or None."""
        if self.unreachable is not None:
            return self.unreachable
        if self.in_maintenance_mode:
            return "in maintenance mode"
        if self.in_quarantine_mode:
            return "in quarantine mode"
        unread = f"its PCI devices cannot be read ({self.problem})" if self.problem else None
        return self.hidden or unread

    @property
    def remedy(self) -> str:
        """What makes an unusable host usable."""
        if self.unreachable is not None:
            return f"power on or reconnect {self.name}"
        if self.in_maintenance_mode or self.in_quarantine_mode:
            mode = "maintenance" if self.in_maintenance_mode else "quarantine"
            return f"take {self.name} out of {mode} mode"
        return f"'gpuvm doctor' says what this account may not read of {self.name}, or what failed"


@dataclass(frozen=True)
class Cluster:
    name: str
    moref: MoRef
    path: str
    datacenter: str
    resource_pool: MoRef
    vm_folder: MoRef
    drs_places: bool = False
    """DRS is fully automated: vCenter chooses the host at power-on."""
    unreserved_gib: float | None = None
    """Unreserved memory of the resource pool; None if unknown."""
    datacenter_path: str = ""
    """Empty if the account cannot see the datacenter."""


@dataclass(frozen=True)
class Snapshot:
    name: str
    moref: MoRef
    current: bool


@dataclass(frozen=True)
class NIC:
    """A network adapter of a template; ``kind`` is its API class, such as VirtualVmxnet3."""

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
    """Its notes say that gpuvm is creating its snapshot; until then it may be a VM."""
    host: MoRef = ""
    datastores: tuple[MoRef, ...] = ()
    """Those of its disks; empty if unknown."""
    tools: str = "guestToolsUnmanaged"
    """``guest.toolsVersionStatus2``, such as guestToolsNotInstalled."""
    secure_boot: bool = False
    vtpm: bool = False
    encrypted: bool = False
    nested_hv: bool = False
    cores_per_socket: int = 1
    disks: int = 1
    used_gib: float | None = None
    """Used space of its disks, less than ``disk_gib`` for thin ones; None if unknown."""
    hidden: str = ""
    """Properties that a clone depends on and vCenter does not show; usually empty."""
    networks: tuple[MoRef, ...] = ()


@dataclass(frozen=True)
class Datastore:
    name: str
    moref: MoRef
    free_gib: float
    accessible: bool
    path: str = ""
    hidden: str = ""
    """Properties that vCenter does not show; the free space is then assumed to be enough."""
    maintenance: bool = False
    """In maintenance mode or entering it, which moves its files to other datastores."""
    host_problems: tuple[tuple[MoRef, str], ...] = ()
    """Hosts that mount it and cannot write to it, and why."""

    def why_not_on(self, host: "Host") -> str | None:
        """Return why a VM on this host cannot have its disks here, or None."""
        if self.moref not in host.datastores:
            return "it is not mounted there"
        if not self.accessible:
            return "it is not accessible"
        if self.maintenance:
            return "it is in maintenance mode"
        return dict(self.host_problems).get(host.moref)


@dataclass(frozen=True)
class Network:
    """A distributed port group has a key, and the UUID of its switch.

    An opaque network, such as an NSX segment, has an id and a type.
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
    """``id`` is the API's id; two policies may have the same name."""

    name: str
    id: str


def is_called(wanted: str, *, name: str, path: str, moref: MoRef) -> bool:
    """Return whether ``wanted`` is the object's name, inventory path or MoRef id.

    vCenter stores a slash, a backslash and a percent sign in a name as %2f, %5c and %25, the
    vSphere Client shows the characters themselves: both are accepted.
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
    """The question that must be answered in vCenter before the VM continues."""
    addresses: tuple[str, ...] = ()
    """Reported by the guest for the VM's network adapters, the most likely first."""
    macs: tuple[str, ...] = ()
    """Of its network adapters, in their order."""
    host_keys: tuple[str, ...] = ()
    """OpenSSH public keys that the guest published through guestinfo."""
    annotation: str = ""
    creation_spec: str = ""
    """The spec it was created from, as JSON (ClusterSpec.creation_spec_json)."""
    tools_running: bool = False
    cores_per_socket: int = 1
    template: bool = False
    """It was converted to a VM template."""
    hidden: str = ""
    """Required properties that vCenter does not show; usually empty."""
    folder: MoRef = ""
    resource_pool: MoRef = ""
    networks: tuple[MoRef, ...] = ()
    datastores: tuple[MoRef, ...] = ()
    """Those of its disks."""
    foreign_disks: tuple[str, ...] = ()
    """Files of attached disks that did not come with the clone: destroying the VM deletes them."""
    extra_config: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def power(self) -> str:
        """For display: on, off, template, or ``?`` if vCenter does not show enough."""
        if self.hidden:
            return "?"
        return "template" if self.template else "on" if self.powered_on else "off"

    @property
    def address(self) -> str | None:
        return self.addresses[0] if self.addresses else None

    @property
    def pci_addresses(self) -> tuple[str, ...]:
        """Of fixed devices always, of dynamic ones while the VM is powered on."""
        fixed = [d.pci_address for d in self.devices if isinstance(d, PassthroughDevice)]
        return (*fixed, *(d.assigned for d in self.devices if isinstance(d, DynamicDevice)))

    @property
    def accelerator(self) -> str:
        """The accelerator mode, as in gpuvm.yaml, of its virtual hardware."""
        if any(map(in_group, self.devices)):
            return "device-group"
        modes = {PassthroughDevice: "passthrough", DynamicDevice: "dynamic", VGPUDevice: "vgpu"}
        return next((modes[type(device)] for device in self.devices), "none")

    def has(self, gpu: GPU) -> bool:
        """Return whether the VM names the GPU or holds it."""
        named = gpu.host == self.host and gpu.pci_address in self.pci_addresses
        return named or self.moref in {holder.moref for holder in gpu.holders}


@dataclass(frozen=True)
class UnreadableVM:
    """A VM that vCenter lists without its configuration, so that its mark cannot be read.

    Its host or datastore is unreachable, or this account may not see more. ``instance_uuid`` is
    from the VM's summary; empty if it is not there.
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
        """For example ``it is inaccessible: vCenter cannot read its configuration``."""
        if self.connection_state == "connected":
            return "vCenter shows nothing of its configuration"
        return f"it is {self.connection_state}: vCenter cannot read its configuration"


UNREADABLE_HINT = (
    "bring its host and datastore back, or, if it is lost, remove it from the vCenter's inventory"
)


@dataclass(frozen=True)
class Deployment:
    """``unreadable`` are VMs that are probably its own, which cannot be verified."""

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
    """Only VMs that carry the mark, copies included."""
    names_in_folder: frozenset[str]
    """Names in the folder of new VMs."""
    unreadable: tuple[UnreadableVM, ...] = ()
    """All VMs whose configuration vCenter does not show."""
    notes: tuple[str, ...] = ()
    """What could not be read and may matter, a sentence each."""
    policies: tuple[StoragePolicy, ...] = ()
    """Only read if the spec names one."""
    policies_hidden: str = ""
    """Why they could not be read; usually empty."""

    def host(self, name: str) -> Host | None:
        return next((host for host in self.hosts if host.name == name), None)

    @property
    def gpus(self) -> tuple[GPU, ...]:
        return tuple(gpu for host in self.hosts for gpu in host.gpus)

    def ours(self, deployment: str) -> tuple[VM, ...]:
        """Return the deployment's VMs by index, without copies."""
        found = [v for v in self.vms if v.ownership == "ours" and v.deployment == deployment]
        return tuple(sorted(found, key=lambda v: v.index or 0))

    def copies(self, deployment: str) -> tuple[VM, ...]:
        return tuple(v for v in self.vms if v.ownership == "copy" and v.deployment == deployment)


_CONNECTION = {"notResponding": "not responding"}


@dataclass(frozen=True)
class Licence:
    """``expires`` is a date as text, None if it does not expire or that is unknown."""

    name: str
    expires: str | None = None
    expired: bool = False
