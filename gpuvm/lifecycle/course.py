"""The bookkeeping of a provisioning: which VM is where, since when, with which task."""

from collections.abc import Mapping

from gpuvm.events import Events
from gpuvm.lifecycle import deadlines
from gpuvm.lifecycle.machine import Machine, Stage
from gpuvm.lifecycle.outcome import Outcome
from gpuvm.lifecycle.until import Until
from gpuvm.planner import Plan
from gpuvm.vsphere import Board, Task, VSphere

SOON_S = 1.0


class Course:
    """``board`` is open while VMs are under way."""

    board: Board

    def __init__(self, plan: Plan, vsphere: VSphere, events: Events, until: Until) -> None:
        self.plan, self.vsphere, self.events, self.until = plan, vsphere, events, until
        self.machines: dict[str, Machine] = {}
        self.deadlines = deadlines.of(plan.spec.deadlines)

    def follow(self, tasks: Mapping[str, Task]) -> None:
        for name, task in tasks.items():
            self.machines[name].task = task
        if tasks:
            self.board.follow_tasks(tasks)

    def enter(self, machine: Machine, stage: Stage) -> None:
        machine.enter(stage)
        self.events.start(stage, machine.name)

    def finish(self, machine: Machine, *, ok: bool = True) -> None:
        """Of the present stage; the next one, or ``done``, follows."""
        if machine.stage not in ("remove", "done"):
            self.events.end(machine.stage, machine.seconds(), machine.name, ok=ok)
        machine.task = None

    def done(self, machine: Machine) -> None:
        machine.stage, machine.task = "done", None
        self.events.progress(machine.name, "done", 1.0)

    def left(self, machine: Machine) -> float:
        return self.deadlines.get(machine.stage, float("inf")) - machine.seconds()

    def time_left(self) -> float:
        """Seconds until something is due without news: a deadline, or an address to be trusted."""
        due = [self.left(machine) for machine in self.machines.values()]
        due += [SOON_S for m in self.machines.values() if m.stage == "address" and m.seen]
        return max(0.0, min(due, default=0.0))

    def outcome(self, machine: Machine) -> Outcome:
        return Outcome(
            name=machine.name,
            host=machine.vm.host if machine.vm and machine.vm.host else machine.step.host.name,
            state="failed" if machine.error else self.until,
            changed=machine.changed,
            address=machine.vm.address if machine.vm else None,
            gpus=tuple(gpu.pci_address for gpu in machine.step.gpus),
            error=machine.error,
            left=machine.left,
            warnings=machine.ready.warnings if machine.ready else (),
        )
