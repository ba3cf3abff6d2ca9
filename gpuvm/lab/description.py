"""A lab as data: hosts, GPUs, datastores, templates, unrelated VMs, delays, accounts.

    describe()                                       # the reference deployment: 4 R730 with a P100
    describe(hosts=64, gpus_per_host=4, gpu="a100")
    read_description(Path("site.yaml"))              # a description of your own (YAML or JSON)

``gpuvm-vcsim`` reads the same document as JSON. Sizes are whole numbers in the unit of their name.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gpuvm.accelerators import PCIAddress, PCIId
from gpuvm.documents import read_document
from gpuvm.errors import BadInput
from gpuvm.lab.gpu_models import GPUModel, gpu_model
from gpuvm.validation import Float, Int

LIMIT_KIB = 16 * 1024
"""Of a whole data centre with a thousand hosts, each written out."""
Seconds = Annotated[Float, Field(ge=0)]

# The slots of a PowerEdge's risers; further GPUs of a host get the buses after them.
_BUSES = (0x3B, 0xAF, 0x5E, 0xD8, 0x18, 0x86, 0x12, 0xC3)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class About(_Model):
    name: str = "gpuvm lab: simulated vCenter Server"
    version: str = "8.0.3"
    build: str = "24022515"
    api_version: str = "8.0.3.0"


class Passthrough(_Model):
    capable: bool = True
    enabled: bool = True
    active: bool = True


class VGPUProfile(_Model):
    name: str
    framebuffer_gib: Int = Field(gt=0)


class GPUDescription(_Model):
    """A PCI function of a host; ids are unsigned, and signed only in the simulator's API."""

    pci_address: PCIAddress
    vendor_id: PCIId
    device_id: PCIId
    sub_vendor_id: PCIId
    sub_device_id: PCIId
    class_id: PCIId = 0x0302
    vendor_name: str = "NVIDIA Corporation"
    name: str
    memory_gib: Int = Field(gt=0)
    bars_mib: tuple[int, ...] | None = None
    passthrough: Passthrough = Passthrough()
    dependent_device: PCIAddress | None = None
    hardware_label: str | None = None
    graphics_type: Literal["shared", "sharedDirect"] | None = None
    """Overrides the host's default."""
    vgpu_profiles: tuple[VGPUProfile, ...] | None = None


class DeviceGroupDescription(_Model):
    """GPUs that a VM gets together; without a ``profile`` the whole GPUs.

    Several groups of one name can each be given to a VM.
    """

    name: str = Field(min_length=1)
    profile: str | None = None
    gpus: tuple[PCIAddress, ...] = Field(min_length=2)


class HostDescription(_Model):
    name: str = Field(min_length=1)
    vendor: str = "Dell Inc."
    model: str = "PowerEdge R730"
    cpu_cores: Int = Field(default=28, gt=0, le=4096)
    cpu_mhz: Int = Field(default=2400, gt=0, le=100_000)
    memory_gib: Int = Field(default=256, gt=0)
    hypervisor_gib: Float | None = Field(default=None, ge=0)
    """Memory used by ESXi itself; by default 4 GiB, less on a small host."""
    version: str | None = None
    """The version of ESXi; by default the vCenter's."""
    system_uuid: str | None = None
    graphics_type: Literal["shared", "sharedDirect"] | None = None
    rebind_without_reboot: bool | None = None
    no_reboot: bool = False
    gpus: tuple[GPUDescription, ...] = ()
    device_groups: tuple[DeviceGroupDescription, ...] = ()


class DatastoreDescription(_Model):
    name: str = "vsanDatastore"
    capacity_gib: Int = Field(default=8192, gt=0)
    free_gib: Int = Field(default=6000, ge=0)
    hosts: tuple[str, ...] = ()
    """The hosts that have it mounted; empty for all."""
    read_only_on: tuple[str, ...] = ()
    lost_on: tuple[str, ...] = ()
    """Hosts that have lost all paths to it."""
    maintenance: bool = False


class StoragePolicyDescription(_Model):
    """A policy with ``data_services``, such as encryption, is refused in a clone by vCenter."""

    name: str = Field(min_length=1)
    id: str
    data_services: bool = False


_POLICIES = (
    StoragePolicyDescription(
        name="vSAN Default Storage Policy", id="aa6d5a82-1c88-45da-85d3-3d74b91a5bad"
    ),
    StoragePolicyDescription(
        name="Host cache", id="5e3e6b1a-7c0f-4d2e-9a51-1f9d0c3b7a64", data_services=True
    ),
)


