"""provision(): clone, read back, power on, address, ready; each VM at its own pace.

One wait loop on one update stream carries every task and VM; only the checks inside the guests run
on threads, because SSH blocks.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

from typing_extensions import override

from gpuvm import guest
from gpuvm.errors import GpuvmError, Unreachable, VSphereError
from gpuvm.events import Events
from gpuvm.lifecycle import competing, looking
from gpuvm.lifecycle.machine import Check, Machine, Stage
from gpuvm.lifecycle.outcome import ApplyResult, Outcome
from gpuvm.lifecycle.recovery import Recovery
from gpuvm.lifecycle.requests import clone_request, endpoint
from gpuvm.lifecycle.teardown import teardown
from gpuvm.lifecycle.until import Until
from gpuvm.planner import Plan, Step
from gpuvm.settings import Context
from gpuvm.vsphere import Change, Task, TaskEnded, TaskProgress, VMChanged, VSphere

STABLE_S = 1.0
"""How long an address must stay the same before it is trusted."""


def provision(
    plan: Plan,
    vsphere: VSphere,
    context: Context,
    events: Events,
    *,
    until: Until = "ready",
    keep_failed: bool = False,
) -> ApplyResult:
    """Carries the plan out and says what became of each VM.

    A VM that fails before it runs is removed again if this call created it (``keep_failed`` keeps
    it); one whose guest is not ready stays, to be looked at and continued with.
    Raises Interrupted on Ctrl-C, naming what is left.
    """
    surplus = [step.vm for step in plan.steps if step.action == "remove" and step.vm]
    removed = teardown(surplus, vsphere, events) if surplus else ApplyResult(())
    work = _Provisioning(plan, vsphere, context, events, until, keep_failed=keep_failed)
    return ApplyResult((*work.run(), *removed.outcomes))


class _Provisioning(Recovery):
    def __init__(
        self,
        plan: Plan,
        vsphere: VSphere,
        context: Context,
        events: Events,
        until: Until,
        *,
        keep_failed: bool,
    ) -> None:
        super().__init__(plan, vsphere, events, until, keep_failed=keep_failed)
        self.context = context
        self.public_key = guest.ensure_key_pair(context)

    def run(self) -> tuple[Outcome, ...]:
        try:
            with self.vsphere.board() as board:
                self.board = board
                self._start()
                for batch in board.batches(self.time_left):
                    self._handle(batch)
                    self._look_at_addresses()
                    self.expire()
        except Unreachable as error:
            self.cut_off(error)
        except KeyboardInterrupt:
            raise self.interrupted() from None
        try:
            self._collect_checks()
        except KeyboardInterrupt:
            raise self.interrupted() from None
        return tuple(self.outcome(machine) for machine in self.machines.values())

    def _start(self) -> None:
        self.machines = {step.name: self.new_machine(step) for step in self.plan.wanted}
        by_action: dict[str, list[Machine]] = {"create": [], "power-on": [], "keep": []}
        for machine in self.machines.values():
            by_action[machine.step.action].append(machine)
        self.clone(by_action["create"])
        self._move([m for m in by_action["power-on"] if m.step.move_to])
        self.configure([m for m in by_action["power-on"] if not m.step.move_to])
        self.await_address(by_action["keep"])

    @override
    def new_machine(self, step: Step) -> Machine:
        request = clone_request(self.plan, step, self.context, self.public_key)
        return Machine(step, request, vm=step.vm, moref=step.vm.moref if step.vm else "")

    def _handle(self, batch: Sequence[Change]) -> None:
        """All that one update brought; VMs that got equally far take their next step together."""
        succeeded: dict[Stage, list[Machine]] = {}
        for change in batch:
            machine = self.machines[change.key]
            if isinstance(change, TaskProgress):
                self.events.progress(machine.name, machine.stage, change.fraction)
            elif isinstance(change, TaskEnded) and change.error is not None:
                self.failed(machine, change.error)
            elif isinstance(change, TaskEnded):
                machine.moref = machine.moref or change.result or ""
                succeeded.setdefault(machine.stage, []).append(machine)
            elif isinstance(change, VMChanged) and machine.stage == "address":
                machine.see(change.address if change.powered_on else None, change.host_keys)
        self._advance(succeeded)

    def _advance(self, succeeded: dict[Stage, list[Machine]]) -> None:
        following = {
            "clone": self.configure,
            "move": self.configure,
            "configure": self._power_on,
            "power_on": self.await_address,
            "remove": self.removed,
        }
        for stage, machines in succeeded.items():
            right = [m for m in machines if stage != "clone" or self.cloned(m)]
            for machine in right:
                self.finish(machine)
            following[stage](right)

    # The stages, in order.

    @override
    def clone(self, machines: Sequence[Machine]) -> None:
        tasks = {}
        for machine in machines:
            self.enter(machine, "clone")
            machine.created = machine.changed = True
            with self.failures_of(machine):
                tasks[machine.name] = self.vsphere.start_clone(machine.request)
        self.follow(tasks)

    def _move(self, machines: Sequence[Machine]) -> None:
        tasks = {}
        for machine in machines:
            self.enter(machine, "move")
            machine.changed = True
            host, pool = machine.step.runs_on.moref, self.plan.cluster.resource_pool
            with self.failures_of(machine):
                tasks[machine.name] = self.vsphere.start_move(machine.moref, host, pool)
        self.follow(tasks)

    @override
    def configure(self, machines: Sequence[Machine]) -> None:
        """Reads back what was made; at most one reconfigure mends the difference."""
        if not machines:
            return
        read = {vm.moref: vm for vm in self.vsphere.read_vms([m.moref for m in machines])}
        repairs: dict[str, Task] = {}
        for machine in machines:
            self.enter(machine, "configure")
            machine.vm = read.get(machine.moref)
            with self.failures_of(machine):
                task = self._repair(machine)
                if task is not None:
                    repairs[machine.name] = task
        self.follow(repairs)
        right = [m for m in machines if m.stage == "configure" and m.name not in repairs]
        for machine in right:
            self.finish(machine)
        self._power_on([m for m in right if not (m.vm and m.vm.powered_on)])
        self.await_address([m for m in right if m.vm and m.vm.powered_on])

    def _repair(self, machine: Machine) -> Task | None:
        """None when nothing differs. A VM that is not ours is refused, whatever its name."""
        if machine.vm is None:
            raise VSphereError(f"{machine.name} vanished after its clone")
        looking.check_is_ours(machine)
        if machine.vm.powered_on:
            return None
        task = self.vsphere.start_repair(machine.vm, machine.request)
        machine.changed = machine.changed or task is not None
        return task

    def _power_on(self, machines: Sequence[Machine]) -> None:
        """Holders are read again first: since the plan another VM may have taken the GPU."""
        if not machines:
            return
        holders = self.vsphere.read_holders(sorted({m.step.runs_on.moref for m in machines}))
        tasks = {}
        for machine in machines:
            self.enter(machine, "power_on")
            error = competing.taken(machine.step, holders, machine.moref)
            if error is not None:
                self.lost(machine, error)
                continue
            machine.changed = True
            with self.failures_of(machine):
                tasks[machine.name] = self.vsphere.start_power_on(machine.moref)
        self.follow(tasks)

    @override
    def await_address(self, machines: Sequence[Machine]) -> None:
        if self.until == "powered-on":
            for machine in machines:
                self.done(machine)
            return
        for machine in machines:
            self.enter(machine, "address")
        self.board.follow_vms({machine.name: machine.moref for machine in machines})

    def _look_at_addresses(self) -> None:
        """An address counts when it has stayed, and after the customization that it comes from."""
        waiting = [m for m in self.machines.values() if m.stage == "address"]
        self._look_at_customizations([m for m in waiting if m.request.address])
        for machine in waiting:
            wished, seen = machine.request.address, machine.seen
            if machine.stage != "address" or seen is None or self._unsettled(machine):
                continue
            if wished is not None and not (machine.customized and seen.address == wished.address):
                continue
            if seen.host_keys or self.until == "address" or self.context.ssh.trust == "first-use":
                self._addressed(machine, seen.address, seen.host_keys)

    def _look_at_customizations(self, machines: Sequence[Machine]) -> None:
        unfinished = [m for m in machines if not m.customized and m.created]
        if not unfinished:
            for machine in machines:
                machine.customized = True
            return
        ended = self.vsphere.customizations(self.plan.cluster.vm_folder)
        for machine in unfinished:
            machine.customized = machine.moref in ended
            problem = ended.get(machine.moref)
            if problem is not None:
                self.board.forget(machine.name)
                self.finish(machine, ok=False)
                machine.error, machine.left = looking.not_customized(machine, problem), True
                self.done(machine)

    def _unsettled(self, machine: Machine) -> bool:
        return machine.seen is not None and time.monotonic() - machine.seen.since < STABLE_S

    def _addressed(self, machine: Machine, address: str, host_keys: tuple[str, ...]) -> None:
        self.finish(machine)
        self.board.forget(machine.name)
        if machine.vm is not None:
            machine.vm = replace(machine.vm, address=address, host_keys=host_keys)
        if self.until == "address":
            self.done(machine)
            return
        machine.enter("ready")
        machine.check = Check(lambda: self._check_guest(machine))

    def _check_guest(self, machine: Machine) -> guest.Ready:
        if machine.vm is None:
            raise VSphereError(f"{machine.name} was not read back")
        expected = guest.Expected(
            gpus=tuple((gpu.vendor_id, gpu.device_id) for gpu in machine.step.gpus),
            settings=self.context.guest,
        )
        where, deadline_s = endpoint(machine.vm, self.context), self.plan.spec.deadlines.ready_s
        with self.events.phase("ready", machine.name):
            return guest.wait_ready(where, expected, deadline_s, self.events)

    def _collect_checks(self) -> None:
        for machine in self.machines.values():
            if machine.check is None:
                continue
            try:
                machine.ready = machine.check.result()
            except GpuvmError as error:
                machine.error, machine.left = error, True
            self.done(machine)
