"""From power-on to ready: the guest's address, its host keys, and the checks inside it.

The VM is watched meanwhile, so a VM that powers off by itself fails at the update that shows it.
ESXi does that when a 64-bit MMIO window is too small (Broadcom article 323402).
"""

import contextlib
from dataclasses import replace

from gpuvm import guest
from gpuvm.errors import GpuvmError, PoweredOff, SharedAddress, VSphereError
from gpuvm.lifecycle.driver import Call, Deadline, InThread, Late, NextVMChange, Read
from gpuvm.lifecycle.job import GivenUp, Job, Seen, Stays, Work, late_error
from gpuvm.vsphere import VMChanged

STABLE_S = 1.0
"""How long addresses must stay the same before they are tried."""
READ_AGAIN_S = 10.0
"""How often to read a VM whose guest has an address but no published host keys."""


async def first_address(work: Work, job: Job) -> None:
    """Wait for an accepted address and for the host keys that the guest publishes.

    Raises Stays when the VM powers off (PoweredOff), when another VM has its address
    (SharedAddress), and when the deadline passes.
    """
    deadline, read_at = Deadline(work.limit_s("address")), 0.0
    looked_up: tuple[str, ...] = ()
    try:
        with work.events.phase("address", job.name):
            while True:
                within_s = STABLE_S if job.seen else float("inf")
                change = await NextVMChange(job.moref, deadline, within_s)
                if change is not None:
                    await _note_change(work, job, change, "its address")
                _check_unshared(job)
                seen, now = job.seen, work.clock()
                if seen is None or now - seen.since < STABLE_S:
                    continue
                counting = job.expected.among(seen.addresses)
                if counting and counting != looked_up:
                    looked_up = counting
                    await _look_for_others(work, job, counting)
                if not _has_keys(work, seen):
                    if now - max(read_at, seen.since) >= READ_AGAIN_S:
                        read_at = now
                        await _read_guest(work, job)
                elif counting:
                    _use_addresses(job, counting, seen)
                    return
    except Late:
        raise Stays(await late_error(work, job, "address")) from None
    except GpuvmError as error:
        raise GivenUp(error) from None


async def _look_for_others(work: Work, job: Job, counting: tuple[str, ...]) -> None:
    """Raise Stays for an address that another VM reports too; tell it, if it is of this command."""
    for other in work.jobs.values():
        theirs = other.expected.among(other.seen.addresses) if other.seen else ()
        both = [address for address in counting if address in theirs]
        if both and other is not job:
            other.shared = other.shared or SharedAddress(other.name, both[0], [job.name])
            job.shared = job.shared or SharedAddress(job.name, both[0], [other.name])
    _check_unshared(job)
    if job.vm is None:
        return
    own = replace(job.vm, moref=job.moref, addresses=counting)
    with contextlib.suppress(GpuvmError):  # an account may not search
        found = await Call("others at its address", work.vsphere.others_at, [own])
        for address, names in found.get(job.moref, {}).items():
            job.shared = SharedAddress(job.name, address, names)
    _check_unshared(job)


def _check_unshared(job: Job) -> None:
    if job.shared is not None:
        raise Stays(job.shared)


def _has_keys(work: Work, seen: Seen) -> bool:
    first_use = work.context.ssh.trust == "first-use"
    return bool(seen.host_keys) or work.until == "address" or first_use


def _use_addresses(job: Job, counting: tuple[str, ...], seen: Seen) -> None:
    if job.vm is not None:
        job.vm = replace(job.vm, addresses=counting, host_keys=seen.host_keys)


async def _read_guest(work: Work, job: Job) -> None:
    """Read the VM: guestinfo that the guest sets may arrive in no update."""
    try:
        vm = await Read(job.moref)
    except GpuvmError:
        return
    if vm is not None and vm.powered_on:
        job.seen = _seen(work, job.seen, vm.addresses, vm.host_keys)


async def _note_change(work: Work, job: Job, change: VMChanged, waiting_for: str) -> None:
    """Record a change; an update may predate the power-on, so read a VM that seems off."""
    if change.powered_on:
        job.seen = _seen(work, job.seen, change.addresses, change.host_keys)
        return
    job.seen = None
    vm = await Read(job.moref)
    if vm is None or vm.powered_on:
        return
    events: tuple[str, ...] = ()
    with contextlib.suppress(GpuvmError):
        events = await Call("events", work.vsphere.recent_events, job.moref)
    raise Stays(PoweredOff(job.name, waiting_for, job.step.host.name, events))


def _seen(
    work: Work, before: Seen | None, addresses: tuple[str, ...], host_keys: tuple[str, ...]
) -> Seen | None:
    if not addresses:
        return None
    same = before is not None and before.addresses == addresses
    return Seen(addresses, host_keys, before.since if before and same else work.clock())


async def ready(work: Work, job: Job) -> None:
    """Wait until the guest meets every requirement; watch the VM meanwhile."""
    check = InThread(lambda: _check_guest(work, job))
    try:
        with work.events.phase("ready", job.name):
            while not check.done:
                change = await NextVMChange(job.moref, thread=check)
                if change is not None:
                    await _note_change(work, job, change, "its guest to be ready")
            job.ready = check.result()
            _check_unshared(job)
    except VSphereError as error:  # the VM vanished
        raise GivenUp(error) from None
    except GpuvmError as error:
        raise Stays(error) from None
    if job.vm is not None and (answered := job.ready.address):
        others = [address for address in job.vm.addresses if address != answered]
        job.vm = replace(job.vm, addresses=(answered, *others))


def _check_guest(work: Work, job: Job) -> guest.Ready:
    expected = guest.Expected(
        gpus=tuple((gpu.vendor_id, gpu.device_id) for gpu in job.step.gpus),
        settings=work.context.guest,
    )
    deadline_s = work.plan.spec.deadlines.ready_s
    ready = guest.wait_ready(lambda: _where(work, job), expected, deadline_s, work.events)
    return replace(ready, warnings=(*ready.warnings, *_idle_shutdown(work, job)))


def _idle_shutdown(work: Work, job: Job) -> tuple[str, ...]:
    """Have the guest shut down, or no longer, as the spec says; warn where it may not."""
    limit, settings = work.plan.spec.idle_shutdown, work.context.guest
    if limit is None and (work.plan.starts_only or job.step.action == "create"):
        return ()
    with guest.connect(_where(work, job)) as machine:
        problem = guest.shut_down_when_idle(machine, settings.python, settings.work_dir, limit)
    if problem is None:
        return ()
    return (f"idle_shutdown: it may not shut down by itself: {problem}",)


def _where(work: Work, job: Job) -> guest.Endpoint:
    """Return the endpoint the guest reports now: a lease may change after the first report."""
    vm, seen = job.vm, job.seen
    if job.shared is not None:
        raise job.shared
    if vm is None:
        raise VSphereError(f"{job.name} was not read back")
    counting = job.expected.among(seen.addresses) if seen else ()
    if seen and counting:
        vm = replace(vm, addresses=counting, host_keys=seen.host_keys or vm.host_keys)
    return guest.endpoint(vm, work.context)
