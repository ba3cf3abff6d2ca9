"""One PropertyCollector and one update stream for all tasks, VMs and hosts of a command.

    with vsphere.update_stream() as stream:
        stream.follow_tasks({"gpuvm-01": task})
        while stream.follows_any:
            changes = stream.next_changes(30.0)

``WaitForUpdatesEx`` is called at most once a second, with a timeout, so that deadlines hold also
without updates (pyVim's WaitForTask has no timeout).
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim, vmodl

from gpuvm.errors import UnreadableAnswer, VSphereError
from gpuvm.inventory import MoRef
from gpuvm.vsphere.faults import CALL_FAILED, Undecodable, task_failed, translated
from gpuvm.vsphere.properties import HOST_KEYS, Objects, extra_config, property_spec, retrieve
from gpuvm.vsphere.virtual_machines import addresses, host_keys

INTERVAL_S = 1.0
LONGEST_WAIT_S = 10
_TASK_PATHS = ("info.state", "info.progress", "info.result", "info.error")
_HOST_PATHS = ("runtime.connectionState", "runtime.bootTime", "config.pciPassthruInfo")
_VM_PATHS = (
    "runtime.powerState",
    "config.hardware.device",
    "guest.net",
    "guest.toolsRunningStatus",
    HOST_KEYS,
)
_FOLLOWED = (
    (vim.Task, _TASK_PATHS),
    (vim.VirtualMachine, _VM_PATHS),
    (vim.HostSystem, _HOST_PATHS),
)


@dataclass(frozen=True)
class Task:
    """A task that vCenter accepted; ``operation`` is for display."""

    moref: MoRef
    operation: str


@dataclass(frozen=True)
class TaskProgress:
    """``running`` is False while the task is queued in the vCenter."""

    key: str
    operation: str
    fraction: float
    running: bool = True


@dataclass(frozen=True)
class TaskEnded:
    """``error`` is None on success; ``result`` is the moref of the new object, if any."""

    key: str
    operation: str
    result: MoRef | None
    error: VSphereError | None


@dataclass(frozen=True)
class VMChanged:
    key: str
    powered_on: bool
    addresses: tuple[str, ...]
    host_keys: tuple[str, ...]


@dataclass(frozen=True)
class HostChanged:
    """``booted`` is the host's boot time, as text: a new value means that it was rebooted."""

    key: str
    connected: bool
    booted: str
    active: frozenset[str]
    """PCI addresses with active passthrough."""


Change = TaskProgress | TaskEnded | VMChanged | HostChanged


@dataclass
class _Followed:
    """``row`` has all known properties: an update has only those that changed."""

    key: str
    task: Task | None
    row: dict[str, Any]


