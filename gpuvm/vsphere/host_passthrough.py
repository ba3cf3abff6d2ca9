"""Passthrough of a host's devices, maintenance mode and reboot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from gpuvm.errors import NotVisible
from gpuvm.vsphere.faults import submitted
from gpuvm.vsphere.properties import Objects, retrieve
from gpuvm.vsphere.updates import Task

# Timeout of entering maintenance mode: an evacuation that takes longer counts as failed.
MAINTENANCE_S = 600

_SYSTEM = "configManager.pciPassthruSystem"
_STATE_PATHS = (
    "runtime.connectionState",
    "runtime.inMaintenanceMode",
    "capability.rebootSupported",
)


@dataclass(frozen=True)
class HostState:
    """``reboots``: the host can be rebooted through the API."""

    connected: bool
    in_maintenance_mode: bool
    reboots: bool


def switch_passthrough(
    content: Any, host: Any, name: str, devices: Sequence[str], *, enabled: bool
) -> None:
    """Switch passthrough of *dependent* devices, which ESXi rebinds.

    ``applyNow`` is unset: a host that can rebind devices (API 7.0) applies the change at once,
    others at the next reboot (API reference of HostPciPassthruConfig). Raises TaskFailed.
    """
    system = _passthrough_system(content, host)
    changes = [vim.host.PciPassthruConfig(id=device, passthruEnabled=enabled) for device in devices]
    with submitted("switching passthrough", name):
        system.UpdatePassthruConfig(config=changes)


def refresh_passthrough(content: Any, host: Any, name: str) -> None:
    """Have the host read its list of devices again, so that vCenter shows the change at once."""
    with submitted("refreshing the list of devices", name):
        _passthrough_system(content, host).Refresh()


def enter_maintenance(host: Any, name: str) -> Task:
    """Enter it without moving powered-off VMs: they may name devices of this host."""
    with submitted("maintenance mode", name):
        task = host.EnterMaintenanceMode_Task(timeout=MAINTENANCE_S, evacuatePoweredOffVms=False)
    return Task(task._moId, "maintenance mode")


def exit_maintenance(host: Any, name: str) -> Task:
    with submitted("leaving maintenance mode", name):
        return Task(host.ExitMaintenanceMode_Task(timeout=0)._moId, "leaving maintenance mode")


def reboot(host: Any, name: str) -> Task:
    """Reboot without force, which would stop running VMs. The task ends when the reboot begins."""
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
