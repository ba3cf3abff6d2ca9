"""What an account must be allowed, by what is done; docs/permissions.md is made of the same lists.

The ids are those of the API reference, method by method.
"""

from collections.abc import Mapping

from gpuvm.inventory import Datastore, Host, Inventory, MoRef, Network, VMTemplate

ROOT = "root"
"""The vCenter's root folder."""

TEMPLATE = ("VirtualMachine.Provisioning.DeployTemplate",)
CUSTOMIZE = ("VirtualMachine.Provisioning.Customize",)
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
    "VirtualMachine.Config.AddRemoveDevice",
    "VirtualMachine.Config.EditDevice",
    "VirtualMachine.Config.CPUCount",
    "VirtualMachine.Config.Memory",
    "VirtualMachine.Config.Resource",
    "VirtualMachine.Config.AdvancedConfig",
    "VirtualMachine.Config.Settings",
    "VirtualMachine.Config.Annotation",
    "VirtualMachine.Interact.PowerOn",
    "VirtualMachine.Interact.PowerOff",
)
POOL = ("Resource.AssignVMToPool",)
MOVE = ("Resource.ColdMigrate",)
DATASTORE = ("Datastore.AllocateSpace", "Datastore.Browse")
NETWORK = ("Network.Assign",)
HOST = ("Host.Config.PciPassthru", "Host.Config.Settings", "Host.Config.Maintenance")

Wanted = dict[MoRef, tuple[str, ...]]


def to_provision(inventory: Inventory) -> Wanted:
    """On every object that provisioning may touch."""
    cluster = inventory.cluster
    return {
        ROOT: ("Global.CancelTask",),
        cluster.vm_folder: FOLDER,
        cluster.resource_pool: POOL,
        **{template.moref: TEMPLATE for template in inventory.templates},
        **{datastore.moref: DATASTORE for datastore in inventory.datastores},
        **{network.moref: NETWORK for network in inventory.networks},
    }


def to_prepare_hosts(inventory: Inventory) -> Wanted:
    """For ``gpuvm passthrough`` alone: an account of its own may have them."""
    return {host.moref: HOST for host in inventory.hosts if host.gpus}


def names(inventory: Inventory) -> Mapping[MoRef, str]:
    """What people call the objects."""
    objects: tuple[VMTemplate | Datastore | Network | Host, ...] = (
        *inventory.templates,
        *inventory.datastores,
        *inventory.networks,
        *inventory.hosts,
    )
    return {
        ROOT: "the vCenter's root",
        inventory.cluster.vm_folder: "the folder for VMs",
        inventory.cluster.resource_pool: "the resource pool",
        **{one.moref: one.name for one in objects},
    }
