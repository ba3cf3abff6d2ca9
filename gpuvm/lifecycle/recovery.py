"""What a provisioning does when something goes wrong: look, try elsewhere, clean up, go on."""

import abc
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from gpuvm.errors import (
    GpuvmError,
    Interrupted,
    OutcomeUnknown,
    TaskFailed,
    Unreachable,
    VSphereError,
)
from gpuvm.events import Events
from gpuvm.lifecycle import competing, deadlines, looking
from gpuvm.lifecycle.course import Course
from gpuvm.lifecycle.machine import Machine, Stage
from gpuvm.lifecycle.until import Until
from gpuvm.planner import Plan, Step
from gpuvm.vsphere import Task, VSphere

# Faults that say that somebody else did, or does, the very thing.
_TWICE: dict[Stage, tuple[str, ...]] = {
    "clone": ("DuplicateName",),
    "configure": ("TaskInProgress",),
    "power_on": ("InvalidPowerState", "TaskInProgress"),
}


class Recovery(Course, abc.ABC):
    """One VM's failure is that VM's alone; the stages are those of the provisioning itself."""

    def __init__(
        self, plan: Plan, vsphere: VSphere, events: Events, until: Until, *, keep_failed: bool
    ) -> None:
        super().__init__(plan, vsphere, events, until)
        self.keep_failed = keep_failed

    @abc.abstractmethod
    def new_machine(self, step: Step) -> Machine: ...

    @abc.abstractmethod
    def clone(self, machines: Sequence[Machine]) -> None: ...

    @abc.abstractmethod
    def configure(self, machines: Sequence[Machine]) -> None: ...

    @abc.abstractmethod
    def await_address(self, machines: Sequence[Machine]) -> None: ...

    @contextlib.contextmanager
    def failures_of(self, machine: Machine) -> Iterator[None]:
        """A call that is refused fails this VM alone; one without an answer is looked up."""
        try:
            yield
        except OutcomeUnknown as error:
            self._look_up(machine, error)
        except GpuvmError as error:
            self.failed(machine, error)

    def failed(self, machine: Machine, error: GpuvmError) -> None:
        """What the VM's task, or the call that should have begun it, ended in."""
        if self._already_so(machine, error):
            return
        if machine.stage == "power_on":
            self.lost(machine, error)
        elif machine.stage == "remove":
            machine.left = True
            self.done(machine)
        else:
            self._give_up(machine, error)

    def lost(self, machine: Machine, error: GpuvmError) -> None:
        """Somebody quicker may have the GPU: once more on a free one, else the VM goes."""
        if competing.may_be_lost(error):
            inventory = self.vsphere.read_inventory(
                cluster=self.plan.cluster.path,
                folder=self.plan.spec.folder,
                resource_pool=self.plan.spec.resource_pool,
            )
            error = competing.holder_of(machine.step, inventory, machine.moref) or error
            if machine.created and not machine.replanned:
                promised = self._promised(machine)
                machine.then = competing.elsewhere(
                    self.plan, machine.step, inventory, promised, machine.moref
                )
        self._give_up(machine, error)

    def removed(self, machines: Sequence[Machine]) -> None:
        again = []
        for machine in machines:
            self.done(machine)
            if machine.then is not None:
                self.events.note(f"once more on {machine.then.host.name}", machine.name)
                retry = replace(self.new_machine(machine.then), replanned=True)
                self.machines[machine.name] = retry
                again.append(retry)
        self.clone(again)

    def cloned(self, machine: Machine) -> bool:
        """Whether the task that ended was this VM's clone; one that was looked up may be not."""
        if "clone" not in machine.looked_up:
            return True
        found = self.vsphere.find_in_folder(machine.request.folder, machine.name)
        machine.moref = found or ""
        if not found:
            with self.failures_of(machine):
                self.follow({machine.name: self.vsphere.start_clone(machine.request)})
        return bool(found)

    def expire(self) -> None:
        """Ends the waiting for VMs whose deadline has passed; they stay, to be looked at."""
        late = [machine for machine in self.machines.values() if self.left(machine) <= 0]
        if not late:
            return
        now = self.vsphere.read_vms([machine.moref for machine in late if machine.moref])
        asked = {vm.moref: vm.question for vm in now}
        for machine in late:
            waited, question = self.deadlines[machine.stage], asked.get(machine.moref, "")
            self.board.forget(machine.name)
            self.finish(machine, ok=False)
            machine.error = deadlines.late(machine, waited, question)
            machine.left = bool(machine.moref)
            self.done(machine)

    def cut_off(self, error: Unreachable) -> None:
        """The vCenter is gone for good: what was under way is unknown, and said so."""
        for machine in self.machines.values():
            if machine.stage not in ("ready", "done"):
                self.finish(machine, ok=False)
                machine.error = machine.error or error
                machine.left = bool(machine.moref or machine.created)
                self.done(machine)

    def interrupted(self) -> Interrupted:
        """Stops what can be stopped; what exists carries our mark and is named."""
        for machine in self.machines.values():
            if machine.task is not None:
                with contextlib.suppress(VSphereError):
                    self.vsphere.cancel(machine.task)
        left = [m.name for m in self.machines.values() if m.moref or m.task]
        return Interrupted(
            "interrupted; these VMs exist or were being made: " + (", ".join(left) or "none"),
            left=left,
            hint=f"continue with 'gpuvm provision --hosts {self.plan.spec.hosts}', "
            "or remove them with 'gpuvm teardown'",
        )

    def _already_so(self, machine: Machine, error: GpuvmError) -> bool:
        """Another gpuvm, or an earlier one that was killed, may have done it: that is success."""
        if not isinstance(error, TaskFailed) or machine.stage in machine.looked_up:
            return False
        if error.fault not in _TWICE.get(machine.stage, ()):
            return False
        self._look_up(machine, error)
        return True

    def _look_up(self, machine: Machine, error: GpuvmError) -> None:
        """What is there now decides; once in each stage, then the error stands."""
        again = {
            "clone": self._look_up_clone,
            "move": self._look_up_change,
            "configure": self._look_up_change,
            "power_on": self._look_up_power_on,
            "remove": self._look_up_removal,
        }
        if machine.stage in machine.looked_up and machine.stage != "remove":
            self._give_up(machine, error)
            return
        machine.looked_up.add(machine.stage)
        self.events.note("looking up what became of it", machine.name)
        with self.failures_of(machine):
            again[machine.stage](machine, error)

    def _look_up_clone(self, machine: Machine, error: GpuvmError) -> None:
        known = {m.task.moref for m in self.machines.values() if m.task is not None}
        found = looking.for_clone(self.vsphere, machine, known)
        if isinstance(found, Task):
            self.follow({machine.name: found})
        elif found is not None:
            machine.moref = found
            self.finish(machine)
            self.configure([machine])
        elif isinstance(error, OutcomeUnknown):
            self.follow({machine.name: self.vsphere.start_clone(machine.request)})
        else:
            self._give_up(machine, error)

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
            self.await_address([machine])
        elif isinstance(error, OutcomeUnknown):
            self.follow({machine.name: self.vsphere.start_power_on(machine.moref)})
        else:
            self._give_up(machine, error)

    def _look_up_removal(self, machine: Machine, _: GpuvmError) -> None:
        tasks = self.vsphere.running_tasks(machine.moref, "destroy")
        if tasks:
            self.follow({machine.name: tasks[0]})
        elif not self.vsphere.read_vms([machine.moref]):
            self.removed([machine])
        else:
            machine.left = True
            self.done(machine)

    def _promised(self, lost: Machine) -> set[tuple[str, str]]:
        others = [m.then or m.step for m in self.machines.values() if m is not lost]
        return {(step.runs_on.name, gpu.pci_address) for step in others for gpu in step.gpus}

    def _give_up(self, machine: Machine, error: GpuvmError) -> None:
        """Removes the VM again if this call created it; one that was there before stays."""
        self.finish(machine, ok=False)
        machine.error = error
        remove = machine.created and machine.moref and not (self.keep_failed and not machine.then)
        if not remove:
            machine.left = bool(machine.moref)
            self.done(machine)
            return
        machine.enter("remove")
        with self.failures_of(machine):
            self.follow({machine.name: self.vsphere.start_destroy(machine.moref)})
