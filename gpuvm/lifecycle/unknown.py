"""A call whose answer never came: what is there now decides, and nothing is submitted blindly."""

import abc
from collections.abc import Callable, Sequence

from gpuvm.errors import GpuvmError, OutcomeUnknown, TaskFailed
from gpuvm.lifecycle import looking
from gpuvm.lifecycle.giving_up import GivingUp
from gpuvm.lifecycle.machine import Machine, Stage
from gpuvm.vsphere import Task

# Faults that say that somebody else did, or does, the very thing.
_TWICE: dict[Stage, tuple[str, ...]] = {
    "clone": ("DuplicateName",),
    "configure": ("TaskInProgress",),
    "power_on": ("InvalidPowerState", "TaskInProgress"),
}
LOOK_S, LOOK_SELDOM_S = 1.0, 10.0
"""How long until the clones that are under way are looked at again: longer each time."""


class Unknown(GivingUp, abc.ABC):
    @abc.abstractmethod
    def configure(self, machines: Sequence[Machine]) -> None: ...

    @abc.abstractmethod
    def powered_on(self, machines: Sequence[Machine]) -> None: ...

    def done_twice(self, machine: Machine, error: GpuvmError) -> bool:
        """Another gpuvm, or an earlier one that was killed, may have done it: that is success."""
        if not isinstance(error, TaskFailed) or error.fault not in _TWICE.get(machine.stage, ()):
            return False
        if machine.stage != "clone" and machine.stage in machine.looked_up:
            return False
        self.look_up(machine, error)
        return True

    def look_up(self, machine: Machine, error: GpuvmError) -> None:
        """What is there now decides; of changes once in each stage, then the error stands."""
        again: dict[Stage, Callable[[Machine, GpuvmError], None]] = {
            "clone": self._look_up_clone,
            "move": self._look_up_change,
            "configure": self._look_up_change,
            "power_on": self._look_up_power_on,
            "remove": self._look_up_removal,
        }
        if machine.stage in machine.looked_up and machine.stage not in ("clone", "remove"):
            self.give_up(machine, error)
            return
        machine.looked_up.add(machine.stage)
        self.events.note("looking up what became of it", machine.name)
        with self.failures_of(machine):
            again[machine.stage](machine, error)

    def _look_up_clone(self, machine: Machine, error: GpuvmError, pause_s: float = LOOK_S) -> None:
        """Begins anew only when no clone is left that may be it, and at most once."""
        known = {m.task.moref for m in self.machines.values() if m.task is not None}
        if looking.clone_may_come(self.vsphere, machine, known):
            longer = min(2 * pause_s, LOOK_SELDOM_S)
            self.later(machine, pause_s, lambda: self._look_up_clone(machine, error, longer))
            return
        found = self.vsphere.find_in_folder(machine.request.folder, machine.name)
        if found:
            machine.moref = found
            self.finish(machine)
            self.configure([machine])
        elif isinstance(error, OutcomeUnknown) and not machine.resubmitted:
            machine.resubmitted = True
            self.follow({machine.name: self.vsphere.start_clone(machine.request)})
        else:
            self.give_up(machine, error)

    def _look_up_change(self, machine: Machine, _: GpuvmError) -> None:
        """What differs now is changed; a task that still works on it is waited for."""
        operation = "move" if machine.stage == "move" else "reconfigure"
        tasks = self.vsphere.running_tasks(machine.moref, operation)
        if tasks:
            self.follow({machine.name: tasks[0]})
        else:
            self.finish(machine)
            self.configure([machine])

    def _look_up_power_on(self, machine: Machine, error: GpuvmError) -> None:
        found = looking.for_power_on(self.vsphere, machine)
        if isinstance(found, Task):
            self.follow({machine.name: found})
        elif found:
            self.finish(machine)
            self.powered_on([machine])
        elif isinstance(error, OutcomeUnknown):
            self.follow({machine.name: self.vsphere.start_power_on(machine.moref)})
        else:
            self.give_up(machine, error)

    def _look_up_removal(self, machine: Machine, _: GpuvmError) -> None:
        tasks = self.vsphere.running_tasks(machine.moref, "destroy")
        if tasks:
            self.follow({machine.name: tasks[0]})
        elif not self.vsphere.read_vms([machine.moref]):
            self.removed([machine])
        else:
            self.leave(machine)
