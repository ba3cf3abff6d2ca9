"""Capacity: memory of a cluster's hosts and of a resource pool, disk usage of a template."""

from collections.abc import Iterable, Sequence
from typing import Any

from gpuvm.vsphere.properties import Row

_LARGEST_SHARE = 0.5
"""A larger share means that the summary covers other hosts than those that were read."""


def hypervisor_share(cluster: Row, hosts: Iterable[Row]) -> float | None:
    """Return the share of the hosts' memory that ESXi uses itself, from 0 to 1; None if unknown.

    ``summary.effectiveMemory`` (ComputeResourceSummary) is the memory for VMs in MB, summed over
    the hosts that respond and are not in maintenance mode. No property of a host has its own share.
    """
    effective = cluster.get("summary.effectiveMemory")
    total = sum(row.get("hardware.memorySize", 0) for row in hosts if _is_effective(row))
    if not effective or not total:
        return None
    share = 1 - effective * 1024**2 / total
    return share if 0 <= share < _LARGEST_SHARE else None


def unreserved_gib(pool: Row) -> float | None:
    memory = pool.get("runtime.memory")
    left = getattr(memory, "unreservedForVm", None)
    return None if left is None else left / 1024**3


def used_gib(template: Row, disks: Sequence[Any]) -> float | None:
    """Return the used space of the disks, which a full clone needs; None if unknown or not thin.

    ``committed`` (VirtualMachineStorageSummary) is the space of all files of the VM, shared ones
    included, which a full clone copies. It may be too high, never too low; the disks' capacity is
    the limit.
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
