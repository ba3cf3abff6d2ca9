"""The whole inventory in a number of round trips that does not grow with unrelated VMs.

One read of the tree, one of the chosen cluster, and one ``QueryConfigTarget`` per host, because
``systemId`` is each host's own and hosts of one kind have their GPUs at the same addresses.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from pyVmomi import vim

from gpuvm.inventory import (
    NIC,
    VM,
    Cluster,
    Datastore,
    Host,
    Inventory,
    MoRef,
    Network,
    Snapshot,
    UnreadableVM,
    VCenter,
    VMTemplate,
)
from gpuvm.vsphere import holders as held_by
from gpuvm.vsphere import snapshots, visibility
from gpuvm.vsphere.capacity import hypervisor_share, unreserved_gib, used_gib
from gpuvm.vsphere.gpus import (
    HOST_GPU_PATHS,
    NOT_ASKED,
    Holders,
    Target,
    gpus_of,
    is_gpu,
    nvswitches_of,
    read_target,
)
from gpuvm.vsphere.holders import name_of
from gpuvm.vsphere.machines import machine
from gpuvm.vsphere.properties import (
    MARKS,
    VM_PATHS,
    Objects,
    Related,
    Row,
    extra_config,
    is_visible,
    not_shown,
    retrieve,
    retrieve_all,
)
from gpuvm.vsphere.tree import Tree

Rows = dict[Any, Row]
Asking = Collection[str] | Literal["all"]

_PORTGROUP = vim.dvs.DistributedVirtualPortgroup
_SWITCH = "config.distributedVirtualSwitch"
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
    "hardware.systemInfo.model",
    "config.product.version",
    "config.assignableHardwareBinding",
    "capability.deviceRebindWithoutRebootSupported",
    "datastore",
    "network",
    "vm",
    *HOST_GPU_PATHS,
)
_TEMPLATE_PATHS = (
    "name",
    "config.firmware",
    "config.version",
    "config.guestId",
    "config.bootOptions",
    "config.keyId",
    "config.nestedHVEnabled",
    "config.hardware.numCPU",
    "config.hardware.numCoresPerSocket",
    "config.hardware.memoryMB",
    "config.hardware.device",
    "summary.storage.committed",
    "guest.toolsVersionStatus2",
    "snapshot",
    "runtime.host",
    "datastore",
    "network",
    snapshots.ANNOTATION,
)
_UNREADABLE_PATHS = (
    "name",
    "runtime.host",
    "runtime.powerState",
    "runtime.connectionState",
    "summary.config.instanceUuid",
)
_DATASTORE_PATHS = (
    "name",
    "parent",
    "host",
    "summary.freeSpace",
    "summary.accessible",
    "summary.maintenanceMode",
)
_MARKED_PATHS = ("config.template", *MARKS)
_MEMORY_PATHS = ("config.memoryAllocation.reservation", "runtime.memoryOverhead")
_NEIGHBOUR_PATHS = (
    "name",
    "runtime.host",
    "runtime.powerState",
    "config.hardware.device",
    *_MEMORY_PATHS,
    snapshots.ANNOTATION,
)


def read_inventory(
    content: Any,
    vcenter: VCenter,
    cluster: str | None,
    folder: str | None,
    resource_pool: str | None,
    asking: Asking = "all",
) -> Inventory:
    """Raises NotFound and Ambiguous for the cluster, the folder and the resource pool.

    ``asking`` are the hosts, by name, that are asked for their targets: a round trip for each.
    """
    tree = Tree(
        retrieve_all(
            content,
            [
                (vim.Folder, ("name", "parent")),
                (vim.Datacenter, ("name", "parent", "vmFolder")),
                (vim.ClusterComputeResource, _CLUSTER_PATHS),
                (vim.ResourcePool, _POOL_PATHS),
                (vim.VirtualMachine, ("name", "parent", "config.template", "runtime.host", *MARKS)),
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
    targets = {
        host: _target(tree.browser(chosen), host, rows.get(host, {}), name, asking)
        for host, name in names.items()
    }
    share = hypervisor_share(tree.rows[chosen], _of(rows, hosts).values())
    equipped = tuple(
        _host(ref, names[ref], rows, neighbours.values(), targets[ref], held, share)
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
        templates=tuple(_template(ref, rows, tree) for ref in templates if ref in rows),
        datastores=_datastores(rows, tree),
        networks=_networks(rows, tree),
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
    """``hosts`` are the names that are known already; only the others are asked for."""
    rows = retrieve(content, [Objects(vim.VirtualMachine, refs, VM_PATHS)])
    host_name = _host_names(content, rows, hosts)
    return tuple(
        machine(ref, row, vcenter.instance_uuid, host_name) for ref, row in rows.items() if row
    )


def read_marked(
    content: Any, vcenter: VCenter, hosts: Mapping[MoRef, str]
) -> tuple[tuple[VM, ...], tuple[UnreadableVM, ...]]:
    """Every VM that carries the mark, wherever in the vCenter it is; and those that may."""
    found = retrieve_all(content, [(vim.VirtualMachine, _MARKED_PATHS)])
    marked = [ref for ref, row in found.items() if extra_config(row)]
    hidden = [ref for ref, row in found.items() if "config.template" not in row]
    rows = retrieve(content, [Objects(vim.VirtualMachine, hidden, _UNREADABLE_PATHS)])
    vms = read_vms(content, vcenter, marked, hosts)
    return vms, _unreadable(rows, _host_names(content, rows, hosts))


def read_holders(content: Any, hosts: Sequence[Any]) -> Holders:
    """The VMs of these hosts that hold a GPU, as they are now."""
    there = Related("vm", vim.VirtualMachine, held_by.VM_PATHS)
    rows = retrieve(content, [Objects(vim.HostSystem, hosts, held_by.HOST_PATHS, there)])
    vms = {ref: row for ref, row in rows.items() if isinstance(ref, vim.VirtualMachine)}
    return held_by.holders(_of(rows, hosts), vms)


def _host_names(content: Any, rows: Rows, hosts: Mapping[MoRef, str]) -> Callable[[Any], str]:
    """Of the hosts that these VMs run on; only those whose name is not known are asked for it."""
    seen = {row["runtime.host"] for row in rows.values() if row.get("runtime.host") is not None}
    unknown = sorted((host for host in seen if host._moId not in hosts), key=str)
    told = retrieve(content, [Objects(vim.HostSystem, unknown, ("name",))])
    names = {**hosts, **{ref._moId: row.get("name", "") for ref, row in told.items()}}
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
    """Hosts, the VMs on them, templates and our own VMs, in one call; then what hosts name."""
    marked, hidden = tree.marked(), tree.unreadable()
    neighbours = _without(tree.vms_on(hosts), [*marked, *hidden])
    rows = retrieve(
        content,
        [
            Objects(vim.HostSystem, hosts, _HOST_PATHS),
            Objects(vim.VirtualMachine, neighbours, _NEIGHBOUR_PATHS),
            Objects(vim.VirtualMachine, tree.templates(), _TEMPLATE_PATHS),
            Objects(vim.VirtualMachine, marked, (*VM_PATHS, *_MEMORY_PATHS)),
            Objects(vim.VirtualMachine, hidden, _UNREADABLE_PATHS),
            Objects(vim.Folder, [content.rootFolder], ("name",)),
        ],
    )
    stores = {ref for host in hosts for ref in rows.get(host, {}).get("datastore", ())}
    nets = {ref for host in hosts for ref in rows.get(host, {}).get("network", ())}
    more = retrieve(
        content,
        [
            Objects(vim.VirtualMachine, _unfinished(rows), _TEMPLATE_PATHS),
            Objects(vim.VirtualMachine, visibility.beside(hosts, rows, tree), _NEIGHBOUR_PATHS),
            Objects(
                vim.Datastore,
                sorted(stores, key=str),
                _DATASTORE_PATHS,
            ),
            *_networks_of(nets),
        ],
    )
    for ref, row in more.items():
        rows[ref] = rows.get(ref, {}) | row
    switches = {row[_SWITCH] for row in rows.values() if _SWITCH in row}
    rows |= retrieve(
        content, [Objects(vim.DistributedVirtualSwitch, sorted(switches, key=str), ("uuid",))]
    )
    return rows


def _networks_of(nets: Iterable[Any]) -> list[Objects]:
    """Distributed port groups have a key and a switch, opaque networks an id in their summary.

    The declared type of a network's summary does not have that id, so all of it is asked for.
    """
    ordered = sorted(nets, key=str)
    special = (_PORTGROUP, vim.OpaqueNetwork)
    return [
        Objects(
            _PORTGROUP,
            [n for n in ordered if isinstance(n, _PORTGROUP)],
            ("name", "parent", "key", _SWITCH),
        ),
        Objects(
            vim.OpaqueNetwork,
            [n for n in ordered if isinstance(n, vim.OpaqueNetwork)],
            ("name", "parent", "summary"),
        ),
        Objects(
            vim.Network, [n for n in ordered if not isinstance(n, special)], ("name", "parent")
        ),
    ]


def _unfinished(rows: Rows) -> list[Any]:
    """Templates that a gpuvm left as VMs when it was killed; they stay on the cluster's hosts."""
    return [ref for ref, row in rows.items() if snapshots.is_unfinished(ref, row)]


