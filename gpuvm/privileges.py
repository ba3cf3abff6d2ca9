"""Which privileges an account needs for a spec, and on which objects: docs/permissions.md in code.

The ids are those of the API reference, method by method. Only what the spec uses is asked for: an
account that may do no more than that is enough.
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
    "VirtualMachine.Config.AddExistingDisk",
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
"""For another network than the template's, and a storage policy of its disks."""
POLICIES = ("StorageProfile.View",)
"""For a storage policy that is called by its name."""
POOL = ("Resource.AssignVMToPool",)
MOVE = ("Resource.ColdMigrate",)
DATASTORE = ("Datastore.AllocateSpace", "Datastore.Browse")
NETWORK = ("Network.Assign",)
HOST = ("Host.Config.PciPassthru", "Host.Config.Settings", "Host.Config.Maintenance")

Wanted = dict[MoRef, tuple[str, ...]]


@dataclass(frozen=True)
class Used:
    """The objects that a plan touches, as far as they are known; ``moves``: VMs change hosts."""

    template: VMTemplate | None = None
    datastores: tuple[Datastore, ...] = ()
    network: Network | None = None
    moves: bool = False


def to_provision(spec: ClusterSpec, inventory: Inventory, used: Used) -> Wanted:
    """Privileges to create, start and remove the VMs of this spec."""
    cluster = inventory.cluster
    wanted = {cluster.vm_folder: _on_folder(spec, used), cluster.resource_pool: POOL}
    if spec.names_a_policy:
        wanted[ROOT] = POLICIES
    if used.template is not None:
        wanted[used.template.moref] = _on_template(spec, used.template)
    wanted |= {store.moref: DATASTORE for store in used.datastores}
    if used.network is not None:
        wanted[used.network.moref] = NETWORK
    return wanted


def to_cancel(used: Used) -> Wanted:
    """For Ctrl-C: a clone's task is the template's."""
    return {} if used.template is None else {used.template.moref: CANCEL}


def to_move(spec: ClusterSpec, inventory: Inventory) -> Wanted:
    """For ``gpuvm start`` where it finds a GPU on another host; DRS moves VMs by itself."""
    stays = isinstance(spec.accelerator, (Passthrough, NoGPU)) or inventory.cluster.drs_places
    return {} if stays else {inventory.cluster.vm_folder: MOVE}


def to_prepare_hosts(inventory: Inventory) -> Wanted:
    """For ``gpuvm passthrough`` alone: an account of its own may have them."""
    return {host.moref: HOST for host in inventory.hosts if host.gpus}


def together(*several: Wanted) -> Wanted:
    """One question for all of them."""
    everything: Wanted = {}
    for wanted in several:
        for moref, privileges in wanted.items():
            everything[moref] = tuple(dict.fromkeys((*everything.get(moref, ()), *privileges)))
    return everything


def names(spec: ClusterSpec, inventory: Inventory) -> Mapping[MoRef, str]:
    """What people call the objects."""
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
    """New VMs inherit what holds on their folder."""
    return (
        *FOLDER,
        *(GPU if spec.has_gpu else ()),
        *(EDIT if spec.network or spec.storage_policy else ()),
        *(MOVE if used.moves else ()),
    )


def _on_template(spec: ClusterSpec, template: VMTemplate) -> tuple[str, ...]:
    needs_snapshot = spec.clone_mode == "linked" and not template.snapshots
    return (
        *TEMPLATE,
        *(ENCRYPTED if template.encrypted else ()),
        *(SNAPSHOT if needs_snapshot else ()),
    )
