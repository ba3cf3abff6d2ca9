"""Looking first: what became of a call whose answer never came."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from gpuvm.errors import NoPermission, UnreadableAnswer
from gpuvm.inventory import MoRef
from gpuvm.vsphere.faults import translated
from gpuvm.vsphere.properties import Objects, Row, retrieve
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

# Recent tasks are everybody's, and pyVmomi cannot decode the whole ``info`` of all of them: a
# task's entity may be no ManagedEntity, and its error may name no task.
_PATHS = ("info.descriptionId", "info.state", "info.queueTime")
_CLONE_PATHS = (*_PATHS, "info.eventChainId", "info.reason")


def running_tasks(content: Any, entity: Any, operation: str) -> list[Task]:
    rows = retrieve(content, [Objects(vim.ManagedEntity, [entity], ("recentTask",))])
    recent = rows.get(entity, {}).get("recentTask", ())
    found = retrieve(content, [Objects(vim.Task, recent, _PATHS)])
    running = [(ref, row) for ref, row in found.items() if _is_under_way(row, operation)]
    return [Task(ref._moId, operation) for ref, _ in sorted(running, key=_queued)]


@dataclass(frozen=True)
class CloneInFlight:
    """A clone that has not ended; ``name`` is what it will be called, None where nobody says."""

    task: Task
    name: str | None


def clones_in_flight(content: Any) -> list[CloneInFlight]:
    """Clones that this account began and that have not ended, whoever waits for them."""
    rows = retrieve(content, [Objects(vim.TaskManager, [content.taskManager], ("recentTask",))])
    recent = rows.get(content.taskManager, {}).get("recentTask", ())
    return list(_clones(content, recent)) if recent else []


def _clones(content: Any, recent: Sequence[Any]) -> Iterator[CloneInFlight]:
    found = retrieve(content, [Objects(vim.Task, recent, _CLONE_PATHS)])
    with translated("reading its session", "the vCenter"):
        user = content.sessionManager.currentSession.userName
    for ref, row in found.items():
        if _is_under_way(row, "clone") and _began(row, user):
            yield CloneInFlight(Task(ref._moId, "clone"), _target(content, row))


def _target(content: Any, row: Row) -> str | None:
    """A task names only what is cloned; the events of its chain name the new VM."""
    chain, queued = row.get("info.eventChainId"), row.get("info.queueTime")
    if chain is None or queued is None:
        return None
    query = vim.event.EventFilterSpec(
        eventChainId=chain,
        eventTypeId=list(_BEGUN),
        time=vim.event.EventFilterSpec.ByTime(beginTime=queued),
    )
    try:
        with translated("reading events", "the vCenter"):
            events = content.eventManager.QueryEvents(query) or ()
    except (NoPermission, UnreadableAnswer):
        return None
    for event in events:
        if isinstance(event, vim.event.VmBeingClonedEvent):
            return str(event.destName)
        if isinstance(event, vim.event.VmBeingDeployedEvent) and event.vm is not None:
            return str(event.vm.name)
    return None


def find_child(content: Any, folder: Any, name: str) -> MoRef | None:
    with translated("looking for the VM", name):
        found = content.searchIndex.FindChild(entity=folder, name=name)
    return found._moId if isinstance(found, vim.VirtualMachine) else None


def _is_under_way(row: Row, operation: str) -> bool:
    described = row.get("info.descriptionId") == _DESCRIPTION[operation]
    return described and row.get("info.state") in ("queued", "running")


def _began(row: Row, user: str) -> bool:
    """Whether this account did; a task without a user counts as its own."""
    began = getattr(row.get("info.reason"), "userName", user) or ""
    return began.lower() == user.lower()


def _queued(task: tuple[Any, Row]) -> str:
    return str(task[1].get("info.queueTime", ""))