def _without(refs: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    excluded = set(others)
    return [ref for ref in refs if ref not in excluded]


def _of(rows: Rows, refs: Iterable[Any]) -> Rows:
    return {ref: rows[ref] for ref in refs if ref in rows}


def _target(browser: Any, host: Any, row: Row, name: str, asking: Asking) -> Target:
    """Only of a host that has a GPU and is there to be asked."""
    if asking != "all" and name not in asking:
        return NOT_ASKED
    connected = str(row.get("runtime.connectionState")) == "connected"
    if not connected or not any(map(is_gpu, row.get("hardware.pciDevice", ()))):
        return Target()
    return read_target(browser, host)


def _drs_places(row: Row) -> bool:
    drs = row.get("configuration.drsConfig")
    if drs is None:
        return False
    return bool(drs.enabled) and drs.defaultVmBehavior == "fullyAutomated"


def _host(
    ref: Any,
    name: str,
    rows: Rows,
    neighbours: Iterable[Row],
    target: Target,
    held: Holders,
    hypervisor: float | None,
) -> Host:
    """Without a row it is a host of the cluster that this account cannot see."""
    row = rows.get(ref, {})
    memory_gib = row.get("hardware.memorySize", 0) / 1024**3
    running = [
        vm
        for vm in neighbours
        if vm.get("runtime.host") == ref
        and vm.get("runtime.powerState", "poweredOn") == "poweredOn"
    ]
    return Host(
        name=name,
        moref=ref._moId,
        connection_state=str(row.get("runtime.connectionState", "connected")),
        in_maintenance_mode=bool(row.get("runtime.inMaintenanceMode")),
        in_quarantine_mode=bool(row.get("runtime.inQuarantineMode")),
        memory_gib=memory_gib,
        hypervisor_gib=None if hypervisor is None else memory_gib * hypervisor,
        reserved_gib=sum(map(_taken_gib, running)),
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
    )


def _taken_gib(vm: Row) -> float:
    reserved_mib = vm.get("config.memoryAllocation.reservation") or 0
    return reserved_mib / 1024 + (vm.get("runtime.memoryOverhead") or 0) / 1024**3


def _template(ref: Any, rows: Rows, tree: Tree) -> VMTemplate:
    row, host = rows[ref], rows[ref].get("runtime.host")
    name = name_of(ref, row)
    devices = row.get("config.hardware.device", ())
    disks = [d for d in devices if isinstance(d, vim.vm.device.VirtualDisk)]
    nics = [d for d in devices if isinstance(d, vim.vm.device.VirtualEthernetCard)]
    return VMTemplate(
        name=name,
        moref=ref._moId,
        path=tree.path(ref),
        firmware=row.get("config.firmware", "bios"),
        hardware_version=_hardware_version(row.get("config.version")),
        cpus=row.get("config.hardware.numCPU", 1),
        memory_gib=row.get("config.hardware.memoryMB", 0) / 1024,
        disk_gib=sum(d.capacityInKB or 0 for d in disks) / 1024**2,
        disks=len(disks),
        used_gib=used_gib(row, disks),
        networks=tuple(ref._moId for ref in row.get("network", ())),
        nics=tuple(NIC(d.key, type(d).__name__.rsplit(".", maxsplit=1)[-1]) for d in nics),
        has_gpu=any(isinstance(d, vim.vm.device.VirtualPCIPassthrough) for d in devices),
        guest_id=row.get("config.guestId", ""),
        snapshots=tuple(_snapshots(row.get("snapshot"))),
        unfinished=snapshots.says(ref, row),
        host=host._moId if host is not None else "",
        datastores=tuple(ref._moId for ref in row.get("datastore", ())),
        tools=row.get("guest.toolsVersionStatus2", ""),
        secure_boot=bool(getattr(row.get("config.bootOptions"), "efiSecureBootEnabled", False)),
        vtpm=any(isinstance(d, vim.vm.device.VirtualTPM) for d in devices),
        encrypted=row.get("config.keyId") is not None,
        nested_hv=bool(row.get("config.nestedHVEnabled")),
        cores_per_socket=row.get("config.hardware.numCoresPerSocket") or 1,
        hidden=not_shown(row, visibility.OF_TEMPLATES),
    )


def _hardware_version(version: str | None) -> int:
    """Of ``vmx-17``; 0, which is too old for everything, where it is not known."""
    number = (version or "").removeprefix("vmx-")
    return int(number) if number.isdecimal() else 0


def _snapshots(info: Any) -> Iterator[Snapshot]:
    """All of the tree."""
    waiting = list(info.rootSnapshotList) if info else []
    while waiting:
        node = waiting.pop(0)
        waiting += node.childSnapshotList or ()
        yield Snapshot(node.name, node.snapshot._moId, node.snapshot == info.currentSnapshot)


def _datastores(rows: Rows, tree: Tree) -> tuple[Datastore, ...]:
    return tuple(
        Datastore(
            name=name_of(ref, row),
            moref=ref._moId,
            free_gib=row.get("summary.freeSpace", 0) / 1024**3,
            accessible=bool(row.get("summary.accessible", True)),
            path=_path(ref, row, tree),
            hidden=not_shown(row, visibility.OF_DATASTORES),
            maintenance=row.get("summary.maintenanceMode", "normal") != "normal",
            troubles=tuple(_troubles(row.get("host", ()))),
        )
        for ref, row in rows.items()
        if isinstance(ref, vim.Datastore) and is_visible(row)
    )


def _troubles(mounts: Iterable[Any]) -> Iterator[tuple[MoRef, str]]:
    """``accessible`` is unset on hosts that do not tell (HostMountInfo)."""
    for mount in mounts:
        info = mount.mountInfo
        if info.mounted is False or info.accessible is False:
            why = info.inaccessibleReason
            yield mount.key._moId, "the host has lost it" + (f" ({why})" if why else "")
        elif info.accessMode == "readOnly":
            yield mount.key._moId, "it is mounted read-only there"


def _networks(rows: Rows, tree: Tree) -> tuple[Network, ...]:
    return tuple(
        Network(
            name=name_of(ref, row),
            moref=ref._moId,
            portgroup_key=row.get("key"),
            switch_uuid=rows.get(row.get(_SWITCH), {}).get("uuid"),
            path=_path(ref, row, tree),
            opaque_id=getattr(row.get("summary"), "opaqueNetworkId", None),
            opaque_type=getattr(row.get("summary"), "opaqueNetworkType", None),
        )
        for ref, row in rows.items()
        if isinstance(ref, vim.Network) and is_visible(row)
    )


def _datacenter_path(tree: Tree, cluster: Any) -> str:
    datacenter = tree.datacenter(cluster)
    return "" if datacenter is None else tree.path(datacenter)


def _path(ref: Any, row: Row, tree: Tree) -> str:
    """Of an object that is below a folder of the tree, and not part of it."""
    return f"{tree.path(row.get('parent')).rstrip('/')}/{name_of(ref, row)}"


def _marked(
    tree: Tree, rows: Rows, vcenter: VCenter, host_name: Callable[[Any], str]
) -> tuple[VM, ...]:
    return tuple(
        machine(ref, rows[ref], vcenter.instance_uuid, host_name)
        for ref in tree.marked()
        if ref in rows
    )
