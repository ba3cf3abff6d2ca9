"""Read the inventory, in a number of round trips that does not grow with unrelated VMs.

One read of the tree, one of the chosen cluster, and one ``QueryConfigTarget`` per host, because
each host has its own ``systemId``, and hosts of the same model have GPUs at the same addresses.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

from pyVmomi import vim

from gpuvm.inventory import (
    VM,
    Cluster,
    Host,
    Inventory,
    MoRef,
    UnreadableVM,
    VCenter,
)
from gpuvm.vsphere import gpus as held_by
from gpuvm.vsphere import materials, template_snapshot, visibility
from gpuvm.vsphere.capacity import hypervisor_share, unreserved_gib
from gpuvm.vsphere.gpus import (
    HOST_GPU_PATHS,
    NOT_QUERIED,
    Holders,
    Target,
    gpus_of,
    is_gpu,
    name_of,
    nvswitches_of,
    read_targets,
)
from gpuvm.vsphere.inventory_paths import Tree
from gpuvm.vsphere.properties import (
    MARKS,
    VM_PATHS,
    Objects,
    Related,
    Row,
    extra_config,
    is_visible,
    merged,
    no_garbage_collection,
    not_shown,
    retrieve,
    retrieve_all,
)
from gpuvm.vsphere.virtual_machines import pci_devices_of, vm_from_row

Rows = dict[Any, Row]
ConfigTargets = Collection[str] | Literal["all"]

_CLUSTER_PATHS = (
    "name",
    "parent",
    "host",
    "resourcePool",
    "environmentBrowser",
    "configuration.drsConfig",
    "summary.effectiveMemory",
)
_POOL_PATHS = ("name", "parent", "runtime.memory")
_HOST_PATHS = (
    "name",
    "runtime.connectionState",
    "runtime.powerState",
    "runtime.inMaintenanceMode",
    "runtime.inQuarantineMode",
    "hardware.memorySize",
    "hardware.cpuInfo.numCpuThreads",
    "hardware.systemInfo.model",
    "config.product.version",
    "config.assignableHardwareBinding",
    "capability.deviceRebindWithoutRebootSupported",
    "datastore",
    "network",
    "vm",
    *HOST_GPU_PATHS,
)
_UNREADABLE_PATHS = (
    "name",
    "runtime.host",
    "runtime.powerState",
    "runtime.connectionState",
    "summary.config.instanceUuid",
)
_MARKED_PATHS = ("config.template", *MARKS)
_MEMORY_PATHS = ("config.memoryAllocation.reservation", "runtime.memoryOverhead")
_TREE_PATHS = ("name", "parent", "config.template", "runtime.host", *MARKS)
_NEIGHBOUR_PATHS = (
    "runtime.powerState",
    *_MEMORY_PATHS,
    "config.memoryReservationLockedToMax",
    template_snapshot.ANNOTATION,
)
"""In addition to _TREE_PATHS."""
_DEVICES = "config.hardware.device"


@no_garbage_collection()
def read_inventory(
    content: Any,
    vcenter: VCenter,
    cluster: str | None,
    folder: str | None,
    resource_pool: str | None,
    query_targets: ConfigTargets = "all",
) -> Inventory:
    """Read a cluster. Raises NotFound and Ambiguous for cluster, folder and resource pool.

    ``query_targets``: names of hosts to call QueryConfigTarget for, a round trip each.
    """
    tree = Tree(
        retrieve_all(
            content,
            [
                (vim.Folder, ("name", "parent")),
                (vim.Datacenter, ("name", "parent", "vmFolder")),
                (vim.ClusterComputeResource, _CLUSTER_PATHS),
                (vim.ResourcePool, _POOL_PATHS),
                (vim.VirtualMachine, _TREE_PATHS),
            ],
        )
    )
    chosen = tree.cluster(cluster)
    hosts = list(tree.rows[chosen].get("host", ()))
    rows = _details(content, tree, hosts)
    names = {host: name_of(host, rows.get(host, {})) for host in hosts}
    elsewhere = "another cluster" if "host" in tree.rows[chosen] else "a host that is not shown"
    neighbours = {ref: rows[ref] for ref in tree.vms_on(hosts) if ref in rows}
    for host in hosts:
        neighbours |= visibility.invisible(host, rows, tree)
    templates = [*tree.templates(), *_unfinished(neighbours)]
    vms = _marked(tree, rows, vcenter, lambda host: names.get(host, elsewhere))
    ours = {vm.moref for vm in vms if vm.ownership == "ours"}
    held = held_by.holders({host: rows.get(host, {}) for host in hosts}, neighbours, ours)
    asked = [h for h, name in names.items() if _is_asked(rows.get(h, {}), query_targets, name)]
    answers = dict(zip(asked, read_targets(tree.browser(chosen), asked), strict=True))
    unasked = Target() if query_targets == "all" else NOT_QUERIED
    targets = {host: answers.get(host, unasked) for host in names}
    share = hypervisor_share(tree.rows[chosen], _of(rows, hosts).values())
    running = _running_by_host(neighbours.values())
    equipped = tuple(
        _host(ref, names[ref], rows, running.get(ref, ()), targets[ref], held, share)
        for ref in sorted_hosts(names)
    )
    into, pool = tree.folder(chosen, folder), tree.pool(chosen, resource_pool)
    return Inventory(
        vcenter=vcenter,
        cluster=Cluster(
            name=tree.rows[chosen].get("name", chosen._moId),
            moref=chosen._moId,
            path=tree.path(chosen),
            datacenter=tree.rows.get(tree.datacenter(chosen), {}).get("name", ""),
            resource_pool=pool._moId,
            vm_folder=into._moId,
            drs_places=_drs_places(tree.rows[chosen]),
            unreserved_gib=unreserved_gib(tree.rows[pool]),
            datacenter_path=_datacenter_path(tree, chosen),
        ),
        hosts=equipped,
        templates=tuple(materials.template(ref, rows, tree) for ref in templates if ref in rows),
        datastores=materials.datastores(rows, tree),
        networks=materials.networks(rows, tree),
        vms=vms,
        names_in_folder=frozenset(tree.names_in(into)),
        unreadable=_unreadable(
            {ref: tree.rows[ref] | rows.get(ref, {}) for ref in tree.unreadable()},
            lambda host: names.get(host, elsewhere),
        ),
        notes=(
            *visibility.of_account(content.rootFolder, rows),
            *visibility.notes(tree.rows[chosen], equipped, neighbours),
        ),
    )


def read_vms(
    content: Any, vcenter: VCenter, refs: Sequence[Any], hosts: Mapping[MoRef, str]
) -> tuple[VM, ...]:
    """Read VMs; ``hosts`` are the known host names, the others are read too."""
    rows = retrieve(content, [Objects(vim.VirtualMachine, refs, VM_PATHS)])
    host_name = _host_names(content, rows, hosts)
    return tuple(
        vm_from_row(ref, row, vcenter.instance_uuid, host_name) for ref, row in rows.items() if row
    )


@no_garbage_collection()
def read_marked(
    content: Any, vcenter: VCenter, hosts: Mapping[MoRef, str]
) -> tuple[tuple[VM, ...], tuple[UnreadableVM, ...]]:
    """Read every VM of the vCenter that carries the mark, and those whose mark is unreadable."""
    found = retrieve_all(content, [(vim.VirtualMachine, _MARKED_PATHS)])
    marked = [ref for ref, row in found.items() if extra_config(row)]
    hidden = [ref for ref, row in found.items() if "config.template" not in row]
    rows = retrieve(content, [Objects(vim.VirtualMachine, hidden, _UNREADABLE_PATHS)])
    vms = read_vms(content, vcenter, marked, hosts)
    return vms, _unreadable(rows, _host_names(content, rows, hosts))


def read_clusters(content: Any, vms: Sequence[Any]) -> tuple[MoRef, ...]:
    """Return the clusters of these VMs."""
    rows = retrieve(content, [Objects(vim.VirtualMachine, vms, ("runtime.host",))])
    hosts = {row["runtime.host"] for row in rows.values() if "runtime.host" in row}
    found = retrieve(content, [Objects(vim.HostSystem, sorted(hosts, key=str), ("parent",))])
    parents = [row.get("parent") for row in found.values()]
    clusters = {ref._moId for ref in parents if isinstance(ref, vim.ClusterComputeResource)}
    return tuple(sorted(clusters))


def read_holders(content: Any, hosts: Sequence[Any]) -> Holders:
    """Read the current holders of these hosts' GPUs."""
    on_hosts = Related("vm", vim.VirtualMachine, held_by.VM_PATHS)
    rows = retrieve(content, [Objects(vim.HostSystem, hosts, held_by.HOST_PATHS, on_hosts)])
    vms = {ref: row for ref, row in rows.items() if isinstance(ref, vim.VirtualMachine)}
    return held_by.holders(_of(rows, hosts), vms)


