"""How much there is: memory of a cluster's hosts and of a resource pool, disks of a template."""

from collections.abc import Iterable, Sequence
from typing import Any

from gpuvm.vsphere.properties import Row

_LARGEST_SHARE = 0.5
"""A summary that leaves less than this to VMs is of other hosts than those that were read."""


def hypervisor_share(cluster: Row, hosts: Iterable[Row]) -> float | None:
    """Return ESXi's own share of the hosts' memory, from 0 to 1; None if unknown.

    ``summary.effectiveMemory`` (ComputeResourceSummary) is in MB, what all hosts have for VMs that
    are neither unresponsive nor in maintenance mode. Hosts of one cluster differ little, and no
    property of a host says it of that host alone.
    """
    effective = cluster.get("summary.effectiveMemory")
    there = sum(row.get("hardware.memorySize", 0) for row in hosts if _is_effective(row))
    if not effective or not there:
        return None
    share = 1 - effective * 1024**2 / there
    return share if 0 <= share < _LARGEST_SHARE else None


def unreserved_gib(pool: Row) -> float | None:
    memory = pool.get("runtime.memory")
    left = getattr(memory, "unreservedForVm", None)
    return None if left is None else left / 1024**3


def used_gib(template: Row, disks: Sequence[Any]) -> float | None:
    """What the disks take, and full clones of them: of thin ones only what is used of them.

    ``committed`` (VirtualMachineStorageSummary) is the space of all of the VM's files, those that
    it shares with others too, which a full clone copies. So it is too much rather than too little,
    unless it is more than the disks hold. None where nobody tells.
    """
    committed: int | None = template.get("summary.storage.committed")
    thin = [getattr(disk.backing, "thinProvisioned", False) or False for disk in disks]
    sizes: list[float] = [(disk.capacityInKB or 0) / 1024**2 for disk in disks]
    if not committed or not any(thin):
        return None
    thick_gib = sum(size for size, is_thin in zip(sizes, thin, strict=True) if not is_thin)
    return min(max(thick_gib, committed / 1024**3), sum(sizes))


def _is_effective(host: Row) -> bool:
    connected = str(host.get("runtime.connectionState")) == "connected"
    return connected and not host.get("runtime.inMaintenanceMode")
