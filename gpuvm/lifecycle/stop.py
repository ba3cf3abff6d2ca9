"""stop(): guests are shut down, or powered off when they do not; GPU and memory are free then."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from gpuvm.errors import DeadlinePassed, GpuvmError, Interrupted, OutcomeUnknown, VSphereError
from gpuvm.events import Events
from gpuvm.inventory import VM, UnreadableVM
from gpuvm.lifecycle.result import ApplyResult, Outcome, unreadable_outcome
from gpuvm.vsphere import TaskEnded, UpdateStream, VMChanged, VSphere

GRACE_S = 60.0
DEADLINE_S = 180.0
LOOKS = 2


def stop(
    vms: Sequence[VM],
    vsphere: VSphere,
    events: Events,
    *,
    unreadable: Sequence[UnreadableVM] = (),
    grace_s: float = GRACE_S,
) -> ApplyResult:
    """Of those VMs that are ours; one that is off already is as wished, an unreadable one fails.

    A guest with VMware Tools gets ``grace_s`` seconds to shut down by itself; 0 pulls the plug.
    Raises Interrupted on Ctrl-C, naming what may still run.
    """
    ours = [vm for vm in vms if vm.ownership == "ours"]
    work = _Stopping([vm for vm in ours if vm.powered_on], vsphere, events, grace_s)
    try:
        work.run()
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted; these VMs may still run: " + ", ".join(work.going),
            left=tuple(work.going),
            hint="run 'gpuvm stop' again to continue",
        ) from None
    return ApplyResult((*map(work.outcome, ours), *map(unreadable_outcome, unreadable)))


@dataclass
class _Going:
    """A VM on its way down; ``pulled`` once it is being powered off.

    ``looks`` counts how often it was looked up what became of that.
    """

    vm: VM
    pulled: bool = False
    looks: int = 0


class _Stopping:
    def __init__(self, vms: Sequence[VM], vsphere: VSphere, events: Events, grace_s: float) -> None:
        self.vsphere, self.events, self.grace_s = vsphere, events, grace_s
        self.going = {vm.name: _Going(vm) for vm in vms}
        self.stopped: set[str] = set()
        self.errors: dict[str, GpuvmError] = {}
        self.begun = time.monotonic()

    def run(self) -> None:
        if not self.going:
            return
        with self.events.phase("stop"), self.vsphere.stream() as stream:
            stream.follow_vms({name: going.vm.moref for name, going in self.going.items()})
            for going in list(self.going.values()):
                self._ask(going, stream)
            for batch in stream.updates(self._time_left):
                for change in batch:
                    self._saw(change, stream)
                self._lose_patience(stream)

    def outcome(self, vm: VM) -> Outcome:
        error = self.errors.get(vm.name)
        return Outcome(
            name=vm.name,
            host=vm.host,
            state="failed" if error else "stopped",
            changed=vm.name in self.stopped,
            gpus=vm.pci_addresses,
            error=error,
            left=error is not None,
        )

    def _ask(self, going: _Going, stream: UpdateStream) -> None:
        if not going.vm.tools_running or self.grace_s <= 0:
            self._pull(going, stream)
            return
        self.events.progress(going.vm.name, "shut down", 0.0)
        try:
            self.vsphere.shut_down(going.vm.moref)
        except OutcomeUnknown:
            self.events.note("looking up what became of it", going.vm.name)  # it may be going down
        except VSphereError:
            self._pull(going, stream)  # the guest cannot be asked, or went meanwhile

    def _pull(self, going: _Going, stream: UpdateStream) -> None:
        going.pulled = True
        self.events.progress(going.vm.name, "power off", 0.0)
        try:
            stream.follow_tasks({going.vm.name: self.vsphere.start_power_off(going.vm.moref)})
        except VSphereError as error:
            self._failed(going, error, stream)

    def _saw(self, change: object, stream: UpdateStream) -> None:
        if isinstance(change, VMChanged) and not change.powered_on and change.key in self.going:
            self._down(change.key, stream)
        elif isinstance(change, TaskEnded) and change.error and change.key in self.going:
            self._failed(self.going[change.key], change.error, stream)

    def _failed(self, going: _Going, error: GpuvmError, stream: UpdateStream) -> None:
        """Looks what is there now: off, on its way there, or gone altogether is what was wanted."""
        going.looks += 1
        with contextlib.suppress(VSphereError):
            tasks = self.vsphere.running_tasks(going.vm.moref, "power off")
            now = self.vsphere.read_vms([going.vm.moref])
            if not now or not now[0].powered_on:
                self._down(going.vm.name, stream)
                return
            if tasks and going.looks <= LOOKS:
                stream.follow_tasks({going.vm.name: tasks[0]})
                return
            if isinstance(error, OutcomeUnknown) and going.looks <= LOOKS:
                self._pull(going, stream)
                return
        self._give_up(going.vm.name, error, stream)

    def _down(self, name: str, stream: UpdateStream) -> None:
        stream.forget(name)
        del self.going[name]
        self.stopped.add(name)
        self.events.progress(name, "stopped", 1.0)

    def _lose_patience(self, stream: UpdateStream) -> None:
        passed = time.monotonic() - self.begun
        for name, going in list(self.going.items()):
            if passed > DEADLINE_S:
                late = DeadlinePassed(f"{name}: not off after {DEADLINE_S:g} s")
                self._give_up(name, late, stream)
            elif passed > self.grace_s and not going.pulled:
                self._pull(going, stream)

    def _give_up(self, name: str, error: GpuvmError, stream: UpdateStream) -> None:
        stream.forget(name)
        del self.going[name]
        self.errors[name] = error

    def _time_left(self) -> float:
        asked = any(not going.pulled for going in self.going.values())
        return self.begun + (self.grace_s if asked else DEADLINE_S) - time.monotonic()