def _host_names(content: Any, rows: Rows, hosts: Mapping[MoRef, str]) -> Callable[[Any], str]:
    """Return a look-up of the names of these VMs' hosts; reads only those not known yet."""
    refs = {row["runtime.host"] for row in rows.values() if row.get("runtime.host") is not None}
    unknown = sorted((host for host in refs if host._moId not in hosts), key=str)
    found = retrieve(content, [Objects(vim.HostSystem, unknown, ("name",))])
    names = {**hosts, **{ref._moId: row.get("name", "") for ref, row in found.items()}}
    return lambda host: names.get(host._moId, "")


def _unreadable(rows: Rows, host_name: Callable[[Any], str]) -> tuple[UnreadableVM, ...]:
    return tuple(
        UnreadableVM(
            name=name_of(ref, row),
            moref=ref._moId,
            host=host_name(row["runtime.host"]) if "runtime.host" in row else "",
            powered_on=row.get("runtime.powerState", "poweredOn") == "poweredOn",
            connection_state=str(row.get("runtime.connectionState", "connected")),
            instance_uuid=row.get("summary.config.instanceUuid", ""),
        )
        for ref, row in rows.items()
    )


def sorted_hosts(names: dict[Any, str]) -> list[Any]:
    return sorted(names, key=lambda ref: names[ref])


