"""Looking first: what became of a call whose answer never came."""

from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from gpuvm.errors import NoPermission
from gpuvm.inventory import MoRef
from gpuvm.vsphere.faults import translated
from gpuvm.vsphere.properties import Objects, retrieve
from gpuvm.vsphere.updates import Task

_DESCRIPTION = {
    "clone": "VirtualMachine.clone",
    "reconfigure": "VirtualMachine.reconfigure",
    "move": "VirtualMachine.relocate",
    "power on": "VirtualMachine.powerOn",
    "power off": "VirtualMachine.powerOff",
    "destroy": "VirtualMachine.destroy",
    "snapshot": "VirtualMachine.createSnapshot",
    "maintenance mode": "HostSystem.enterMaintenanceMode",
    "leaving maintenance mode": "HostSystem.exitMaintenanceMode",
}
_BEGUN = ("VmBeingDeployedEvent", "VmBeingClonedEvent")


def running_tasks(content: Any, entity: Any, operation: str) -> list[Task]:
    rows = retrieve(content, [Objects(vim.ManagedEntity, [entity], ("recentTask",))])
    recent = rows.get(entity, {}).get("recentTask", ())
    found = retrieve(content, [Objects(vim.Task, recent, ("info",))])
    infos = [row["info"] for row in found.values() if "info" in row]
    running = [
        info
        for info in infos
        if info.descriptionId == _DESCRIPTION[operation] and info.state in ("queued", "running")
    ]
    return [Task(info.task._moId, operation) for info in sorted(running, key=_queued)]


@dataclass(frozen=True)
class CloneInFlight:
    """A clone that has not ended; ``name`` is what it will be called, None where nobody says."""

    task: Task
    name: str | None


def clones_in_flight(content: Any) -> list[CloneInFlight]:
    """Clones that this account began and that have not ended, whoever waits for them."""
    rows = retrieve(content, [Objects(vim.TaskManager, [content.taskManager], ("recentTask",))])
    recent = rows.get(content.taskManager, {}).get("recentTask", ())
    found = retrieve(content, [Objects(vim.Task, recent, ("info",))])
    user = content.sessionManager.currentSession.userName if found else ""
    infos = [row["info"] for row in found.values() if "info" in row]
    return [
        CloneInFlight(Task(info.task._moId, "clone"), _target(content, info))
        for info in infos
        if _is_clone_of(info, user)
    ]


def _target(content: Any, info: Any) -> str | None:
    """A task names only what is cloned; the events of its chain name the new VM."""
    since = vim.event.EventFilterSpec.ByTime(beginTime=info.queueTime)
    query = vim.event.EventFilterSpec(
        eventChainId=info.eventChainId, eventTypeId=list(_BEGUN), time=since
    )
    try:
        with translated("reading events", "the vCenter"):
            events = content.eventManager.QueryEvents(query) or ()
    except NoPermission:
        return None
    for event in events:
        if isinstance(event, vim.event.VmBeingClonedEvent):
            return str(event.destName)
        if isinstance(event, vim.event.VmBeingDeployedEvent) and event.vm is not None:
            return str(event.vm.name)
    return None


def _is_clone_of(info: Any, user: str) -> bool:
    under_way = info.descriptionId == _DESCRIPTION["clone"] and info.state in ("queued", "running")
    began = getattr(info.reason, "userName", user) or ""
    return under_way and began.lower() == user.lower()


def find_child(content: Any, folder: Any, name: str) -> MoRef | None:
    with translated("looking for the VM", name):
        found = content.searchIndex.FindChild(entity=folder, name=name)
    return found._moId if isinstance(found, vim.VirtualMachine) else None


def _queued(info: Any) -> Any:
    return info.queueTime
