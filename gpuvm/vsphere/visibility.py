"""What was not to be seen: which properties must be there, and what is said when they are not."""

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
"""What a host must show before a VM is placed on it; all of it is there on one that is well."""
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
    """Whoever cannot see the vCenter's root may not see a part of what is below it."""
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
        f"this account cannot see the vCenter's root{more}: "
        "a VM that it cannot see either may hold a GPU"
    )


def notes(cluster: Row, hosts: Sequence[Host], vms: Rows) -> Iterator[str]:
    """What was not to be seen and may matter for who holds which GPU."""
    if missing := not_shown(cluster, {"host": "hosts"}):
        yield f"{cluster.get('name', 'the cluster')}: {missing}"
    for host in hosts:
        if host.gpus_hidden and host.unusable is None:
            yield f"{host.name}: {host.gpus_hidden}"
    suspects: dict[MoRef, set[str]] = {}
    for gpu in (gpu for host in hosts for gpu in host.gpus):
        for holder in gpu.suspects:
            suspects.setdefault(holder.moref, set()).add(gpu.host)
    for ref, row in vms.items():
        if ref._moId in suspects:
            where = ", ".join(sorted(suspects[ref._moId]))
            missing = not_shown(row, OF_HOLDERS) or "no host says which GPU it has"
            yield f"{name_of(ref, row)} may hold a GPU of {where}: {missing}"


def beside(hosts: Sequence[Any], rows: Rows, tree: Tree) -> list[Any]:
    """VMs that hosts have and the tree has not: new ones, and such as this account cannot see."""
    on = [vm for host in hosts for vm in rows.get(host, {}).get("vm", ())]
    return [vm for vm in on if vm not in tree.rows]


def invisible(host: Any, rows: Rows, tree: Tree) -> Rows:
    """One row for all VMs of the host that this account cannot see; new ones have rows by now."""
    more = beside([host], rows, tree)
    new = {vm: rows[vm] for vm in more if is_visible(rows.get(vm, {}))}
    unseen = [vm for vm in more if vm not in new]
    if not unseen:
        return new
    name = UNSEEN if len(unseen) == 1 else f"one of {len(unseen)} {ALL_UNSEEN}"
    return {**new, unseen[0]: {"name": name, "runtime.host": host}}
