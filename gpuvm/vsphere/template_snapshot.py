"""A template that is a VM for the moment that its snapshot takes, and how it is known meanwhile.

vCenter changes nothing of a template but its name and its notes, so it is a line of its notes that
says what is going on. It carries the VM's own id: a copy inherits the line, and there it says
nothing.
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
    """``noted``: a gpuvm makes its snapshot, or was killed while it did."""

    is_template: bool
    has_snapshot: bool
    noted: bool


class TemplateHandle:
    """What is done with one template; each call is a round trip or two, and nothing here waits."""

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
            noted=says(self._vm, row),
        )

    def start_noting(self, *, noted: bool) -> Task:
        """Adds the line to the notes, or takes it out; the rest of them stays."""
        note = _note(self._vm)
        lines = (self._read().get(ANNOTATION) or "").splitlines()
        kept = [line for line in lines if line != note]
        spec = vim.vm.ConfigSpec(annotation="\n".join([*kept, note] if noted else kept))
        with submitted("noting the snapshot", self.name):
            return Task(self._vm.ReconfigVM_Task(spec=spec)._moId, "reconfigure")

    def start_snapshot(self, snapshot: str) -> Task:
        """Without memory, for linked clones to be made from."""
        with submitted("snapshot", self.name):
            task = self._vm.CreateSnapshot_Task(
                name=snapshot,
                description="Linked clones are made from this snapshot: removing it breaks none of "
                "them, but no new one can be made.",
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


def says(vm: Any, row: Row) -> bool:
    """Whether the notes of this very VM say that it is a template; ``row`` has ANNOTATION."""
    return _note(vm) in (row.get(ANNOTATION) or "").splitlines()


def is_unfinished(vm: Any, row: Row) -> bool:
    """A template that is a VM now; one that somebody powered on meanwhile is theirs."""
    return says(vm, row) and row.get("runtime.powerState") == _OFF


def find_unfinished(content: Any) -> dict[MoRef, str]:
    """Names of the templates that are VMs now, wherever in the vCenter they are."""
    found = retrieve_all(content, [(vim.VirtualMachine, _UNFINISHED_PATHS)])
    return {
        vm._moId: row.get("name", vm._moId)
        for vm, row in found.items()
        if is_unfinished(vm, row) and not row.get("config.template")
    }


def _note(vm: Any) -> str:
    return _NOTE.format(vm._moId)
