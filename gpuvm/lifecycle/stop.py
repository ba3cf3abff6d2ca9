"""stop(): shut down guests, or power them off after a grace period; frees GPUs and memory."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from gpuvm.errors import DeadlinePassed, GpuvmError, Interrupted, OutcomeUnknown, VSphereError
from gpuvm.events import Events
from gpuvm.inventory import VM, UnreadableVM
from gpuvm.lifecycle.driver import Call, Deadline, Driver, Late, NextVMChange, Read, VCenterGone
from gpuvm.lifecycle.result import ApplyResult, Outcome, unreadable_outcome
from gpuvm.vsphere import Task, VSphere

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
    """Stop gpuvm's own VMs; one that is already off counts as stopped, an unreadable one as failed.

    A guest with VMware Tools gets ``grace_s`` seconds to shut down; 0 powers off at once.
    Raises Interrupted on Ctrl-C, naming the VMs that may still run.
    """
    ours = [vm for vm in vms if vm.ownership == "ours"]
    running = [vm for vm in ours if vm.powered_on]
    driver = Driver(vsphere, events)
    done: dict[str, Outcome] = {}
    if running:
        work = _Stopping(vsphere, events, grace_s)
        try:
            with events.phase("stop"):
                done = driver.run({vm.name: shut_down(work, vm) for vm in running})
        except KeyboardInterrupt:
            left = tuple(vm.name for vm in running if vm.name not in driver.results)
            raise Interrupted(
                "interrupted; these VMs may still run: " + ", ".join(left),
                left=left,
                hint="run 'gpuvm stop' again to continue",
            ) from None
    outcomes = [done.get(vm.name) or _stopped(vm, changed=False) for vm in ours]
    return ApplyResult((*outcomes, *map(unreadable_outcome, unreadable)))


@dataclass(frozen=True)
class _Stopping:
    vsphere: VSphere
    events: Events
    grace_s: float


async def shut_down(work: _Stopping, vm: VM) -> Outcome:
    """Shut down one VM's guest; power the VM off if that takes longer than the grace period."""
    deadline, begun = Deadline(DEADLINE_S, counts_queue=True), time.monotonic()
    try:
        if await _request_shutdown(work, vm):
            while (left_s := begun + work.grace_s - time.monotonic()) > 0:
                change = await NextVMChange(vm.moref, deadline, left_s)
                if change is not None and not change.powered_on:
                    return _down(work, vm)
        await _power_off(work, vm, deadline)
        return _down(work, vm)
    except Late:
        return _failed(vm, DeadlinePassed(f"{vm.name}: not off after {DEADLINE_S:g} s"))
    except VSphereError as error:
        return _failed(vm, error)
    except VCenterGone as gone:
        return _failed(vm, gone.error)


async def _request_shutdown(work: _Stopping, vm: VM) -> bool:
    """Return whether the guest may be shutting down."""
    if not vm.tools_running or work.grace_s <= 0:
        return False
    work.events.progress(vm.name, "shut down", 0.0)
    try:
        await Call("shut down", work.vsphere.shut_down, vm.moref)
    except OutcomeUnknown:
        work.events.note("no answer: watching the VM", vm.name)
    except VSphereError:
        return False  # the guest cannot shut down, or is already off
    return True


async def _power_off(work: _Stopping, vm: VM, deadline: Deadline) -> None:
    """Power off; a VM that is already off, powering off or gone is a success too."""
    work.events.progress(vm.name, "power off", 0.0)
    task: Task | None = None
    for look in range(LOOKS + 1):
        try:
            if task is None:
                task = await Call("power off", work.vsphere.start_power_off, vm.moref)
            while True:
                change = await NextVMChange(vm.moref, deadline, task=task)
                if change is not None and not change.powered_on:
                    return
        except VSphereError as error:
            running = await Call(
                "running power off", work.vsphere.running_tasks, vm.moref, "power off"
            )
            now = await Read(vm.moref)
            if now is None or not now.powered_on:
                return
            if look == LOOKS or not (running or isinstance(error, OutcomeUnknown)):
                raise
            task = running[0] if running else None


def _down(work: _Stopping, vm: VM) -> Outcome:
    work.events.progress(vm.name, "stopped", 1.0)
    return _stopped(vm, changed=True)


def _stopped(vm: VM, *, changed: bool) -> Outcome:
    return Outcome(vm.name, vm.host, "stopped", changed=changed, gpus=vm.pci_addresses)


def _failed(vm: VM, error: GpuvmError) -> Outcome:
    gpus = vm.pci_addresses
    return Outcome(vm.name, vm.host, "failed", changed=False, gpus=gpus, error=error, left=True)
