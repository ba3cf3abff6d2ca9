"""Running tasks and the VM of a name, for checking the outcome of a call without an answer."""

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
    "reboot": "HostSystem.reboot",
}
_CLONE_EVENTS = ("VmBeingDeployedEvent", "VmBeingClonedEvent")

# Recent tasks are those of all users, and pyVmomi cannot decode the whole ``info`` of each: its
# entity may not be a ManagedEntity.
_PATHS = ("info.descriptionId", "info.state", "info.queueTime")
_CLONE_PATHS = (*_PATHS, "info.eventChainId", "info.reason")


def running_tasks(content: Any, entity: Any, operation: str) -> list[Task]:
    """Return the queued and running tasks of that kind, the oldest first."""
    found = _recent(content, entity, operation)
    running = [one for one in found if one[1].get("info.state") in ("queued", "running")]
    return [Task(ref._moId, operation) for ref, _ in running]


def recent_tasks(content: Any, entity: Any, operation: str) -> frozenset[MoRef]:
    """Return the tasks of that kind that vCenter still knows, also those that have ended."""
    return frozenset(ref._moId for ref, _ in _recent(content, entity, operation))


def _recent(content: Any, entity: Any, operation: str) -> list[tuple[Any, Row]]:
    rows = retrieve(content, [Objects(vim.ManagedEntity, [entity], ("recentTask",))])
    recent = rows.get(entity, {}).get("recentTask", ())
    found = retrieve(content, [Objects(vim.Task, recent, _PATHS)])
    return sorted((one for one in found.items() if _is(one[1], operation)), key=_queue_time)


@dataclass(frozen=True)
class CloneInFlight:
    """A clone that has not ended; ``name`` is the new VM's, None if unknown."""

    task: Task
    name: str | None


def clones_in_flight(content: Any) -> list[CloneInFlight]:
    """Return the clones of this account that have not ended."""
    rows = retrieve(content, [Objects(vim.TaskManager, [content.taskManager], ("recentTask",))])
    recent = rows.get(content.taskManager, {}).get("recentTask", ())
    return list(_clones(content, recent)) if recent else []


def _clones(content: Any, recent: Sequence[Any]) -> Iterator[CloneInFlight]:
    found = retrieve(content, [Objects(vim.Task, recent, _CLONE_PATHS)])
    with translated("reading its session", "the vCenter"):
        user = content.sessionManager.currentSession.userName
    for ref, row in found.items():
        if _is_running(row, "clone") and _is_of_user(row, user):
            yield CloneInFlight(Task(ref._moId, "clone"), _target(content, row))


def _target(content: Any, row: Row) -> str | None:
    """Return the name of the new VM from the task's event chain; the task has only its source."""
    chain, queued = row.get("info.eventChainId"), row.get("info.queueTime")
    if chain is None or queued is None:
        return None
    query = vim.event.EventFilterSpec(
        eventChainId=chain,
        eventTypeId=list(_CLONE_EVENTS),
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


def _is(row: Row, operation: str) -> bool:
    return row.get("info.descriptionId") == _DESCRIPTION[operation]


def _is_running(row: Row, operation: str) -> bool:
    return _is(row, operation) and row.get("info.state") in ("queued", "running")


def _is_of_user(row: Row, user: str) -> bool:
    """Whether this account started the task; so it is assumed for a task without a user."""
    started_by = getattr(row.get("info.reason"), "userName", user) or ""
    return started_by.lower() == user.lower()


def _queue_time(task: tuple[Any, Row]) -> str:
    return str(task[1].get("info.queueTime", ""))
