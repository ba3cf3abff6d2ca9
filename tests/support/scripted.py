"""A scripted driver: runs one story against a simulated inventory, with a failure at one await.

The world is what a story's calls ask for, kept as dictionaries: VMs, tasks that have not ended, a
host, a template. Nothing waits and nothing is random, so every await of a story can be tried with
everything that may happen at it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gpuvm.errors import OutcomeUnknown, TaskFailed, Unreachable, VSphereError
from gpuvm.inventory import VM, Host, Inventory
from gpuvm.lifecycle import driver
from gpuvm.lifecycle.driver import Late, Story, VCenterGone
from gpuvm.ownership import GENERATION_KEY, SPEC_KEY
from gpuvm.vsphere import CloneRequest, HostChanged, HostState, Task, TemplateState, VMChanged

Trouble = Literal["fault", "transient", "happened", "not-happened", "late", "interrupt", "gone"]
TROUBLES: tuple[Trouble, ...] = (
    "fault",
    "transient",
    "happened",
    "not-happened",
    "late",
    "interrupt",
    "gone",
)
"""A fault; one on the way to a host; an answer that was lost although the call was carried out, and
one whose call was not; a deadline; Ctrl-C; a vCenter that is gone for good, session and all."""


PATIENCE = 50


@dataclass
class _Pending:
    task: Task
    entity: str
    effect: Callable[[], str | None]


@dataclass
class World:
    """Stands for ``VSphere``; ``touched`` are the VMs that were powered, changed or destroyed."""

    inventory: Inventory
    vms: dict[str, VM] = field(default_factory=dict)
    differs: bool = True
    """A new clone does not match its spec at once."""
    host: HostState = field(
        default_factory=lambda: HostState(connected=True, in_maintenance_mode=False, reboots=True)
    )
    template_state: TemplateState = field(
        default_factory=lambda: TemplateState(is_template=True, has_snapshot=False, noted=False)
    )
    touched: list[str] = field(default_factory=list)
    pending: dict[str, _Pending] = field(default_factory=dict)
    now: float = 0.0
    boots: int = 0
    enabled: bool = False
    count: int = 0

    def clock(self) -> float:
        return self.now

    def begin(self, operation: str, entity: str, effect: Callable[[], str | None]) -> Task:
        self.count += 1
        task = Task(f"task-{self.count}", operation)
        self.pending[task.moref] = _Pending(task, entity, effect)
        return task

    def finish(self, task: Task) -> str | None:
        """Ends a task; one that was cancelled has ended in that."""
        pending = self.pending.pop(task.moref, None)
        if pending is None:
            raise TaskFailed(task.operation, "it", "RequestCanceled", ["cancelled"], hint=None)
        return pending.effect()

    def settle(self) -> None:
        for pending in list(self.pending.values()):
            self.finish(pending.task)

    # What stories call.

    def start_clone(self, request: CloneRequest) -> Task:
        if any(vm.name == request.name for vm in self.vms.values()):
            raise TaskFailed("clone", request.name, "DuplicateName", ["the name exists"], hint=None)

        def create() -> str:
            moref = f"vm-{len(self.vms) + 100}"
            self.vms[moref] = VM(
                name=request.name,
                moref=moref,
                host=request.host or "",
                powered_on=False,
                instance_uuid=request.instance_uuid,
                ownership="ours",
                index=1,
                generation=request.extra_config[GENERATION_KEY],
                spec_digest=request.extra_config[SPEC_KEY],
                devices=request.devices,
            )
            return moref

        return self.begin("clone", request.template, create)

    def start_repair(self, vm: VM, _request: CloneRequest) -> Task | None:
        if not self.differs:
            return None

        def repaired() -> None:
            self.differs = False

        self.touched.append(vm.moref)
        return self.begin("reconfigure", vm.moref, repaired)

    def start_move(self, moref: str, host: str, _pool: str) -> Task:
        return self._change("move", moref, lambda vm: replace(vm, host=host))

    def start_power_on(self, moref: str) -> Task:
        return self._change("power on", moref, lambda vm: replace(vm, powered_on=True))

    def start_power_off(self, moref: str) -> Task:
        return self._change("power off", moref, lambda vm: replace(vm, powered_on=False))

    def start_destroy(self, moref: str) -> Task:
        return self._change("destroy", moref, lambda _: None)

    def shut_down(self, moref: str) -> None:
        self.touched.append(moref)
        self.vms[moref] = replace(self.vms[moref], powered_on=False)

    def _change(self, operation: str, moref: str, change: Callable[[VM], VM | None]) -> Task:
        def effect() -> None:
            if moref not in self.vms:
                raise VSphereError("it vanished")
            changed = change(self.vms.pop(moref))
            if changed is not None:
                self.vms[moref] = changed

        self.touched.append(moref)
        return self.begin(operation, moref, effect)

    def cancel(self, task: Task) -> None:
        self.pending.pop(task.moref, None)

    def running_tasks(self, entity: str, operation: str) -> list[Task]:
        return [
            pending.task
            for pending in self.pending.values()
            if pending.entity == entity and pending.task.operation == operation
        ]

    def find_in_folder(self, _folder: str, name: str) -> str | None:
        return next((moref for moref, vm in self.vms.items() if vm.name == name), None)

    def read_vms(self, morefs: Sequence[str]) -> tuple[VM, ...]:
        return tuple(self.vms[moref] for moref in morefs if moref in self.vms)

    def others_at(self, _vms: Sequence[VM]) -> dict[str, dict[str, tuple[str, ...]]]:
        return {}

    def read_inventory(self, **_: Any) -> Inventory:
        return self.inventory

    def recent_events(self, _moref: str) -> tuple[str, ...]:
        return ()

    # A host and a template.

    def host_state(self, _host: Host) -> HostState:
        return self.host

    def host_tasks(self, host: Host, operation: str) -> list[Task]:
        return self.running_tasks(host.moref, operation)

    def missing_privileges(self, _wanted: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        return {}

    def residents(self, _host: Host) -> tuple[()]:
        return ()

    def switch_passthrough(self, _host: Host, _devices: Sequence[str], *, enabled: bool) -> None:
        self.enabled = enabled

    def refresh_passthrough(self, _host: Host) -> None:
        pass

    def start_maintenance(self, host: Host) -> Task:
        return self.begin("maintenance mode", host.moref, lambda: self._maintenance(on=True))

    def start_leaving_maintenance(self, host: Host) -> Task:
        leave = "leaving maintenance mode"
        return self.begin(leave, host.moref, lambda: self._maintenance(on=False))

    def _maintenance(self, *, on: bool) -> None:
        self.host = replace(self.host, in_maintenance_mode=on)

    def recent_reboots(self, _host: Host) -> frozenset[str]:
        return frozenset(f"boot-{number}" for number in range(self.boots))

    def start_reboot(self, host: Host) -> Task:
        self.boots += 1
        return self.begin("reboot", host.moref, lambda: None)

    def template(self, _moref: str, _name: str) -> "World":
        return self

    def state(self) -> TemplateState:
        return self.template_state

    def start_noting(self, *, noted: bool) -> Task:
        return self.begin("reconfigure", "template", lambda: self._template(noted=noted))

    def start_snapshot(self, _name: str) -> Task:
        return self.begin("snapshot", "template", lambda: self._template(has_snapshot=True))

    def mark_as_vm(self, _host: str, _pool: str) -> None:
        self._template(is_template=False)

    def mark_as_template(self) -> None:
        self._template(is_template=True)

    def _template(self, **changes: bool) -> None:
        self.template_state = replace(self.template_state, **changes)


@dataclass
class Script:
    """Plays a story; at await number ``at`` (from 0) ``trouble`` happens, if it can happen there.

    ``awaits`` says what was awaited, ``happened`` whether the trouble did.
    """

    world: World
    at: int = -1
    trouble: Trouble = "fault"
    awaits: list[str] = field(default_factory=list)
    happened: bool = False
    always: Mapping[str, VSphereError] = field(default_factory=dict)
    """Calls, by name, that always fail so."""

    def play(self, story: Story[Any]) -> Any:
        """Returns what the story returned; raises what it raised."""
        gone: VCenterGone | None = None
        error: BaseException | None = None
        answer: Any = None
        while True:
            try:
                wait = story.send(answer) if error is None else story.throw(error)
            except StopIteration as end:
                return end.value
            answer, error = None, None
            number = len(self.awaits)
            self.awaits.append(getattr(wait, "what", type(wait).__name__))
            if number > 500:
                raise AssertionError(f"it never ends: {self.awaits[-12:]}")
            if gone is not None:
                error = gone
                continue
            try:
                if number == self.at:
                    self._trouble(wait)
                self._lose_patience(wait)
                answer = self._answer(wait)
            except VCenterGone as raised:
                error = gone = raised
            except (VSphereError, Late, KeyboardInterrupt) as raised:
                error = raised

    def _lose_patience(self, wait: driver.Wait[Any]) -> None:
        """What is awaited again and again has a deadline in the end."""
        last = self.awaits[-PATIENCE:]
        if len(set(last)) == 1 and len(last) == PATIENCE and getattr(wait, "deadline", None):
            raise Late

    def _trouble(self, wait: driver.Wait[Any]) -> None:
        """Raises it; returns where this kind of await knows no such trouble."""
        call, end = isinstance(wait, driver.Call), isinstance(wait, driver.End)
        if isinstance(wait, driver.End) and self.trouble in ("fault", "transient"):
            self.world.pending.pop(wait.task.moref, None)
        self.happened = True
        match self.trouble:
            case "interrupt":
                raise KeyboardInterrupt
            case "gone":
                raise VCenterGone(Unreachable("the vCenter is gone"))
            case "late" if getattr(wait, "deadline", None) is not None:
                raise Late
            case "fault" if call or end:
                raise TaskFailed("it", "it", "InvalidState", ["not now"], hint=None)
            case "transient" if call or end:
                raise TaskFailed("it", "it", "HostCommunication", ["lost the host"], hint=None)
            case "fault" if not isinstance(wait, driver.Pause):
                raise VSphereError("the vCenter does not say")
            case "happened" if call:
                self._answer(wait)
                raise OutcomeUnknown("no answer")
            case "not-happened" if call:
                raise OutcomeUnknown("no answer")
        self.happened = False

    def _answer(self, wait: driver.Wait[Any]) -> Any:  # noqa: PLR0911 - one for each wait
        world = self.world
        match wait:
            case driver.Call():
                if wait.what in self.always:
                    raise self.always[wait.what]
                return wait.answer()
            case driver.Read():
                return next(iter(world.read_vms([wait.moref])), None)
            case driver.ReadHolders():
                return {(gpu.host, gpu.pci_address): gpu.holders for gpu in world.inventory.gpus}
            case driver.Diagnose():
                return None
            case driver.End():
                return world.finish(wait.task)
            case driver.Pause():
                world.now += wait.seconds
                world.settle()
                return None
            case driver.NextVMChange():
                return self._vm_change(wait)
            case driver.NextHostChange():
                return self._host_change(wait)
        raise AssertionError(wait)

    def _vm_change(self, wait: driver.NextVMChange) -> VMChanged | None:
        world = self.world
        world.now += min(wait.within_s, 1.0)
        if wait.task is not None and wait.task.moref in world.pending:
            world.finish(wait.task)
        vm = world.vms.get(wait.moref)
        if vm is None:
            raise VSphereError("it vanished from the vCenter")
        addresses = ("10.0.0.1",) if vm.powered_on else ()
        return VMChanged(vm.name, vm.powered_on, addresses, ("ssh-ed25519 AAAA",))

    def _host_change(self, wait: driver.NextHostChange) -> HostChanged:
        world = self.world
        if wait.task is not None and wait.task.moref in world.pending:
            world.finish(wait.task)
        addresses = {gpu.pci_address for host in world.inventory.hosts for gpu in host.gpus}
        active = frozenset(addresses if world.enabled else ())
        return HostChanged("host", connected=True, booted=f"boot {world.boots}", active=active)