class TemplateDescription(_Model):
    name: str = "centos7-tensorflow"
    guest_id: str = "centos7_64Guest"
    firmware: Literal["bios", "efi"] = "efi"
    vtpm: bool = False
    encrypted: bool = False
    hardware_version: str = Field(default="vmx-17", pattern=r"^vmx-\d+$")
    cpus: Int = Field(default=8, gt=0)
    cores_per_socket: Int = Field(default=1, gt=0)
    memory_limit_gib: Int | None = Field(default=None, gt=0)
    memory_gib: Int = Field(default=32, gt=0)
    disk_gib: Int = Field(default=40, gt=0)
    disk_used_gib: Int | None = Field(default=None, ge=0)
    """Makes the disk thin, with this much used; a clone uses as much."""
    host: str | None = None
    datastore: str | None = None
    nics: Int | None = Field(default=None, ge=0)
    snapshot: str | None = None
    extra_config: dict[str, str] | None = None


DRSLevel = Literal["fullyAutomated", "partiallyAutomated", "manual"]


class VMDescription(_Model):
    """``count`` unrelated VMs; ``{i}`` in the name is replaced by the number of each, from 1.

    ``agent`` makes them VMs of vSphere Cluster Services, of fixed size: vCenter runs some in every
    cluster since 7.0.1. ``{uuid}`` in the name is replaced by a UUID, as in their real names.
    """

    name: str = "unrelated-{i}"
    count: Int = Field(default=1, ge=0, le=20_000)
    power: Literal["on", "off"] = "on"
    host: str | None = None
    gpu: PCIAddress | None = None
    memory_gib: Int | None = Field(default=None, gt=0)
    cpus: Int | None = Field(default=None, gt=0)
    drs: DRSLevel | Literal["disabled"] | None = None
    agent: bool = False


class Timings(_Model):
    """How long the simulated operations take."""

    clone_s: Seconds = 3
    power_on_s: Seconds = 1
    power_off_s: Seconds = 0.2
    customization_s: Seconds = 0
    boot_s: Seconds = 1
    reconfigure_s: Seconds = 0
    destroy_s: Seconds = 0.2
    reboot_s: Seconds = 5


class UserDescription(_Model):
    """``tools`` stands for VMware Tools: the lab's guests report with this role.

    Roles apply to the whole inventory; an account with ``none`` has only its ``permissions``.
    """

    name: str
    role: Literal["admin", "readonly", "tools", "none"] = "admin"
    without: tuple[str, ...] | None = None


class PermissionDescription(_Model):
    """``entity`` is a name, an inventory path, or ``/`` for the root; it may be created later.

    Without a ``role`` the permission has these ``privileges``, System.View and System.Read.
    """

    principal: str
    entity: str
    role: Literal["noaccess", "view", "readonly"] | None = None
    privileges: tuple[str, ...] = ()
    propagate: bool = True


ADMINISTRATOR = "administrator@lab.local"
TOOLS = "tools@lab.local"
_USERS = (
    UserDescription(name=ADMINISTRATOR),
    UserDescription(name="readonly@lab.local", role="readonly"),
    UserDescription(name="nodevices@lab.local", without=("VirtualMachine.Config.AddRemoveDevice",)),
    UserDescription(name=TOOLS, role="tools"),
)


class Description(_Model):
    about: About = About()
    instance_uuid: str | None = None
    datacenter: str = "Lab"
    cluster: str = "GPU-Cluster"
    drs: bool = False
    drs_automation: DRSLevel = "fullyAutomated"
    vgpu_evacuation: bool = False
    networks: tuple[str, ...] = ("VM Network",)
    opaque_networks: tuple[str, ...] = ()
    """NSX networks, which vCenter knows by an id and a type."""
    address_block: str | None = None
    datastores: tuple[DatastoreDescription, ...] = (DatastoreDescription(),)
    storage_policies: tuple[StoragePolicyDescription, ...] = _POLICIES
    hosts: tuple[HostDescription, ...] = Field(min_length=1)
    templates: tuple[TemplateDescription, ...] = (TemplateDescription(),)
    vms: tuple[VMDescription, ...] = ()
    timings: Timings = Timings()
    guestinfo_updates: bool = True
    """Whether guestinfo changes are reported as updates, or seen only when a VM is read."""
    users: tuple[UserDescription, ...] = _USERS
    permissions: tuple[PermissionDescription, ...] = ()
    session_idle_s: Int | None = Field(default=None, gt=0)
    locale: str | None = None
    """The default locale of sessions, such as de_DE; English when left out."""

    @model_validator(mode="after")
    def _check(self) -> "Description":
        hosts = [host.name for host in self.hosts]
        _unique("host", hosts)
        _unique("template", [template.name for template in self.templates])
        for host in self.hosts:
            addresses = [gpu.pci_address for gpu in host.gpus]
            _unique(f"PCI address on {host.name}", addresses)
            for group in host.device_groups:
                for address in group.gpus:
                    _exists(group.name, "GPU", address, addresses)
        datastores = [datastore.name for datastore in self.datastores]
        for store in self.datastores:
            for host_name in (*store.hosts, *store.read_only_on, *store.lost_on):
                _exists(store.name, "host", host_name, hosts)
        for template in self.templates:
            _exists(template.name, "host", template.host, hosts)
            _exists(template.name, "datastore", template.datastore, datastores)
            if (template.disk_used_gib or 0) > template.disk_gib:
                raise ValueError(f"'{template.name}': disk_used_gib is more than disk_gib")
        for vm in self.vms:
            _exists(vm.name, "host", vm.host, hosts)
        for permission in self.permissions:
            narrow = [user.name for user in self.users if user.role == "none"]
            _exists(permission.entity, "user with the role none", permission.principal, narrow)
        _check_accounts({user.name: user.role for user in self.users})
        return self

    def to_json(self) -> str:
        """Returns the document that ``gpuvm-vcsim --description`` reads."""
        return self.model_dump_json(exclude_none=True, indent=1)

    @property
    def gpu_count(self) -> int:
        """NVSwitches, which are listed among a host's GPUs, are none."""
        return sum(gpu.class_id >> 8 in (0x03, 0x12) for host in self.hosts for gpu in host.gpus)


