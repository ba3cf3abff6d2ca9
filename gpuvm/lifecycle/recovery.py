"""What a provisioning does when something goes wrong: try again, go elsewhere, clean up, go on."""

import abc
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from typing_extensions import override

from gpuvm.errors import (
    GpuvmError,
    Interrupted,
    OutcomeUnknown,
    TaskFailed,
    Unreachable,
    VSphereError,
)
from gpuvm.inventory import Inventory
from gpuvm.lifecycle import competing, deadlines, looking
from gpuvm.lifecycle.machine import Machine, Stage
from gpuvm.lifecycle.result import continue_hint
from gpuvm.lifecycle.unknown import LOOK_S, Unknown
from gpuvm.vsphere import Diagnosis, Task

T = TypeVar("T")

# Pauses before the next try, after a fault on the way from the vCenter to a host.
_PAUSES_S: dict[Stage, tuple[float, ...]] = {"clone": (2.0,), "power_on": (1.0, 3.0)}


class Recovery(Unknown, abc.ABC):
    """One VM's failure is that VM's alone; the stages are those of the provisioning itself."""

    @abc.abstractmethod
    def power_on(self, machines: Sequence[Machine]) -> None: ...

    @override
    @contextlib.contextmanager
    def failures_of(self, machine: Machine) -> Iterator[None]:
        """A call that is refused fails this VM alone; one without an answer is looked up.

        Reads are repeated before that: one that is Unreachable says that the vCenter is gone.
        """
        try:
            yield
        except OutcomeUnknown as error:
            self.look_up(machine, error)
        except Unreachable:
            raise
        except GpuvmError as error:
            self.failed(machine, error)

    def read_for(
        self, machines: Sequence[Machine], stage: Stage, read: Callable[[], T]
    ) -> T | None:
        """What these VMs need to know; that the vCenter refuses to tell is each one's failure."""
        try:
            return read()
        except Unreachable:
            raise
        except GpuvmError as error:
            for machine in machines:
                self.enter(machine, stage)
                self.failed(machine, error)
            return None

    def failed(self, machine: Machine, error: GpuvmError) -> None:
        """What the VM's task, or the call that should have begun it, ended in."""
        if machine.cancelled and machine.stage == "clone":
            machine.follow(None)
            self._too_late(machine)
        elif self.done_twice(machine, error):
            return
        elif machine.stage == "power_on":
            self._power_on_failed(machine, error)
        elif machine.stage == "remove":
            self.leave(machine)
        elif machine.stage == "clone":
            self._clone_failed(machine, error)
        else:
            self.give_up(machine, error)

    def lost(self, machine: Machine, error: GpuvmError) -> None:
        """Somebody quicker may have the GPU: once more on a free one, else the VM goes."""
        if competing.may_be_lost(error):
            with if_told():
                inventory = self._read_inventory()
                if looking.is_being_taken(self.vsphere, machine, inventory):
                    self.later(machine, LOOK_S, lambda: self.lost(machine, error))
                    return
                error = self._look_for_another(machine, inventory) or error
        self.give_up(machine, error)

    def take_up(self) -> None:
        """VMs whose pause is over go on."""
        for machine in list(self.machines.values()):
            later = machine.later
            if later is not None and later.at <= time.monotonic():
                machine.later = None
                with self.failures_of(machine):
                    later.then()

    def expire(self) -> None:
        """Ends the waiting for VMs whose deadline has passed; they stay, to be looked at."""
        late = [machine for machine in self.machines.values() if self.left(machine) <= 0]
        now = self._diagnosis(late)
        for machine in late:
            error = deadlines.late(machine, self.deadlines[machine.stage], now.get(machine.moref))
            machine.error = machine.error or error
            if machine.stage == "clone" and machine.task and not machine.cancelled:
                self._cancel(machine, machine.task)
            else:
                self._too_late(machine)

    def cut_off(self, error: GpuvmError) -> None:
        """The vCenter is gone for good: what was under way is unknown, and said so."""
        for machine in self.machines.values():
            if machine.stage not in ("ready", "done"):
                self.finish(machine, ok=False)
                machine.error = machine.error or error
                machine.left = bool(machine.moref or machine.changed)
                self.done(machine)

    def interrupted(self) -> Interrupted:
        """Stops what can be stopped; what exists carries our mark and is named."""
        for machine in self.machines.values():
            if machine.task is not None and machine.stage not in machine.looked_up:
                with contextlib.suppress(VSphereError):
                    self.vsphere.cancel(machine.task)
        left = [m.name for m in self.machines.values() if m.moref or m.task or m.later]
        return Interrupted(
            "interrupted; these VMs exist or were being made: " + (", ".join(left) or "none"),
            left=left,
            hint=continue_hint(self.plan, more=self.until != "ready" or self.keep_failed),
        )

    def _may_try_again(self, machine: Machine, error: GpuvmError) -> float | None:
        """After which pause: only what broke on the way to the host; a refusal stays one."""
        pauses = _PAUSES_S[machine.stage][machine.tries[machine.stage] :]
        if not pauses or not isinstance(error, TaskFailed) or not error.transient:
            return None
        machine.tries[machine.stage] += 1
        self.events.note(f"once more in {pauses[0]:g} s: {error}", machine.name)
        return pauses[0]

    def _power_on_failed(self, machine: Machine, error: GpuvmError) -> None:
        pause_s = self._may_try_again(machine, error)
        if pause_s is None:
            self.lost(machine, error)
            return
        self.finish(machine, ok=False)
        self.later(machine, pause_s, lambda: self.power_on([machine]))

    def _clone_failed(self, machine: Machine, error: GpuvmError) -> None:
        """Mostly vCenter removes what it had made by then; what it left is found by its mark."""
        self._find_made(machine)
        pause_s = self._may_try_again(machine, error)
        if pause_s is not None and not machine.moref:
            self.finish(machine, ok=False)
            self.later(machine, pause_s, lambda: self.clone([machine]))
            return
        machine.then = machine.step if pause_s is not None else None
        self.give_up(machine, error)

    def _read_inventory(self) -> Inventory:
        return self.vsphere.read_inventory(
            cluster=self.plan.cluster.path,
            folder=self.plan.spec.folder,
            resource_pool=self.plan.spec.resource_pool,
        )

    def _look_for_another(self, machine: Machine, inventory: Inventory) -> GpuvmError | None:
        """Sets where the VM goes instead, if it may; returns what names the holder, if one does."""
        if machine.created and not machine.replanned:
            promised = self._promised(machine)
            machine.then = competing.elsewhere(
                self.plan, machine.step, inventory, promised, machine.moref
            )
        return competing.holder_of(machine.step, inventory, machine.moref)

    def _promised(self, lost: Machine) -> set[tuple[str, str]]:
        others = [m.then or m.step for m in self.machines.values() if m is not lost]
        return {(step.runs_on.name, gpu.pci_address) for step in others for gpu in step.gpus}

    def _diagnosis(self, late: Sequence[Machine]) -> dict[str, Diagnosis]:
        morefs = [machine.moref for machine in late if machine.moref]
        with if_told():
            return {now.moref: now for now in self.vsphere.read_diagnosis(morefs)} if morefs else {}
        return {}

    def _cancel(self, machine: Machine, task: Task) -> None:
        """Its end is waited for, so that no VM comes of it when nobody looks any more."""
        machine.cancelled, machine.since = True, time.monotonic()
        try:
            self.vsphere.cancel(task)
        except VSphereError:
            self._too_late(machine)

    def _too_late(self, machine: Machine) -> None:
        """What exists, or is being made beyond our reach, is named; it stays, to be looked at."""
        unseen = machine.later is not None and "clone" in machine.looked_up
        may_come = machine.stage == "clone" and (machine.task is not None or unseen)
        if machine.stage == "clone":
            self._find_made(machine)
        self.stream.forget(machine.name)
        self.finish(machine, ok=False)
        machine.left = bool(machine.moref) or may_come
        self.done(machine)

    def _find_made(self, machine: Machine) -> None:
        with if_told():
            found = None if machine.moref else looking.made(self.vsphere, machine)
            if found is not None:
                machine.vm, machine.moref, machine.created = found, found.moref, True


@contextlib.contextmanager
def if_told() -> Iterator[None]:
    """What the vCenter refuses to tell stays unknown; only one that is gone ends the work."""
    try:
        yield
    except Unreachable:
        raise
    except GpuvmError:
        return
