"""From a spec to a plan: read vCenter once, then query only the hosts of the plan.

A fixed device needs its host's systemId, which costs a round trip per host. In a large cluster most
hosts are not part of the plan, so the plan is made first and its hosts are queried then.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from gpuvm import planner
from gpuvm.accelerators import VGPU, DeviceGroup
from gpuvm.devices import PassthroughDevice, VGPUDevice
from gpuvm.errors import Ambiguous, VSphereError
from gpuvm.inventory import VM, Inventory
from gpuvm.planner import Plan
from gpuvm.spec import ClusterSpec
from gpuvm.vsphere import ConfigTargets, VSphere


def make_plan(spec: ClusterSpec, vsphere: VSphere, *, scale_down: bool = False) -> Plan:
    """Return the plan and change nothing.

    Raises what ``planner.plan`` and ``VSphere.read_inventory`` raise.
    """
    # Device groups of every host decide the placement.
    groups = isinstance(spec.accelerator, DeviceGroup)
    inventory = read_inventory(spec, vsphere, "all" if groups else ())
    profiles = {spec.accelerator.profile} if isinstance(spec.accelerator, VGPU) else set()
    return with_config_targets(
        _with_sizes(inventory, vsphere, profiles),
        vsphere,
        lambda inventory: planner.plan(spec, inventory, scale_down=scale_down),
    )


def make_start_plan(
    vms: Sequence[VM], spec: ClusterSpec, inventory: Inventory, vsphere: VSphere
) -> Plan:
    """Plan to power on those ``vms`` that are off. Raises what ``planner.plan_start`` raises."""
    profiles = {d.profile for vm in vms for d in vm.devices if isinstance(d, VGPUDevice)}
    return with_config_targets(
        _with_sizes(inventory, vsphere, profiles),
        vsphere,
        lambda now: planner.plan_start(vms, spec, now),
    )


def read_inventory(
    spec: ClusterSpec, vsphere: VSphere, query_targets: ConfigTargets = ()
) -> Inventory:
    """Read the cluster, folder and resource pool that the spec names.

    Where there are several clusters and none is named, it is the one that the deployment's VMs are
    in. Raises NotFound and Ambiguous.
    """

    def read(cluster: str | None) -> Inventory:
        return vsphere.read_inventory(
            cluster=cluster,
            folder=spec.folder,
            resource_pool=spec.resource_pool,
            query_targets=query_targets,
        )

    try:
        inventory = read(spec.cluster)
    except Ambiguous as error:
        clusters = vsphere.clusters_of(spec.name) if error.kind == "cluster" else ()
        if spec.cluster is not None or len(clusters) != 1:
            raise
        inventory = read(clusters[0])
    return _with_policies(inventory, vsphere) if spec.storage_policy else inventory


def read_again(plan: Plan, vsphere: VSphere) -> Inventory:
    """Return the current inventory of the plan's cluster, with every host's config target."""
    return vsphere.read_inventory(
        cluster=plan.cluster.path,
        folder=plan.spec.folder,
        resource_pool=plan.spec.resource_pool,
    )


def _with_sizes(inventory: Inventory, vsphere: VSphere, profiles: Collection[str]) -> Inventory:
    """With the sizes of these vGPU profiles; nearly all have theirs in their name."""
    unknown = {
        gpu.host
        for gpu in inventory.gpus
        for profile in gpu.profiles
        if profile.name in profiles and profile.memory_gib is None
    }
    return vsphere.with_config_targets(inventory, unknown) if unknown else inventory


def _with_policies(inventory: Inventory, vsphere: VSphere) -> Inventory:
    """Add the storage policies; record an error, because only a plan needs them."""
    try:
        return replace(inventory, policies=vsphere.read_policies())
    except VSphereError as error:
        return replace(inventory, policies_hidden=str(error))


def with_config_targets(
    inventory: Inventory, vsphere: VSphere, make: Callable[[Inventory], Plan]
) -> Plan:
    """Plan again as long as the plan uses hosts that were not queried yet."""
    while True:
        plan = make(inventory)
        to_query = _hosts_to_query(plan)
        if not to_query:
            return plan
        inventory = vsphere.with_config_targets(inventory, to_query)


def _hosts_to_query(plan: Plan) -> set[str]:
    return {
        step.runs_on.name
        for step in plan.changes
        if step.action != "remove"
        and any(isinstance(device, (PassthroughDevice, VGPUDevice)) for device in step.devices)
        and any(gpu.system_id is None for gpu in step.gpus)
    }
