"""Other VMs that report an address of a VM, by vCenter's own index of addresses.

Two machines can have one address: DHCP gives clones of a template that kept its machine-id the same
lease. It is no conflict if they are on different networks, which may use the same private range.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pyVmomi import vim

from gpuvm.inventory import VM, MoRef
from gpuvm.vsphere.faults import translated
from gpuvm.vsphere.properties import Objects, retrieve

_PATHS = ("name", "network", "guest.toolsRunningStatus")


def others_at(content: Any, vms: Sequence[VM]) -> Mapping[MoRef, Mapping[str, tuple[str, ...]]]:
    """Return, per VM and address, the names of other VMs on its networks that report it.

    One round trip per address, and one more if any has others. VMs that the account cannot see are
    not found. ``guest.ipAddress``, a VM's primary address, is what the index knows
    (SearchIndex.FindAllByIp).
    """
    found: dict[tuple[MoRef, str], list[Any]] = {}
    with translated("looking up an address", "the vCenter"):
        for vm in vms:
            for address in vm.addresses:
                refs = content.searchIndex.FindAllByIp(ip=address, vmSearch=True) or ()
                found[vm.moref, address] = [ref for ref in refs if ref._moId != vm.moref]
    strangers = {ref for refs in found.values() for ref in refs}
    if not strangers:
        return {}
    rows = {
        ref._moId: row
        for ref, row in retrieve(
            content,
            [Objects(vim.VirtualMachine, list(strangers), _PATHS)],
        ).items()
    }
    networks = {vm.moref: frozenset(vm.networks) for vm in vms}
    shared: dict[MoRef, dict[str, tuple[str, ...]]] = {}
    for (moref, address), refs in found.items():
        near = [rows.get(ref._moId, {}) for ref in refs]
        names = tuple(sorted(_name(row) for row in near if _is_near(row, networks[moref])))
        if names:
            shared.setdefault(moref, {})[address] = names
    return shared


def _name(row: Mapping[str, Any]) -> str:
    return str(row.get("name") or "a VM that is not shown")


def _is_near(row: Mapping[str, Any], networks: frozenset[MoRef]) -> bool:
    """Whether it is up, and on one of these networks as far as vCenter shows."""
    if row.get("guest.toolsRunningStatus", "guestToolsRunning") != "guestToolsRunning":
        return False
    own = {network._moId for network in row.get("network") or ()}
    return not own or not networks or bool(own & networks)
