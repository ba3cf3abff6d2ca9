"""provision(): clone, read back, power on, address, ready; each VM at its own pace.

One wait loop on one update stream carries every task and VM; only the checks inside the guests run
on threads, because SSH blocks.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from gpuvm import guest
from gpuvm.errors import DeadlinePassed, GpuvmError, Interrupted, PreflightRefused, VSphereError
from gpuvm.events import Events
from gpuvm.inventory import GPU, Holder
from gpuvm.lifecycle.machine import Check, Machine, Stage
from gpuvm.lifecycle.outcome import ApplyResult, Outcome
from gpuvm.lifecycle.requests import clone_request, endpoint
from gpuvm.lifecycle.teardown import teardown
from gpuvm.planner import Plan, Step, replan_lost
from gpuvm.settings import Context
from gpuvm.vsphere import Board, Change, Task, TaskEnded, TaskProgress, VSphere

Until = Literal["powered-on", "address", "ready"]


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


class _Provisioning:
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
        self.plan, self.vsphere, self.context, self.events = plan, vsphere, context, events
        self.until, self.keep_failed = until, keep_failed
        self.public_key = guest.ensure_key_pair(context)
        self.machines: dict[str, Machine] = {}
        deadlines = plan.spec.deadlines
        self.deadlines: dict[Stage, float] = {
            "clone": deadlines.clone_s,
            "configure": deadlines.clone_s,
            "power_on": deadlines.power_on_s,
            "address": deadlines.address_s,
            "remove": deadlines.power_on_s,
        }

    def run(self) -> tuple[Outcome, ...]:
        try:
            with self.vsphere.board() as board:
                self.board: Board = board
                self._start()
                for batch in board.batches(self._time_left):
                    self._handle(batch)
                    self._expire()
            self._collect_checks()
        except KeyboardInterrupt:
            raise self._interrupted() from None
        return tuple(self._outcome(machine) for machine in self.machines.values())

    def _start(self) -> None:
        self.machines = {step.name: self._machine(step) for step in self.plan.wanted}
        by_action: dict[str, list[Machine]] = {"create": [], "power-on": [], "keep": []}
        for machine in self.machines.values():
            by_action[machine.step.action].append(machine)
        self._clone(by_action["create"])
        self._configure(by_action["power-on"])
        self._await_address(by_action["keep"])

    def _machine(self, step: Step) -> Machine:
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
                self._task_failed(machine, change.error)
            elif isinstance(change, TaskEnded):
                machine.moref = machine.moref or change.result or ""
                succeeded.setdefault(machine.stage, []).append(machine)
            elif machine.stage == "address" and change.address and change.powered_on:
                self._addressed(machine, change.address, change.host_keys)
        self._advance(succeeded)

    def _advance(self, succeeded: dict[Stage, list[Machine]]) -> None:
        following = {
            "clone": self._configure,
            "configure": self._power_on,
            "power_on": self._await_address,
            "remove": self._removed,
        }
        for stage, machines in succeeded.items():
            for machine in machines:
                self._finish(machine)
            following[stage](machines)

    # The stages, in order.

    def _clone(self, machines: Sequence[Machine]) -> None:
        tasks = {}
        for machine in machines:
            self._enter(machine, "clone")
            machine.created = machine.changed = True
            with self._failures_of(machine):
                tasks[machine.name] = self.vsphere.start_clone(machine.request)
        self._follow(tasks)

    def _configure(self, machines: Sequence[Machine]) -> None:
        """Reads back what was made; at most one reconfigure mends the difference."""
        if not machines:
            return
        read = {vm.moref: vm for vm in self.vsphere.read_vms([m.moref for m in machines])}
        repairs: dict[str, Task] = {}
        for machine in machines:
            self._enter(machine, "configure")
            machine.vm = read.get(machine.moref)
            with self._failures_of(machine):
                task = self._repair(machine)
                if task is not None:
                    repairs[machine.name] = task
        self._follow(repairs)
        right = [m for m in machines if m.stage == "configure" and m.name not in repairs]
        for machine in right:
            self._finish(machine)
        self._power_on(right)

    def _repair(self, machine: Machine) -> Task | None:
        if machine.vm is None:
            raise VSphereError(f"{machine.name} vanished after its clone")
        task = self.vsphere.start_repair(machine.vm, machine.request)
        machine.changed = machine.changed or task is not None
        return task

    def _power_on(self, machines: Sequence[Machine]) -> None:
        """Holders are read again first: since the plan another VM may have taken the GPU."""
        if not machines:
            return
        holders = self.vsphere.read_holders(sorted({m.step.host.moref for m in machines}))
        tasks = {}
        for machine in machines:
            self._enter(machine, "power_on")
            taken = [_taken(gpu, machine, holders) for gpu in machine.step.gpus]
            error = next((one for one in taken if one is not None), None)
            if error is not None:
                self._lost(machine, error)
                continue
            machine.changed = True
            with self._failures_of(machine):
                tasks[machine.name] = self.vsphere.start_power_on(machine.moref)
        self._follow(tasks)

    def _await_address(self, machines: Sequence[Machine]) -> None:
        if self.until == "powered-on":
            for machine in machines:
                self._done(machine)
            return
        for machine in machines:
            self._enter(machine, "address")
        self.board.follow_vms({machine.name: machine.moref for machine in machines})

    def _addressed(self, machine: Machine, address: str, host_keys: tuple[str, ...]) -> None:
        if self.until == "ready" and not host_keys and self.context.ssh.trust == "guestinfo":
            return  # the first-boot unit publishes them a moment after the address appears
        self._finish(machine)
        self.board.forget(machine.name)
        if machine.vm is not None:
            machine.vm = replace(machine.vm, address=address, host_keys=host_keys)
        if self.until == "address":
            self._done(machine)
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
            self._done(machine)

    # When it goes wrong.

    @contextlib.contextmanager
    def _failures_of(self, machine: Machine) -> Iterator[None]:
        """A call that is refused at once fails this VM alone."""
        try:
            yield
        except VSphereError as error:
            self._task_failed(machine, error)

    def _task_failed(self, machine: Machine, error: GpuvmError) -> None:
        if machine.stage == "power_on":
            self._lost(machine, error)
        elif machine.stage == "remove":
            machine.left = True
            self._done(machine)
        else:
            self._give_up(machine, error)

    def _lost(self, machine: Machine, error: GpuvmError) -> None:
        """Somebody quicker may have the GPU: once more on a free one, else the VM goes."""
        if machine.created and not machine.replanned:
            machine.then = self._elsewhere(machine.step)
        self._give_up(machine, error)

    def _elsewhere(self, step: Step) -> Step | None:
        inventory = self.vsphere.read_inventory(
            cluster=self.plan.cluster.path,
            folder=self.plan.spec.folder,
            resource_pool=self.plan.spec.resource_pool,
        )
        ours = {gpu.pci_address for gpu in step.gpus}
        held = [
            gpu
            for gpu in inventory.gpus
            if gpu.host == step.host.name and gpu.pci_address in ours
            if any(holder.vm != step.name for holder in gpu.holders)
        ]
        if not held:
            return None
        machines = self.machines.values()
        promised = {(machine.then or machine.step).host.name for machine in machines}
        return replan_lost(self.plan, step, inventory, promised)

    def _give_up(self, machine: Machine, error: GpuvmError) -> None:
        """Removes the VM again if this call created it; one that was there before stays."""
        self._finish(machine, ok=False)
        machine.error = error
        remove = machine.created and machine.moref and not (self.keep_failed and not machine.then)
        if not remove:
            machine.left = bool(machine.moref)
            self._done(machine)
            return
        machine.enter("remove")
        with self._failures_of(machine):
            self._follow({machine.name: self.vsphere.start_destroy(machine.moref)})

    def _removed(self, machines: Sequence[Machine]) -> None:
        again = []
        for machine in machines:
            self._done(machine)
            if machine.then is not None:
                self.events.note(f"once more on {machine.then.host.name}", machine.name)
                retry = replace(self._machine(machine.then), replanned=True)
                self.machines[machine.name] = retry
                again.append(retry)
        self._clone(again)

    def _expire(self) -> None:
        for machine in self.machines.values():
            if self._left(machine) <= 0:
                waited = self.deadlines[machine.stage]
                self.board.forget(machine.name)
                self._finish(machine, ok=False)
                machine.error, machine.left = _late(machine, waited), bool(machine.moref)
                self._done(machine)

    def _interrupted(self) -> Interrupted:
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

    # Small steps.

    def _follow(self, tasks: dict[str, Task]) -> None:
        for name, task in tasks.items():
            self.machines[name].task = task
        if tasks:
            self.board.follow_tasks(tasks)

    def _enter(self, machine: Machine, stage: Stage) -> None:
        machine.enter(stage)
        self.events.start(stage, machine.name)

    def _finish(self, machine: Machine, *, ok: bool = True) -> None:
        if machine.stage not in ("remove", "done"):
            self.events.end(machine.stage, machine.seconds(), machine.name, ok=ok)
        machine.task = None

    def _done(self, machine: Machine) -> None:
        machine.stage, machine.task = "done", None
        self.events.progress(machine.name, "done", 1.0)

    def _left(self, machine: Machine) -> float:
        return self.deadlines.get(machine.stage, float("inf")) - machine.seconds()

    def _time_left(self) -> float:
        """Seconds until the next deadline of any VM; the loop wakes up for it."""
        return max(0.0, min(map(self._left, self.machines.values()), default=0.0))

    def _outcome(self, machine: Machine) -> Outcome:
        return Outcome(
            name=machine.name,
            host=machine.step.host.name,
            state="failed" if machine.error else self.until,
            changed=machine.changed,
            address=machine.vm.address if machine.vm else None,
            gpus=tuple(gpu.pci_address for gpu in machine.step.gpus),
            error=machine.error,
            left=machine.left,
            warnings=machine.ready.warnings if machine.ready else (),
        )


def _taken(
    gpu: GPU, machine: Machine, holders: Mapping[tuple[str, str], Sequence[Holder]]
) -> PreflightRefused | None:
    """The refusal that names the VM which runs with this GPU now, if another one does."""
    for holder in holders.get((gpu.host, gpu.pci_address), ()):
        if holder.powered_on and holder.vm != machine.name:
            return PreflightRefused(
                f"{machine.name}: GPU {gpu.pci_address} on {gpu.host} is held by {holder.vm}",
                hint="'gpuvm plan' shows which GPUs are free",
            )
    return None


_WAITED_FOR: dict[Stage, tuple[str, str]] = {
    "clone": ("its clone", "is the datastore slow? raise deadlines.clone_s in gpuvm.yaml"),
    "configure": ("its configuration", "look at its recent tasks in vCenter"),
    "power_on": ("power on", "vCenter may be waiting for an answer to a question on the VM"),
    "address": (
        "an address and its SSH host keys",
        "look at its console: open-vm-tools, DHCP and the first-boot unit (docs/template.md)",
    ),
    "remove": ("its removal", "look at its recent tasks in vCenter"),
}


def _late(machine: Machine, waited_s: float) -> DeadlinePassed:
    what, hint = _WAITED_FOR[machine.stage]
    return DeadlinePassed(f"{machine.name}: waited {waited_s:g} s for {what}", hint=hint)
