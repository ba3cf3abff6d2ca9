"""Creating a snapshot of a template, which must be a VM meanwhile, and recognising one that is.

Only the name and the notes of a template can be changed, so a line in its notes marks it. The line
includes the VM's own id: in a copy, which inherits the notes, it has no effect.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from gpuvm.inventory import MoRef
from gpuvm.vsphere.faults import submitted
from gpuvm.vsphere.properties import Objects, Row, retrieve, retrieve_all
from gpuvm.vsphere.updates import Task

ANNOTATION = "config.annotation"
_NOTE = "gpuvm makes a snapshot of this template ({}): until then it is a VM"
_OFF = "poweredOff"
_PATHS = ("config.template", "snapshot", ANNOTATION)
_UNFINISHED_PATHS = ("name", "config.template", "runtime.powerState", ANNOTATION)


@dataclass(frozen=True)
class TemplateState:
    """``noted``: gpuvm is creating its snapshot, or was killed meanwhile."""

    is_template: bool
    has_snapshot: bool
    noted: bool


class TemplateHandle:
    """The calls for one template, one or two round trips each; none waits for a task."""

    def __init__(
        self, content: Any, reference: Callable[[Any, MoRef], Any], moref: MoRef, name: str
    ) -> None:
        self._content, self._reference, self.name = content, reference, name
        self._vm = reference(vim.VirtualMachine, moref)

    def state(self) -> TemplateState:
        row = self._read()
        return TemplateState(
            is_template=bool(row.get("config.template")),
            has_snapshot=row.get("snapshot") is not None,
            noted=has_note(self._vm, row),
        )

    def start_noting(self, *, noted: bool) -> Task:
        """Add the line to the notes, or remove it; the other lines stay."""
        note = _note(self._vm)
        lines = (self._read().get(ANNOTATION) or "").splitlines()
        kept = [line for line in lines if line != note]
        spec = vim.vm.ConfigSpec(annotation="\n".join([*kept, note] if noted else kept))
        with submitted("noting the snapshot", self.name):
            return Task(self._vm.ReconfigVM_Task(spec=spec)._moId, "reconfigure")

    def start_snapshot(self, snapshot: str) -> Task:
        """Start a snapshot without memory, for linked clones."""
        with submitted("snapshot", self.name):
            task = self._vm.CreateSnapshot_Task(
                name=snapshot,
                description="Linked clones are created from this snapshot. Removing it does not "
                "break them, but no new ones can be created.",
                memory=False,
                quiesce=False,
            )
        return Task(task._moId, "snapshot")

    def mark_as_vm(self, host: MoRef, pool: MoRef) -> None:
        with submitted("marking as a VM", self.name):
            self._vm.MarkAsVirtualMachine(
                pool=self._reference(vim.ResourcePool, pool),
                host=self._reference(vim.HostSystem, host),
            )

    def mark_as_template(self) -> None:
        with submitted("marking as a template", self.name):
            self._vm.MarkAsTemplate()

    def _read(self) -> Row:
        wanted = [Objects(vim.VirtualMachine, [self._vm], _PATHS)]
        return retrieve(self._content, wanted).get(self._vm, {})


def has_note(vm: Any, row: Row) -> bool:
    """Return whether the notes have the line with this VM's id; ``row`` has ANNOTATION."""
    return _note(vm) in (row.get(ANNOTATION) or "").splitlines()


def is_unfinished(vm: Any, row: Row) -> bool:
    """Return whether the VM is a noted template; one that was powered on since is not."""
    return has_note(vm, row) and row.get("runtime.powerState") == _OFF


def find_unfinished(content: Any) -> dict[MoRef, str]:
    """Return the names of templates in the whole vCenter that are VMs now."""
    found = retrieve_all(content, [(vim.VirtualMachine, _UNFINISHED_PATHS)])
    return {
        vm._moId: row.get("name", vm._moId)
        for vm, row in found.items()
        if is_unfinished(vm, row) and not row.get("config.template")
    }


def _note(vm: Any) -> str:
    return _NOTE.format(vm._moId)
