"""The whole inventory in a number of round trips that does not grow with unrelated VMs.

One read of the tree, one of the chosen cluster, and one ``QueryConfigTarget`` per host, because
``systemId`` is each host's own and hosts of one kind have their GPUs at the same addresses.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from pyVmomi import vim

from gpuvm.inventory import (
    VM,
    Cluster,
    Datastore,
    Holder,
    Host,
    Inventory,
    Network,
    VCenter,
    VMTemplate,
)
from gpuvm.vsphere.faults import translated
from gpuvm.vsphere.gpus import HOST_GPU_PATHS, Holders, gpus_of
from gpuvm.vsphere.machines import machine, passthrough_devices
from gpuvm.vsphere.properties import MARKS, VM_PATHS, Objects, Row, retrieve, retrieve_all
from gpuvm.vsphere.tree import Tree

Rows = dict[Any, Row]

_CLUSTER_PATHS = ("name", "parent", "host", "resourcePool", "environmentBrowser")
_HOST_PATHS = (
    "name",
    "runtime.connectionState",
    "runtime.inMaintenanceMode",
    "runtime.inQuarantineMode",
    "hardware.memorySize",
    "hardware.systemInfo.model",
    "datastore",
    "network",
    *HOST_GPU_PATHS,
)
_TEMPLATE_PATHS = (
    "name",
    "config.firmware",
    "config.version",
    "config.guestId",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "config.hardware.device",
)
_NEIGHBOUR_PATHS = (
    "name",
    "runtime.host",
    "runtime.powerState",
    "config.hardware.device",
    "config.memoryAllocation.reservation",
)


def read_inventory(
    content: Any,
    vcenter: VCenter,
    cluster: str | None,
    folder: str | None,
    resource_pool: str | None,
) -> Inventory:
    """Raises NotFound and Ambiguous for the cluster, the folder and the resource pool."""
    tree = Tree(
        retrieve_all(
            content,
            [
                (vim.Folder, ("name", "parent")),
                (vim.Datacenter, ("name", "parent", "vmFolder")),
                (vim.ClusterComputeResource, _CLUSTER_PATHS),
                (vim.ResourcePool, ("name", "parent")),
                (vim.VirtualMachine, ("name", "parent", "config.template", "runtime.host", *MARKS)),
            ],
        )
    )
    chosen = tree.cluster(cluster)
    hosts = list(tree.rows[chosen].get("host", ()))
    rows = _details(content, tree, hosts)
    names = {host: rows[host]["name"] for host in hosts if host in rows}
    neighbours = {ref: rows[ref] for ref in tree.vms_on(hosts) if ref in rows}
    held = holders(neighbours.values(), names)
    system_ids = {host: _system_ids(tree.browser(chosen), host) for host in names}
    into = tree.folder(chosen, folder)
    return Inventory(
        vcenter=vcenter,
        cluster=Cluster(
            name=tree.rows[chosen]["name"],
            moref=chosen._moId,
            path=tree.path(chosen),
            datacenter=tree.rows[tree.datacenter(chosen)]["name"],
            resource_pool=tree.pool(chosen, resource_pool)._moId,
            vm_folder=into._moId,
        ),
        hosts=tuple(
            _host(ref, rows, neighbours.values(), system_ids[ref], held)
            for ref in sorted_hosts(names)
        ),
        templates=tuple(_template(ref, rows[ref], tree) for ref in tree.templates() if ref in rows),
        datastores=_datastores(rows),
        networks=_networks(rows),
        vms=_marked(tree, rows, vcenter, names),
        names_in_folder=frozenset(tree.names_in(into)),
    )


def read_vms(content: Any, vcenter: VCenter, refs: Sequence[Any]) -> tuple[VM, ...]:
    rows = retrieve(content, [Objects(vim.VirtualMachine, refs, VM_PATHS)])
    seen = {row["runtime.host"] for row in rows.values() if row.get("runtime.host") is not None}
    hosts = retrieve(content, [Objects(vim.HostSystem, sorted(seen, key=str), ("name",))])
    return tuple(
        machine(ref, row, vcenter.instance_uuid, lambda h: hosts[h]["name"])
        for ref, row in rows.items()
        if row
    )


def read_marked(content: Any, vcenter: VCenter) -> tuple[VM, ...]:
    """Every VM that carries the mark, wherever in the vCenter it is."""
    found = retrieve_all(content, [(vim.VirtualMachine, MARKS)])
    return read_vms(content, vcenter, [ref for ref, row in found.items() if row])


def holders(vms: Any, host_names: dict[Any, str]) -> Holders:
    """Who names which GPU, by host and PCI address."""
    found: dict[tuple[str, str], list[Holder]] = defaultdict(list)
    for row in vms:
        host = host_names.get(row.get("runtime.host"))
        for device in passthrough_devices(row.get("config.hardware.device", ())):
            if host is not None:
                powered_on = row.get("runtime.powerState") == "poweredOn"
                found[host, device.pci_address].append(Holder(row.get("name", ""), powered_on))
    return found


def read_holders(content: Any, hosts: Sequence[Any]) -> Holders:
    """The VMs of these hosts that name a GPU, as they are now."""
    named = retrieve(content, [Objects(vim.HostSystem, hosts, ("name", "vm"))])
    refs = [vm for row in named.values() for vm in row.get("vm", ())]
    paths = ("name", "runtime.host", "runtime.powerState", "config.hardware.device")
    rows = retrieve(content, [Objects(vim.VirtualMachine, refs, paths)])
    return holders(rows.values(), {host: row["name"] for host, row in named.items()})


def sorted_hosts(names: dict[Any, str]) -> list[Any]:
    return sorted(names, key=lambda ref: names[ref])


def _details(content: Any, tree: Tree, hosts: Sequence[Any]) -> Rows:
    """Hosts, the VMs on them, templates and our own VMs, in one call; then what hosts name."""
    marked = tree.marked()
    rows = retrieve(
        content,
        [
            Objects(vim.HostSystem, hosts, _HOST_PATHS),
            Objects(vim.VirtualMachine, _without(tree.vms_on(hosts), marked), _NEIGHBOUR_PATHS),
            Objects(vim.VirtualMachine, tree.templates(), _TEMPLATE_PATHS),
            Objects(vim.VirtualMachine, marked, (*VM_PATHS, "config.memoryAllocation.reservation")),
        ],
    )
    stores = {ref for host in hosts for ref in rows.get(host, {}).get("datastore", ())}
    nets = {ref for host in hosts for ref in rows.get(host, {}).get("network", ())}
    rows |= retrieve(
        content,
        [
            Objects(
                vim.Datastore,
                sorted(stores, key=str),
                ("name", "summary.freeSpace", "summary.accessible"),
            ),
            Objects(vim.Network, sorted(nets, key=str), ("name",)),
        ],
    )
    return rows


def _without(refs: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    excluded = set(others)
    return [ref for ref in refs if ref not in excluded]


def _system_ids(browser: Any, host: Any) -> dict[str, str]:
    with translated("reading the host's devices", host._moId):
        target = browser.QueryConfigTarget(host=host)
    return {info.pciDevice.id: info.systemId for info in target.pciPassthrough or ()}


def _host(ref: Any, rows: Rows, neighbours: Any, system_ids: dict[str, str], held: Holders) -> Host:
    row = rows[ref]
    reserved = sum(
        vm.get("config.memoryAllocation.reservation") or 0
        for vm in neighbours
        if vm.get("runtime.host") == ref and vm.get("runtime.powerState") == "poweredOn"
    )
    return Host(
        name=row["name"],
        moref=ref._moId,
        connection_state=str(row.get("runtime.connectionState", "disconnected")),
        in_maintenance_mode=bool(row.get("runtime.inMaintenanceMode")),
        in_quarantine_mode=bool(row.get("runtime.inQuarantineMode")),
        memory_gib=row.get("hardware.memorySize", 0) / 1024**3,
        reserved_gib=reserved / 1024,
        model=row.get("hardware.systemInfo.model", ""),
        gpus=tuple(gpus_of(row["name"], row, system_ids, held)),
        datastores=tuple(rows[d]["name"] for d in row.get("datastore", ()) if d in rows),
        networks=tuple(rows[n]["name"] for n in row.get("network", ()) if n in rows),
    )


def _template(ref: Any, row: Row, tree: Tree) -> VMTemplate:
    devices = row.get("config.hardware.device", ())
    disks = [d for d in devices if isinstance(d, vim.vm.device.VirtualDisk)]
    nics = [d for d in devices if isinstance(d, vim.vm.device.VirtualEthernetCard)]
    return VMTemplate(
        name=row["name"],
        moref=ref._moId,
        path=tree.path(ref),
        firmware=row.get("config.firmware", "bios"),
        hardware_version=int(str(row.get("config.version", "vmx-0")).removeprefix("vmx-")),
        cpus=row.get("config.hardware.numCPU", 1),
        memory_gib=row.get("config.hardware.memoryMB", 0) / 1024,
        disk_gib=sum(d.capacityInKB or 0 for d in disks) / 1024**2,
        nics=len(nics),
        has_gpu=any(isinstance(d, vim.vm.device.VirtualPCIPassthrough) for d in devices),
        guest_id=row.get("config.guestId", ""),
    )


def _datastores(rows: Rows) -> tuple[Datastore, ...]:
    return tuple(
        Datastore(
            name=row["name"],
            moref=ref._moId,
            free_gib=row.get("summary.freeSpace", 0) / 1024**3,
            accessible=bool(row.get("summary.accessible")),
        )
        for ref, row in rows.items()
        if isinstance(ref, vim.Datastore)
    )


def _networks(rows: Rows) -> tuple[Network, ...]:
    return tuple(
        Network(row["name"], ref._moId) for ref, row in rows.items() if isinstance(ref, vim.Network)
    )


def _marked(tree: Tree, rows: Rows, vcenter: VCenter, names: dict[Any, str]) -> tuple[VM, ...]:
    return tuple(
        machine(ref, rows[ref], vcenter.instance_uuid, lambda h: names.get(h, "another cluster"))
        for ref in tree.marked()
        if ref in rows
    )
