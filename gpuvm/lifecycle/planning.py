"""From a spec to a plan: vCenter is read once, and only hosts of the plan are asked for more.

A fixed device needs its host's systemId, which is a round trip for each host that is asked. In a
large cluster most hosts are not part of the plan, so it is made first and they are asked then.
"""

from collections.abc import Callable, Sequence
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
    """Raises what ``planner.plan`` and ``VSphere.read_inventory`` raise; touches nothing."""
    # vGPU sizes and device groups are needed of every host, if at all.
    everybody = isinstance(spec.accelerator, (VGPU, DeviceGroup))
    return with_config_targets(
        read_inventory(spec, vsphere, "all" if everybody else ()),
        vsphere,
        lambda inventory: planner.plan(spec, inventory, scale_down=scale_down),
    )


def make_start_plan(
    vms: Sequence[VM], spec: ClusterSpec, inventory: Inventory, vsphere: VSphere
) -> Plan:
    """Powers on those of ``vms`` that are off. Raises what ``planner.plan_start`` raises."""
    if any(isinstance(device, VGPUDevice) for vm in vms for device in vm.devices):
        inventory = vsphere.ask(inventory, [h.name for h in inventory.hosts if not h.unusable])
    return with_config_targets(inventory, vsphere, lambda now: planner.plan_start(vms, spec, now))


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
    return _with_policies(inventory, vsphere) if spec.names_a_policy else inventory


def read_again(plan: Plan, vsphere: VSphere) -> Inventory:
    """The inventory of now, of the plan's cluster, with the config target of every host."""
    return vsphere.read_inventory(
        cluster=plan.cluster.path,
        folder=plan.spec.folder,
        resource_pool=plan.spec.resource_pool,
    )


def _with_policies(inventory: Inventory, vsphere: VSphere) -> Inventory:
    """Many commands read the inventory, and only a plan cannot do without them."""
    try:
        return replace(inventory, policies=vsphere.read_policies())
    except VSphereError as error:
        return replace(inventory, policies_hidden=str(error))


def with_config_targets(
    inventory: Inventory, vsphere: VSphere, make: Callable[[Inventory], Plan]
) -> Plan:
    """Plan again as long as the plan uses hosts that were not asked yet."""
    while True:
        plan = make(inventory)
        to_query = _hosts_to_query(plan)
        if not to_query:
            return plan
        inventory = vsphere.ask(inventory, to_query)


def _hosts_to_query(plan: Plan) -> set[str]:
    return {
        step.runs_on.name
        for step in plan.changes
        if step.action != "remove"
        and any(isinstance(device, PassthroughDevice) for device in step.devices)
        and any(gpu.system_id is None for gpu in step.gpus)
    }