def _details(content: Any, tree: Tree, hosts: Sequence[Any]) -> Rows:
    """Read hosts, their VMs, templates and marked VMs in one call; then what these refer to.

    Virtual hardware is by far the most of it: it is read of VMs that may hold a GPU, and only its
    PCI devices are kept. The other VMs have none in their row, as opposed to no such path.
    """
    marked, hidden = tree.marked(), tree.unreadable()
    neighbours = _without(tree.vms_on(hosts), [*marked, *hidden])
    rows = retrieve(
        content,
        [
            Objects(vim.HostSystem, hosts, _HOST_PATHS),
            Objects(vim.VirtualMachine, neighbours, _NEIGHBOUR_PATHS),
            Objects(vim.VirtualMachine, tree.templates(), materials.TEMPLATE_PATHS),
            Objects(vim.VirtualMachine, marked, (*VM_PATHS, *_MEMORY_PATHS)),
            Objects(vim.VirtualMachine, hidden, _UNREADABLE_PATHS),
            Objects(vim.Folder, [content.rootFolder], ("name",)),
        ],
    )
    neighbours = [ref for ref in neighbours if ref in rows]  # the others were deleted meanwhile
    for ref in neighbours:
        rows[ref] = merged(tree.rows[ref], rows[ref])
    stores = {ref for host in hosts for ref in rows.get(host, {}).get("datastore", ())}
    nets = {ref for host in hosts for ref in rows.get(host, {}).get("network", ())}
    unfinished = _unfinished(rows)
    near = set(_may_have_gpu(neighbours, rows)).difference(unfinished)
    more = retrieve(
        content,
        [
            Objects(vim.VirtualMachine, unfinished, materials.TEMPLATE_PATHS),
            Objects(
                vim.VirtualMachine,
                visibility.not_in_tree(hosts, rows, tree),
                ("name", "runtime.host", *_NEIGHBOUR_PATHS, _DEVICES),
            ),
            Objects(vim.VirtualMachine, sorted(near, key=str), (_DEVICES,)),
            Objects(
                vim.Datastore,
                sorted(stores, key=str),
                materials.DATASTORE_PATHS,
            ),
            *materials.networks_asked(nets),
        ],
        keep=lambda ref, path, value: (
            pci_devices_of(value) if path == _DEVICES and ref in near else value
        ),
    )
    for ref, row in more.items():
        rows[ref] = merged(rows.get(ref, {}), row)
    for ref in neighbours:
        if ref not in near:
            rows[ref].setdefault(_DEVICES, ())
    switches = {row[materials.SWITCH] for row in rows.values() if materials.SWITCH in row}
    rows |= retrieve(
        content, [Objects(vim.DistributedVirtualSwitch, sorted(switches, key=str), ("uuid",))]
    )
    return rows


