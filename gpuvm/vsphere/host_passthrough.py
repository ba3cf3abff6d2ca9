"""What is switched on a host: passthrough of its devices, maintenance mode, a reboot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from gpuvm.errors import NotVisible
from gpuvm.vsphere.faults import submitted
from gpuvm.vsphere.properties import Objects, retrieve
from gpuvm.vsphere.updates import Task

# A host that cannot be emptied in this time is not going to be.
MAINTENANCE_S = 600

_SYSTEM = "configManager.pciPassthruSystem"
_STATE_PATHS = (
    "runtime.connectionState",
    "runtime.inMaintenanceMode",
    "capability.rebootSupported",
)


@dataclass(frozen=True)
class HostState:
    """``reboots``: it can be rebooted through the API."""

    connected: bool
    in_maintenance_mode: bool
    reboots: bool


def switch_passthrough(
    content: Any, host: Any, name: str, devices: Sequence[str], *, enabled: bool
) -> None:
    """For *dependent* devices, which is what the kernel has to let go; then the list is refreshed.

    ``applyNow`` is left unset: the host applies it at once where it can rebind devices (API 7.0),
    elsewhere at its next reboot (API reference of HostPciPassthruConfig).
    Raises TaskFailed with the host's own words.
    """
    system = _passthrough_system(content, host)
    changes = [vim.host.PciPassthruConfig(id=device, passthruEnabled=enabled) for device in devices]
    with submitted("switching passthrough", name):
        system.UpdatePassthruConfig(config=changes)
        system.Refresh()


def enter_maintenance(host: Any, name: str) -> Task:
    """Powered-off VMs stay: evacuated ones would name devices of a host that they left."""
    with submitted("maintenance mode", name):
        task = host.EnterMaintenanceMode_Task(timeout=MAINTENANCE_S, evacuatePoweredOffVms=False)
    return Task(task._moId, "maintenance mode")


def exit_maintenance(host: Any, name: str) -> Task:
    with submitted("leaving maintenance mode", name):
        return Task(host.ExitMaintenanceMode_Task(timeout=0)._moId, "leaving maintenance mode")


def reboot(host: Any, name: str) -> Task:
    """Never by force: that would take running VMs down. It ends when the reboot has begun."""
    with submitted("reboot", name):
        return Task(host.RebootHost_Task(force=False)._moId, "reboot")


def read_state(content: Any, host: Any) -> HostState:
    row = retrieve(content, [Objects(vim.HostSystem, [host], _STATE_PATHS)]).get(host, {})
    return HostState(
        connected=str(row.get("runtime.connectionState")) == "connected",
        in_maintenance_mode=bool(row.get("runtime.inMaintenanceMode")),
        reboots=bool(row.get("capability.rebootSupported", True)),
    )


def _passthrough_system(content: Any, host: Any) -> Any:
    row = retrieve(content, [Objects(vim.HostSystem, [host], (_SYSTEM,))]).get(host, {})
    if _SYSTEM not in row:
        raise NotVisible(f"{_SYSTEM} of {host._moId}")
    return row[_SYSTEM]
