"""Required properties of hosts, templates and datastores, and notes about missing ones."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pyVmomi import vim

from gpuvm.inventory import Host, MoRef
from gpuvm.vsphere.gpus import ALL_UNSEEN, UNSEEN, name_of
from gpuvm.vsphere.inventory_paths import Tree
from gpuvm.vsphere.properties import Row, is_visible, not_shown

Rows = dict[Any, Row]

OF_HOSTS = {
    "runtime.connectionState": "connection state",
    "runtime.powerState": "power state",
    "runtime.inMaintenanceMode": "maintenance mode",
    "hardware.memorySize": "memory",
    "datastore": "datastores",
}
"""Properties that must be readable before a VM is placed on a host; usually they are."""
OF_GPUS = {"hardware.pciDevice": "PCI devices", "config.pciPassthruInfo": "passthrough state"}
OF_HOLDERS = {"runtime.host": "host", "config.hardware.device": "virtual hardware"}
OF_TEMPLATES = {
    "config.firmware": "firmware",
    "config.version": "hardware version",
    "config.hardware.numCPU": "CPUs",
    "config.hardware.memoryMB": "memory",
    "config.hardware.device": "virtual hardware",
}
OF_DATASTORES = {"summary.freeSpace": "free space", "summary.accessible": "accessibility"}


UNSEEN_HOST = "this account cannot see it"


def of_account(root: Any, rows: Rows) -> Iterator[str]:
    """An account that cannot see the vCenter's root may not see all objects below it."""
    if is_visible(rows.get(root, {})):
        return
    kinds = {vim.Datastore: "datastores", vim.Network: "networks"}
    unseen = Counter(
        name
        for ref, row in rows.items()
        for kind, name in kinds.items()
        if isinstance(ref, kind) and not is_visible(row)
    )
    more = "".join(f", nor {count} of the hosts' {name}" for name, count in unseen.items())
    yield (
        f"this account cannot see the vCenter's root{more}: a VM that it cannot see may hold a GPU"
    )


def notes(cluster: Row, hosts: Sequence[Host], vms: Rows) -> Iterator[str]:
    """Yield what could not be read and may matter for the holders of GPUs."""
    if missing := not_shown(cluster, {"host": "hosts"}):
        yield f"{cluster.get('name', 'the cluster')}: {missing}"
    for host in hosts:
        if host.gpus_hidden and host.unusable is None:
            yield f"{host.name}: {host.gpus_hidden}"
    possible_holders: dict[MoRef, set[str]] = {}
    for gpu in (gpu for host in hosts for gpu in host.gpus):
        for holder in gpu.possible_holders:
            possible_holders.setdefault(holder.moref, set()).add(gpu.host)
    for ref, row in vms.items():
        if ref._moId in possible_holders:
            where = ", ".join(sorted(possible_holders[ref._moId]))
            missing = not_shown(row, OF_HOLDERS) or "no host reports which GPU it has"
            yield f"{name_of(ref, row)} may hold a GPU of {where}: {missing}"


def not_in_tree(hosts: Sequence[Any], rows: Rows, tree: Tree) -> list[Any]:
    """Return the hosts' VMs that are not in the tree: new ones, and ones not visible."""
    on = [vm for host in hosts for vm in rows.get(host, {}).get("vm", ())]
    return [vm for vm in on if vm not in tree.rows]


def invisible(host: Any, rows: Rows, tree: Tree) -> Rows:
    """Return the rows of new VMs, and one row for all VMs that this account cannot see."""
    more = not_in_tree([host], rows, tree)
    new = {vm: rows[vm] for vm in more if is_visible(rows.get(vm, {}))}
    unseen = [vm for vm in more if vm not in new]
    if not unseen:
        return new
    name = UNSEEN if len(unseen) == 1 else f"one of {len(unseen)} {ALL_UNSEEN}"
    return {**new, unseen[0]: {"name": name, "runtime.host": host}}
