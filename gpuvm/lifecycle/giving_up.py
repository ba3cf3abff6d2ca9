"""A VM is given up: what this call made goes again, everything else stays and is named."""

import abc
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from gpuvm.errors import GpuvmError
from gpuvm.events import Events
from gpuvm.lifecycle import looking
from gpuvm.lifecycle.course import Course
from gpuvm.lifecycle.machine import Machine
from gpuvm.lifecycle.result import Until
from gpuvm.planner import Plan, Step
from gpuvm.vsphere import VSphere


class GivingUp(Course, abc.ABC):
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
    def failures_of(self, machine: Machine) -> AbstractContextManager[None]: ...

    def give_up(self, machine: Machine, error: GpuvmError) -> None:
        """Removes the VM again if this call created it; one that was there before stays."""
        self.stream.forget(machine.name)
        self.finish(machine, ok=False)
        machine.error = error
        kept = self.keep_failed and not machine.then
        if machine.created and machine.moref and not kept:
            self._remove(machine)
        else:
            self.leave(machine)

    def leave(self, machine: Machine) -> None:
        """Named as left, unless it is known to be a stranger's."""
        stranger = machine.vm is not None and machine.vm.ownership == "other"
        machine.left = bool(machine.moref) and not stranger
        self.done(machine)

    def removed(self, machines: Sequence[Machine]) -> None:
        again = []
        for machine in machines:
            machine.moref = ""
            self.done(machine)
            if machine.then is not None:
                again.append(self._once_more(machine, machine.then))
        self.clone(again)

    def _remove(self, machine: Machine) -> None:
        """A name or an id may have come to mean another VM: looks once more, just before."""
        machine.enter("remove")
        with self.failures_of(machine):
            now = next(iter(self.vsphere.read_vms([machine.moref])), None)
            if now is None:
                self.removed([machine])
                return
            why_not = looking.why_not_removed(machine, now)
            if why_not is None:
                self.follow({machine.name: self.vsphere.start_destroy(machine.moref)})
                return
            self.events.warning(f"{machine.name} is not removed: {why_not}", machine.name)
            machine.vm = now
            self.leave(machine)

    def _once_more(self, machine: Machine, step: Step) -> Machine:
        self.events.note(f"once more on {step.host.name}", machine.name)
        elsewhere = step is not machine.step
        retry = replace(
            self.new_machine(step),
            replanned=machine.replanned or elsewhere,
            tries=machine.tries,
        )
        self.machines[machine.name] = retry
        return retry
