"""Which privileges an account needs for a spec, and on which objects: docs/permissions.md in code.

The ids are those of the API reference for each method. Only what the spec uses is required.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from gpuvm.accelerators import NoGPU, Passthrough
from gpuvm.inventory import Datastore, Host, Inventory, MoRef, Network, VMTemplate
from gpuvm.spec import ClusterSpec

ROOT = "root"
"""The vCenter's root folder."""

CANCEL = ("Global.CancelTask",)
TEMPLATE = ("VirtualMachine.Provisioning.DeployTemplate",)
ENCRYPTED = ("Cryptographer.Clone",)
SNAPSHOT = (
    "VirtualMachine.Provisioning.MarkAsVM",
    "VirtualMachine.Provisioning.MarkAsTemplate",
    "VirtualMachine.State.CreateSnapshot",
    "VirtualMachine.Config.Annotation",
)
FOLDER = (
    "VirtualMachine.Inventory.CreateFromExisting",
    "VirtualMachine.Inventory.Delete",
    "VirtualMachine.Config.AddNewDisk",
    "VirtualMachine.Config.CPUCount",
    "VirtualMachine.Config.Memory",
    "VirtualMachine.Config.AdvancedConfig",
    "VirtualMachine.Config.Settings",
    "VirtualMachine.Config.Annotation",
    "VirtualMachine.Interact.PowerOn",
    "VirtualMachine.Interact.PowerOff",
)
GPU = ("VirtualMachine.Config.AddRemoveDevice", "VirtualMachine.Config.Resource")
EDIT = ("VirtualMachine.Config.EditDevice",)
"""To change the network of the template, and for a storage policy of the disks."""
CONNECT = ("VirtualMachine.Interact.DeviceConnection",)
"""To change the network: the adapter is set to be connected at power-on."""
POLICIES = ("StorageProfile.View",)
"""For a storage policy that the spec gives by name."""
POOL = ("Resource.AssignVMToPool",)
MOVE = ("Resource.ColdMigrate",)
DATASTORE = ("Datastore.AllocateSpace",)
NETWORK = ("Network.Assign",)
REBOOT = ("Host.Config.Maintenance",)
HOST = ("Host.Config.PciPassthru", "Host.Config.Settings", *REBOOT)

Required = dict[MoRef, tuple[str, ...]]


@dataclass(frozen=True)
class Used:
    """The known objects that a plan uses; ``moves``: VMs are migrated."""

    template: VMTemplate | None = None
    datastores: tuple[Datastore, ...] = ()
    network: Network | None = None
    moves: bool = False


def to_provision(spec: ClusterSpec, inventory: Inventory, used: Used) -> Required:
    """Return the privileges to create, start and remove the VMs of this spec."""
    cluster = inventory.cluster
    required = {cluster.vm_folder: _on_folder(spec, used), cluster.resource_pool: POOL}
    if spec.names_a_policy:
        required[ROOT] = POLICIES
    if used.template is not None:
        required[used.template.moref] = _on_template(spec, used.template)
    required |= {store.moref: DATASTORE for store in used.datastores}
    if used.network is not None:
        required[used.network.moref] = NETWORK
    return required


def to_cancel(used: Used) -> Required:
    """Return the privileges for Ctrl-C; the object of a clone task is the template."""
    return {} if used.template is None else {used.template.moref: CANCEL}


def to_move(spec: ClusterSpec, inventory: Inventory) -> Required:
    """Return those for ``gpuvm start`` to migrate VMs; with DRS, vCenter does that."""
    stays = isinstance(spec.accelerator, (Passthrough, NoGPU)) or inventory.cluster.drs_places
    return {} if stays else {inventory.cluster.vm_folder: MOVE}


def to_prepare_hosts(inventory: Inventory) -> Required:
    """Return those for ``gpuvm passthrough``, which may use another account."""
    return {host.moref: HOST for host in inventory.hosts if host.gpus}


def merged(*several: Required) -> Required:
    """Merge several, so that one call can check them."""
    everything: Required = {}
    for required in several:
        for moref, privileges in required.items():
            everything[moref] = tuple(dict.fromkeys((*everything.get(moref, ()), *privileges)))
    return everything


def names(spec: ClusterSpec, inventory: Inventory) -> Mapping[MoRef, str]:
    """Return display names of the objects."""
    objects: tuple[VMTemplate | Datastore | Network | Host, ...] = (
        *inventory.templates,
        *inventory.datastores,
        *inventory.networks,
        *inventory.hosts,
    )
    cluster = inventory.cluster
    datacenter = cluster.path.partition("/host/")[0]
    return {
        ROOT: "the vCenter's root",
        cluster.vm_folder: f"folder {spec.folder or datacenter + '/vm'}",
        cluster.resource_pool: f"resource pool {spec.resource_pool or cluster.path + '/Resources'}",
        **{one.moref: one.name for one in objects},
    }


def _on_folder(spec: ClusterSpec, used: Used) -> tuple[str, ...]:
    """New VMs inherit the privileges on their folder."""
    return (
        *FOLDER,
        *(GPU if spec.has_gpu else ()),
        *(EDIT if spec.network or spec.storage_policy else ()),
        *(CONNECT if spec.network else ()),
        *(MOVE if used.moves else ()),
    )


def _on_template(spec: ClusterSpec, template: VMTemplate) -> tuple[str, ...]:
    needs_snapshot = spec.clone_mode == "linked" and not template.snapshots
    return (
        *TEMPLATE,
        *(ENCRYPTED if template.encrypted else ()),
        *(SNAPSHOT if needs_snapshot else ()),
    )