class UpdateStream:
    """Use it in a ``with`` block, which destroys its collector in the vCenter at the end."""

    def __init__(self, content: Any, reference: Callable[[Any, MoRef], Any]) -> None:
        self._content, self._reference = content, reference
        self._followed: dict[Any, _Followed] = {}
        self._version = ""
        self._last_call = 0.0

    def __enter__(self) -> "UpdateStream":
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the collector with its filters; a lost connection has none."""
        with contextlib.suppress(*CALL_FAILED):
            self._collector.DestroyPropertyCollector()

    def _open(self) -> None:
        with translated("waiting", "the vCenter"):
            self._collector = self._content.propertyCollector.CreatePropertyCollector()

    def follow_tasks(self, tasks: Mapping[str, Task]) -> None:
        """Follow several tasks, with one round trip."""
        refs = {self._reference(vim.Task, task.moref): key for key, task in tasks.items()}
        self._filter(vim.Task, list(refs), _TASK_PATHS)
        for ref, key in refs.items():
            self._followed[ref] = _Followed(key, tasks[key], {})

    def follow_vms(self, vms: Mapping[str, MoRef]) -> None:
        refs = {self._reference(vim.VirtualMachine, moref): key for key, moref in vms.items()}
        self._filter(vim.VirtualMachine, list(refs), _VM_PATHS)
        for ref, key in refs.items():
            self._followed[ref] = _Followed(key, None, {})

    def follow_host(self, key: str, host: MoRef) -> None:
        ref = self._reference(vim.HostSystem, host)
        self._filter(vim.HostSystem, [ref], _HOST_PATHS)
        self._followed[ref] = _Followed(key, None, {})

    def unfollow(self, key: str) -> None:
        """Ignore further changes of this key; its filter stays until the end."""
        self._followed = {ref: f for ref, f in self._followed.items() if f.key != key}

    @property
    def follows_any(self) -> bool:
        return bool(self._followed)

    def next_changes(self, wait_s: float) -> list[Change]:
        """Return the changes of the next update; none after about ``wait_s`` seconds without one.

        At most one call a second, and none that waits longer than LONGEST_WAIT_S.
        """
        pause = self._last_call + INTERVAL_S - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        seconds = max(1, int(min(wait_s, LONGEST_WAIT_S)))
        options = vmodl.query.PropertyCollector.WaitOptions(maxWaitSeconds=seconds)
        with translated("waiting", "the vCenter"):
            try:
                update = self._collector.WaitForUpdatesEx(version=self._version, options=options)
            except (vmodl.fault.ManagedObjectNotFound, vmodl.query.InvalidCollectorVersion):
                self._open_again()
                return []
            except Undecodable:
                self._last_call = time.monotonic()
                return self._read_and_restart()
        self._last_call = time.monotonic()
        if update is None:
            return []
        self._version = update.version
        objects = [o for one in update.filterSet or () for o in one.objectSet or ()]
        missing = [m.obj for one in update.filterSet or () for m in one.missingSet or ()]
        changes = [self._changed(o) for o in objects]
        changes += [self._deleted(ref) for ref in missing]
        return [change for change in changes if change is not None]

    def _filter(self, kind: Any, refs: list[Any], paths: tuple[str, ...]) -> None:
        if not refs:
            return
        query = vmodl.query.PropertyCollector
        spec = query.FilterSpec(
            objectSet=[query.ObjectSpec(obj=ref) for ref in refs],
            propSet=[property_spec(kind, paths, self._content.propertyCollector._stub.version)],
            reportMissingObjectsInResults=True,
        )
        with translated("waiting", "the vCenter"):
            try:
                self._collector.CreateFilter(spec=spec, partialUpdates=False)
            except vmodl.fault.ManagedObjectNotFound:
                self._open_again()
                self._collector.CreateFilter(spec=spec, partialUpdates=False)

    def _open_again(self) -> None:
        """Replace a collector that ended with its session; all current values come again."""
        self._version = ""
        self._open()
        for kind, paths in _FOLLOWED:
            self._filter(kind, self._refs(kind), paths)

    def _refs(self, kind: Any) -> list[Any]:
        return [ref for ref in self._followed if isinstance(ref, kind)]

    def _read_and_restart(self) -> list[Change]:
        """Read the current state, without what cannot be decoded, and start a new stream.

        The old stream would repeat the update that cannot be decoded.
        """
        rows = retrieve(
            self._content,
            [
                Objects(vim.Task, self._refs(vim.Task), _TASK_PATHS),
                Objects(vim.VirtualMachine, self._refs(vim.VirtualMachine), _VM_PATHS),
                Objects(vim.HostSystem, self._refs(vim.HostSystem), _HOST_PATHS),
            ],
        )
        changes = [
            self._updated(ref, rows[ref]) if ref in rows else self._deleted(ref)
            for ref in list(self._followed)
        ]
        with contextlib.suppress(*CALL_FAILED):
            self._collector.DestroyPropertyCollector()
        self._open_again()
        return [change for change in changes if change is not None]

    def _changed(self, update: Any) -> Change | None:
        followed = self._followed.get(update.obj)
        if followed is None:
            return None
        if update.kind == "leave":
            return self._deleted(update.obj)
        return self._updated(update.obj, {one.name: one.val for one in update.changeSet or ()})

    def _updated(self, ref: Any, values: Mapping[str, Any]) -> Change:
        followed = self._followed[ref]
        followed.row.update(values)
        if isinstance(ref, vim.HostSystem):
            return _host_changed(followed.key, followed.row)
        if followed.task is None:
            return _vm_changed(followed.key, followed.row)
        return self._task_changed(ref, followed.key, followed.task, followed.row)

    def _task_changed(self, ref: Any, key: str, task: Task, row: dict[str, Any]) -> Change:
        state = str(row.get("info.state"))
        if state not in ("success", "error"):
            fraction = (row.get("info.progress") or 0) / 100
            return TaskProgress(key, task.operation, fraction, running=state == "running")
        del self._followed[ref]
        if state == "error":
            return TaskEnded(key, task.operation, None, _failure(key, task, row.get("info.error")))
        result = row.get("info.result")
        return TaskEnded(key, task.operation, getattr(result, "_moId", None), None)

    def _deleted(self, ref: Any) -> Change | None:
        """A vCenter deletes tasks some minutes after their end; the result is then unknown."""
        followed = self._followed.pop(ref, None)
        if followed is None:
            return None
        operation = followed.task.operation if followed.task else "waiting"
        error = VSphereError(f"{followed.key}: {operation}: it vanished from the vCenter")
        return TaskEnded(followed.key, operation, None, error)


def _failure(key: str, task: Task, problem: Any) -> VSphereError:
    if problem is None:  # left out because it cannot be decoded
        return UnreadableAnswer(
            f"{key}: {task.operation} failed, and the vCenter's reason cannot be decoded",
            hint="see the recent tasks in the vSphere Client",
        )
    text = getattr(problem, "localizedMessage", None) or getattr(problem, "msg", "") or ""
    return task_failed(task.operation, key, problem, text)


def _vm_changed(key: str, row: dict[str, Any]) -> VMChanged:
    devices = row.get("config.hardware.device") or ()
    tools = row.get("guest.toolsRunningStatus")
    return VMChanged(
        key=key,
        powered_on=row.get("runtime.powerState") == "poweredOn",
        addresses=addresses(devices, row.get("guest.net") or (), tools),
        host_keys=host_keys(extra_config({k: v for k, v in row.items() if v is not None})),
    )


def _host_changed(key: str, row: dict[str, Any]) -> HostChanged:
    infos = row.get("config.pciPassthruInfo") or ()
    return HostChanged(
        key=key,
        connected=str(row.get("runtime.connectionState")) == "connected",
        booted=str(row.get("runtime.bootTime")),
        active=frozenset(info.id for info in infos if info.passthruEnabled and info.passthruActive),
    )
