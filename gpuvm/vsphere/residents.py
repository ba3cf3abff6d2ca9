"""The running VMs of a host that is to enter maintenance mode, and whether vCenter moves them.

DRS evacuates the host if it is fully automated for the cluster and for the VM (API reference of
``EnterMaintenanceMode_Task``); otherwise the task waits until the VMs were moved by hand. A VM with
a passthrough device is never moved. One with vGPUs is, since 7.0.3, if the cluster's DRS option
``VgpuMMAutomationTimeoutSecs`` is -1 (VMware's article 88271).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from gpuvm.devices import VGPUDevice
from gpuvm.vsphere.properties import Objects, Row, retrieve
from gpuvm.vsphere.virtual_machines import devices_of

_VM_PATHS = ("name", "runtime.powerState", "config.managedBy", "config.hardware.device")
_CLUSTER_PATHS = ("host", "configuration.drsConfig", "configuration.drsVmConfig")
_OTHER_PATHS = (
    "runtime.connectionState",
    "runtime.powerState",
    "runtime.inMaintenanceMode",
    "runtime.inQuarantineMode",
)

_AGENT_MANAGER = "com.vmware.vim.eam"
_AGENT_NAME = "vCLS"
_VGPU_OPTION = "VgpuMMAutomationTimeoutSecs"


@dataclass(frozen=True)
class Resident:
    """A VM that runs on a host. ``stays`` is why vCenter does not move it, empty if it does.

    An ``agent`` is a VM of vSphere Cluster Services: only vCenter can remove it, and starts it
    again when it is stopped.
    """

    name: str
    agent: bool = False
    stays: str = ""


def read_residents(content: Any, host: Any) -> tuple[Resident, ...]:
    """Read them, sorted by name, in four round trips."""
    row = retrieve(content, [Objects(vim.HostSystem, [host], ("vm", "parent"))]).get(host, {})
    rows = retrieve(content, [Objects(vim.VirtualMachine, row.get("vm", ()), _VM_PATHS)])
    running = {ref: vm for ref, vm in rows.items() if vm.get("runtime.powerState") == "poweredOn"}
    parent = row.get("parent")
    clusters = [parent] if isinstance(parent, vim.ClusterComputeResource) else []
    cluster = retrieve(content, [Objects(vim.ClusterComputeResource, clusters, _CLUSTER_PATHS)])
    settings = cluster.get(parent, {})
    others = [other for other in settings.get("host", ()) if other != host]
    targets = retrieve(content, [Objects(vim.HostSystem, others, _OTHER_PATHS)])
    drs = _DRS(settings, has_target=any(map(_takes_vms, targets.values())))
    found = (_resident(ref, vm, drs) for ref, vm in running.items())
    return tuple(sorted(found, key=lambda one: one.name))


class _DRS:
    """A cluster's DRS settings; ``has_target``: another host can take VMs."""

    def __init__(self, cluster: Row, *, has_target: bool) -> None:
        self._config = cluster.get("configuration.drsConfig")
        overrides = cluster.get("configuration.drsVmConfig", ())
        ignored = getattr(self._config, "enableVmBehaviorOverrides", None) is False
        self._overrides: Mapping[Any, Any] = {} if ignored else {one.key: one for one in overrides}
        self._has_target = has_target

    def why_not_moved(self, vm: Any) -> str:
        if self._config is None or not self._config.enabled:
            return "DRS is off"
        override = self._overrides.get(vm)
        if override is not None and override.enabled is False:
            return "DRS is off for it"
        own = getattr(override, "behavior", None)
        if (own or self._config.defaultVmBehavior) != "fullyAutomated":
            return "DRS is not fully automated" + (" for it" if own else "")
        return "" if self._has_target else "no other host of the cluster can take it"

    @property
    def moves_vgpus(self) -> bool:
        options = getattr(self._config, "option", None) or ()
        return any(one.key == _VGPU_OPTION and str(one.value) == "-1" for one in options)


def _resident(ref: Any, row: Row, drs: _DRS) -> Resident:
    name = row.get("name", ref._moId)
    if _is_agent(name, row):
        return Resident(name, agent=True, stays=drs.why_not_moved(ref))
    return Resident(name, stays=_bound_device(row, drs) or drs.why_not_moved(ref))


def _bound_device(row: Row, drs: _DRS) -> str:
    devices = devices_of(row.get("config.hardware.device", ()))
    if any(not isinstance(device, VGPUDevice) for device in devices):
        return "it has a passthrough device"
    if devices and not drs.moves_vgpus:
        return f"it has a vGPU, and the cluster's DRS option {_VGPU_OPTION} is not -1"
    return ""


def _is_agent(name: str, row: Row) -> bool:
    """Whether ESX Agent Manager manages the VM, or its name is one of an agent."""
    manager = getattr(row.get("config.managedBy"), "extensionKey", None)
    return manager == _AGENT_MANAGER or name.startswith(_AGENT_NAME)


def _takes_vms(host: Row) -> bool:
    return (
        str(host.get("runtime.connectionState")) == "connected"
        and str(host.get("runtime.powerState", "poweredOn")) == "poweredOn"
        and not host.get("runtime.inMaintenanceMode")
        and not host.get("runtime.inQuarantineMode")
    )
