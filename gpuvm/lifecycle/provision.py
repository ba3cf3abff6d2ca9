"""provision(): clone, read back, power on, address, ready; each VM at its own pace.

One wait loop on one update stream carries every task and VM; only the checks inside the guests run
on threads, because SSH blocks.
"""

from collections.abc import Sequence

from typing_extensions import override

from gpuvm import guest
from gpuvm.errors import GpuvmError, VSphereError
from gpuvm.events import Events
from gpuvm.inventory import MoRef
from gpuvm.lifecycle import competing, looking
from gpuvm.lifecycle.arriving import Arriving
from gpuvm.lifecycle.clone_request import awaited, clone_request, networked
from gpuvm.lifecycle.machine import Machine, Stage
from gpuvm.lifecycle.result import ApplyResult, Outcome, Until
from gpuvm.lifecycle.teardown import teardown
from gpuvm.planner import Plan, Step
from gpuvm.settings import Context
from gpuvm.vsphere import Change, Task, TaskEnded, TaskProgress, VMChanged, VSphere


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


class _Provisioning(Arriving):
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
        super().__init__(plan, vsphere, context, events, until, keep_failed=keep_failed)
        self.public_key = guest.ensure_key_pair(context)

    def run(self) -> tuple[Outcome, ...]:
        self.machines = {step.name: self.new_machine(step) for step in self.plan.wanted}
        try:
            with self.vsphere.stream() as stream:
                self.stream = stream
                self._start()
                for batch in stream.updates(self.time_left, self.waiting):
                    self._handle(batch)
                    self.take_up()
                    self.look_at_addresses()
                    self.expire()
        except GpuvmError as error:
            self.cut_off(error)
        except KeyboardInterrupt:
            raise self.interrupted() from None
        try:
            self.collect_checks()
        except KeyboardInterrupt:
            raise self.interrupted() from None
        return tuple(self.outcome(machine) for machine in self.machines.values())

    def _start(self) -> None:
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
        return Machine(
            step,
            request,
            vm=step.vm,
            moref=step.vm.moref if step.vm else "",
            awaited=awaited(self.plan.spec, step, self.context),
        )

    def _handle(self, batch: Sequence[Change]) -> None:
        """All that one update brought; VMs that got equally far take their next step together."""
        succeeded: dict[Stage, list[Machine]] = {}
        for change in batch:
            machine = self.machines[change.key]
            if isinstance(change, TaskProgress):
                if change.running:
                    machine.runs()
                self.events.progress(machine.name, machine.stage, change.fraction)
            elif isinstance(change, TaskEnded) and machine.stage == "ready":
                continue  # its VM vanished: its check says what became of it
            elif isinstance(change, TaskEnded) and change.error is not None:
                self.failed(machine, change.error)
            elif isinstance(change, TaskEnded):
                self._note_clone(machine, change.result)
                succeeded.setdefault(machine.stage, []).append(machine)
            elif isinstance(change, VMChanged) and machine.stage in ("address", "ready"):
                machine.see(change.addresses if change.powered_on else (), change.host_keys)
        self._advance(succeeded)

    def _advance(self, succeeded: dict[Stage, list[Machine]]) -> None:
        following = {
            "clone": self.configure,
            "move": self.configure,
            "configure": self.power_on,
            "power_on": self.powered_on,
            "remove": self.removed,
        }
        for stage, machines in succeeded.items():
            for machine in machines:
                self.finish(machine)
            following[stage](machines)

    def _note_clone(self, machine: Machine, made: MoRef | None) -> None:
        """Of its own task: the clones of others are never followed."""
        if machine.stage == "clone":
            machine.moref, machine.created = made or "", True
            machine.cancelled, machine.error = False, None

    # The stages, in order.

    @override
    def clone(self, machines: Sequence[Machine]) -> None:
        tasks = {}
        for machine in machines:
            self.enter(machine, "clone")
            machine.changed = True
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
        morefs = [machine.moref for machine in machines]
        vms = self.read_for(machines, "configure", lambda: self.vsphere.read_vms(morefs))
        if vms is None:
            return
        read = {vm.moref: vm for vm in vms}
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
        self.power_on([m for m in right if not (m.vm and m.vm.powered_on)])
        self.await_address([m for m in right if m.vm and m.vm.powered_on])

    def _repair(self, machine: Machine) -> Task | None:
        """None when nothing differs. A VM that is not ours is refused, whatever its name."""
        if machine.vm is None:
            raise VSphereError(f"{machine.name} vanished after its clone")
        looking.check_is_ours(machine)
        if machine.vm.powered_on:
            return None
        request = networked(machine.request, machine.vm, machine.awaited)
        task = self.vsphere.start_repair(machine.vm, request)
        machine.changed = machine.changed or task is not None
        return task

    @override
    def power_on(self, machines: Sequence[Machine]) -> None:
        """Holders are read again first: since the plan another VM may have taken the GPU."""
        if not machines:
            return
        hosts = sorted({machine.step.runs_on.moref for machine in machines})
        holders = self.read_for(machines, "power_on", lambda: self.vsphere.read_holders(hosts))
        if holders is None:
            return
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