def describe(
    hosts: int = 4, gpus_per_host: int = 1, gpu: str = "p100", vms: int = 0, *, vgpu: bool = False
) -> Description:
    """Describes a lab of identical ``hosts`` and ``vms`` powered-on VMs that are not gpuvm's.

    The first two hosts run agents of vSphere Cluster Services, as every current cluster does.
    With ``vgpu`` the hosts share their GPUs instead of passing them through.

    Raises NotFound for an unknown GPU and BadInput for an invalid count.
    """
    if hosts < 1 or gpus_per_host < 0 or vms < 0:
        raise BadInput("a lab needs at least one host, and counts cannot be negative")
    if gpus_per_host > 255 - max(_BUSES):
        raise BadInput(f"a host has room for {255 - max(_BUSES)} GPUs at most")
    model = gpu_model(gpu)
    kind = gpu.partition("-")[0] if vgpu else None
    gpus = tuple(_gpu(model, address, kind) for address in _addresses(gpus_per_host))
    graphics: Literal["sharedDirect"] | None = "sharedDirect" if vgpu else None
    return Description(
        hosts=tuple(
            HostDescription(name=f"esx-{number:02}.lab.local", gpus=gpus, graphics_type=graphics)
            for number in range(1, hosts + 1)
        ),
        vms=(*([VMDescription(count=vms)] if vms else []), cluster_services(hosts)),
    )


def cluster_services(hosts: int) -> VMDescription:
    """Two agents, or one for a single host, as vCenter 8.0.3 runs them."""
    return VMDescription(name="vCLS-{uuid}", count=min(2, hosts), agent=True)


def read_description(file: Path) -> Description:
    """Raises BadInput with file and line."""
    return read_document(file, Description, limit_kib=LIMIT_KIB)


def _gpu(model: GPUModel, address: str, shared_as: str | None = None) -> GPUDescription:
    """``shared_as`` is the model as in the names of vGPU types, such as p100."""
    off = Passthrough(enabled=False, active=False)
    return GPUDescription(
        pci_address=address,
        vendor_id=model.vendor_id,
        device_id=model.device_id,
        sub_vendor_id=model.vendor_id,
        sub_device_id=model.sub_device_id,
        name=model.name,
        memory_gib=model.memory_gib,
        bars_mib=model.bars_mib,
        passthrough=off if shared_as else Passthrough(),
        vgpu_profiles=_profiles(model, shared_as) if shared_as else None,
    )


def _profiles(model: GPUModel, name: str) -> tuple[VGPUProfile, ...]:
    """NVIDIA's names: grid_p100-4q has 4 of 16 GiB; compute cards have the series c."""
    series = "c" if name in ("a30", "a100", "h100") else "q"
    sizes = [size for size in (1, 2, 4, 8, 16, 24, 32, 40, 48, 80) if not model.memory_gib % size]
    return tuple(
        VGPUProfile(name=f"grid_{name}-{size}{series}", framebuffer_gib=size) for size in sizes
    )


def _addresses(count: int) -> list[str]:
    more = range(max(_BUSES) + 1, 0x100)
    return [f"0000:{bus:02x}:00.0" for bus in (*_BUSES, *more)[:count]]


def _unique(kind: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"duplicate {kind} '{twice[0]}'")


def _exists(owner: str, kind: str, name: str | None, existing: list[str]) -> None:
    if name is not None and name not in existing:
        raise ValueError(f"'{owner}': unknown {kind} '{name}'; known: {', '.join(existing)}")


def _check_accounts(roles: dict[str, str]) -> None:
    """The context of ``lab up`` uses the administrator, the lab's guests the tools account."""
    for name, role in ((ADMINISTRATOR, "admin"), (TOOLS, "tools")):
        if roles.get(name) != role:
            raise ValueError(f"users must contain {name} with the role '{role}'")