def _may_have_gpu(vms: Sequence[Any], rows: Rows) -> list[Any]:
    """Return VMs whose devices must be read, because one may be a GPU of a host.

    Left out are VMs on a host without GPUs, and running ones without reserved memory: ESXi starts
    no VM with a PCI passthrough or vGPU device unless all its memory is reserved, and keeps it so
    ("memory reservation (sched.mem.min) should be equal to memsize"). What is not shown may be
    anything. Holders are read again, of every VM of the host, before a VM is powered on.
    """
    without = {
        ref
        for ref, row in rows.items()
        if "hardware.pciDevice" in row and not any(map(is_gpu, row["hardware.pciDevice"]))
    }
    return [
        vm
        for vm in vms
        if rows[vm].get("runtime.host") not in without and not _runs_unreserved(rows[vm])
    ]


def _runs_unreserved(row: Row) -> bool:
    return (
        row.get("runtime.powerState") == "poweredOn"
        and row.get("config.memoryAllocation.reservation") == 0
        and row.get("config.memoryReservationLockedToMax") is False
    )


def _unfinished(rows: Rows) -> list[Any]:
    """Return templates that are VMs because gpuvm was killed while it created a snapshot."""
    return [ref for ref, row in rows.items() if template_snapshot.is_unfinished(ref, row)]


def _without(refs: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    excluded = set(others)
    return [ref for ref in refs if ref not in excluded]


def _of(rows: Rows, refs: Iterable[Any]) -> Rows:
    return {ref: rows[ref] for ref in refs if ref in rows}


def _is_asked(row: Row, query_targets: ConfigTargets, name: str) -> bool:
    """Only a host that has a GPU and is there to be asked."""
    connected = str(row.get("runtime.connectionState")) == "connected"
    wanted = query_targets == "all" or name in query_targets
    return wanted and connected and any(map(is_gpu, row.get("hardware.pciDevice", ())))


def _drs_places(row: Row) -> bool:
    drs = row.get("configuration.drsConfig")
    if drs is None:
        return False
    return bool(drs.enabled) and drs.defaultVmBehavior == "fullyAutomated"


def _host(
    ref: Any,
    name: str,
    rows: Rows,
    running: Sequence[Row],
    target: Target,
    held: Holders,
    hypervisor: float | None,
) -> Host:
    """Return the host; one without a row is not visible to this account."""
    row = rows.get(ref, {})
    memory_gib = row.get("hardware.memorySize", 0) / 1024**3
    return Host(
        name=name,
        moref=ref._moId,
        connection_state=str(row.get("runtime.connectionState", "connected")),
        in_maintenance_mode=bool(row.get("runtime.inMaintenanceMode")),
        in_quarantine_mode=bool(row.get("runtime.inQuarantineMode")),
        memory_gib=memory_gib,
        hypervisor_gib=None if hypervisor is None else memory_gib * hypervisor,
        reserved_gib=sum(map(_reserved_gib, running)),
        model=row.get("hardware.systemInfo.model", ""),
        gpus=tuple(gpus_of(name, row, target, held)),
        datastores=tuple(ref._moId for ref in row.get("datastore", ())),
        networks=tuple(ref._moId for ref in row.get("network", ())),
        power_state=str(row.get("runtime.powerState", "poweredOn")),
        version=row.get("config.product.version", ""),
        rebinds=bool(row.get("capability.deviceRebindWithoutRebootSupported")),
        device_groups=target.groups,
        problem=target.problem,
        hidden=not_shown(row, visibility.OF_HOSTS) if is_visible(row) else visibility.UNSEEN_HOST,
        gpus_hidden=not_shown(row, visibility.OF_GPUS),
        nvswitches=nvswitches_of(row),
        cpu_threads=row.get("hardware.cpuInfo.numCpuThreads", 0),
    )


def _running_by_host(vms: Iterable[Row]) -> dict[Any, list[Row]]:
    """A VM whose power state is not shown is taken to run: it may."""
    found: dict[Any, list[Row]] = {}
    for vm in vms:
        if vm.get("runtime.powerState", "poweredOn") == "poweredOn":
            found.setdefault(vm.get("runtime.host"), []).append(vm)
    return found


def _reserved_gib(vm: Row) -> float:
    reserved_mib = vm.get("config.memoryAllocation.reservation") or 0
    return reserved_mib / 1024 + (vm.get("runtime.memoryOverhead") or 0) / 1024**3


def _datacenter_path(tree: Tree, cluster: Any) -> str:
    datacenter = tree.datacenter(cluster)
    return "" if datacenter is None else tree.path(datacenter)


def _marked(
    tree: Tree, rows: Rows, vcenter: VCenter, host_name: Callable[[Any], str]
) -> tuple[VM, ...]:
    return tuple(
        vm_from_row(ref, rows[ref], vcenter.instance_uuid, host_name)
        for ref in tree.marked()
        if ref in rows
    )
