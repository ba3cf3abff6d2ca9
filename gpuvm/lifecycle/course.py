"""The bookkeeping of a provisioning: which VM is where, since when, with which task."""

import time
from collections.abc import Callable, Mapping

from gpuvm.events import Events
from gpuvm.lifecycle import deadlines
from gpuvm.lifecycle.machine import Later, Machine, Stage
from gpuvm.lifecycle.result import Outcome, Until
from gpuvm.planner import Plan
from gpuvm.vsphere import Task, UpdateStream, VSphere

SOON_S = 1.0


class Course:
    """``stream`` is open while VMs are under way."""

    stream: UpdateStream

    def __init__(self, plan: Plan, vsphere: VSphere, events: Events, until: Until) -> None:
        self.plan, self.vsphere, self.events, self.until = plan, vsphere, events, until
        self.machines: dict[str, Machine] = {}
        self.deadlines = deadlines.of(plan.spec.deadlines)

    def follow(self, tasks: Mapping[str, Task]) -> None:
        for name, task in tasks.items():
            self.machines[name].follow(task)
        if tasks:
            self.stream.follow_tasks(tasks)

    def later(self, machine: Machine, pause_s: float, then: Callable[[], None]) -> None:
        """The wait loop goes on with the others meanwhile."""
        machine.later = Later(time.monotonic() + pause_s, then)

    def waiting(self) -> bool:
        return any(machine.later for machine in self.machines.values())

    def enter(self, machine: Machine, stage: Stage) -> None:
        machine.enter(stage)
        self.events.start(stage, machine.name)

    def finish(self, machine: Machine, *, ok: bool = True) -> None:
        """Of the present stage; the next one, or ``done``, follows."""
        if machine.stage not in ("remove", "done"):
            self.events.end(machine.stage, machine.seconds(), machine.name, ok=ok)
        machine.follow(None)

    def done(self, machine: Machine) -> None:
        machine.stage = "done"
        machine.follow(None)
        self.events.progress(machine.name, "done", 1.0)

    def left(self, machine: Machine) -> float:
        """Seconds to the present deadline; what waits in the vCenter's queue has all of it."""
        if machine.cancelled and machine.stage == "clone":
            return deadlines.CANCEL_S - machine.waited()
        return self.deadlines.get(machine.stage, float("inf")) - machine.waited()

    def time_left(self) -> float:
        """Seconds until something is due without news: a deadline, or an address to be trusted."""
        machines = self.machines.values()
        due = [self.left(machine) for machine in machines if not machine.queued]
        due += [SOON_S for m in machines if m.stage == "address" and m.seen]
        due += [SOON_S for m in machines if m.check and not m.check.settled]
        due += [m.later.at - time.monotonic() for m in machines if m.later]
        return max(0.0, min(due, default=float("inf")))

    def outcome(self, machine: Machine) -> Outcome:
        return Outcome(
            name=machine.name,
            host=machine.vm.host if machine.vm and machine.vm.host else machine.step.host.name,
            state="failed" if machine.error else self.until,
            changed=machine.changed,
            address=machine.vm.address if machine.vm else None,
            gpus=_gpus(machine),
            error=machine.error,
            left=machine.left,
            warnings=machine.ready.warnings if machine.ready else (),
        )


def _gpus(machine: Machine) -> tuple[str, ...]:
    """Those that the VM was given, where that is known, else those that the plan counts on."""
    given = tuple(filter(None, machine.vm.pci_addresses)) if machine.vm else ()
    return given or tuple(gpu.pci_address for gpu in machine.step.gpus)
