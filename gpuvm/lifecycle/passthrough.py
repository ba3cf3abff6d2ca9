"""Turn passthrough of a host's GPUs on or off, with the reboot that some hosts need for it.

vCenter does not report who put a host into maintenance mode. A host that is already in it stays in
it unless ``leave_maintenance`` is set; a host that this call put into it leaves it again, also when
the reboot could not begin. A reboot is never forced.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpuvm import privileges
from gpuvm.devices import GPU
from gpuvm.errors import (
    DeadlinePassed,
    GpuvmError,
    Interrupted,
    NoPermission,
    NotFound,
    OutcomeUnknown,
    PreflightRefused,
    TaskFailed,
    VSphereError,
)
from gpuvm.events import Events
from gpuvm.inventory import Host, Inventory, MoRef
from gpuvm.lifecycle.driver import (
    Call,
    Deadline,
    Driver,
    End,
    Late,
    NextHostChange,
    VCenterGone,
)
from gpuvm.text import typed_word
from gpuvm.vsphere import HostChanged, HostState, Resident, Task, VSphere

REBOOT_S = 1800.0
MAINTENANCE_S = 660.0
ENTERING, LEAVING = "maintenance mode", "leaving maintenance mode"


@dataclass(frozen=True)
class SwitchResult:
    """The result for one GPU; ``done``: it has the wanted setting, and the setting is active.

    ``in_maintenance_mode`` is the state of its host.
    """

    gpu: GPU
    done: bool
    changed: bool
    error: GpuvmError | None = None
    in_maintenance_mode: bool = False

    @property
    def state(self) -> str:
        return f"failed: {self.error}" if self.error else self.gpu.state


def switch_passthrough(
    hosts: Sequence[Host],
    vsphere: VSphere,
    read: Callable[[], Inventory],
    events: Events,
    *,
    enabled: bool,
    gpus: Sequence[str] = (),
    reboot: bool = False,
    leave_maintenance: bool = False,
) -> tuple[SwitchResult, ...]:
    """Switch passthrough on one host after the other, so that at most one host is down.

    ``read`` returns the current inventory; ``gpus`` are PCI addresses, empty for all GPUs of a
    host. A GPU that a running VM uses is not switched, on or off. If a host fails, the next ones
    still follow. A host already in maintenance mode stays in it unless ``leave_maintenance`` is
    set. Raises Interrupted on Ctrl-C, with the state of the host.
    """
    results: list[SwitchResult] = []
    for host in hosts:
        events.progress(host.name, "passthrough", 0.0)
        work = _Switching(
            host, vsphere, read, events, _Change(enabled, gpus), reboot, leave_maintenance
        )
        try:
            Driver(vsphere, events).run_one(host.name, switch(work))
            results += _results(work)
        except Interrupted:
            raise
        except GpuvmError as error:
            results += _results(work, error)
        events.progress(host.name, "done", 1.0)
    return tuple(results)


def moved_first(
    hosts: Sequence[Host],
    vsphere: VSphere,
    *,
    enabled: bool,
    gpus: Sequence[str] = (),
) -> dict[str, tuple[str, ...]]:
    """Return, by host, the VMs that DRS moves away before the reboot; it does not move them back.

    Leaves out hosts that need no reboot, and hosts that are refused because a VM stays on them.
    """
    change, found = _Change(enabled, gpus), {}
    for host in hosts:
        if host.connection_state != "connected" or not change.needs_reboot(host):
            continue
        residents = [] if host.in_maintenance_mode else vsphere.residents(host)
        names = tuple(vm.name for vm in residents if not vm.agent)
        if names and not any(vm.stays for vm in residents if not vm.agent):
            found[host.name] = names
    return found


def choose_hosts(
    names: Sequence[str], inventory: Inventory, gpus: Sequence[str] = ()
) -> list[Host]:
    """Return the named hosts that have one of ``gpus``; without names, all hosts with a GPU.

    Raises NotFound for an unknown host, and for a PCI address that none of the hosts has.
    """
    found = [host for host in inventory.hosts if host.gpus]
    if names:
        known = {host.name: host for host in inventory.hosts}
        for name in names:
            if name not in known:
                raise NotFound("host", name, list(known))
        found = [known[name] for name in dict.fromkeys(names)]
    addresses = sorted({gpu.pci_address for host in found for gpu in host.gpus})
    for address in gpus:
        if address not in addresses:
            raise NotFound("GPU", address, addresses)
    if not gpus:
        return found
    return [host for host in found if any(gpu.pci_address in gpus for gpu in host.gpus)]


def continue_hint(host: str, *, enabled: bool, gpus: Sequence[str] = ()) -> str:
    """Return the command that completes the change on the host."""
    verb = "enable" if enabled else "disable"
    only = "".join(f" --gpu {address}" for address in gpus)
    return f"'gpuvm passthrough {verb} {typed_word(host)}{only} --reboot --leave-maintenance'"


@dataclass(frozen=True)
class _Change:
    """The wanted change: passthrough on or off, for some GPUs of a host or for all."""

    enabled: bool
    gpus: Sequence[str]

    def chosen(self, host: Host) -> list[GPU]:
        """Return the named GPUs and those that switch with them, on the same dependent device."""
        if not self.gpus:
            return list(host.gpus)
        devices = {gpu.dependent_device for gpu in host.gpus if gpu.pci_address in self.gpus}
        return [gpu for gpu in host.gpus if gpu.dependent_device in devices]

    def able(self, host: Host) -> list[GPU]:
        return [gpu for gpu in self.chosen(host) if gpu.capable or not self.enabled]

    def is_done(self, gpu: GPU) -> bool:
        return gpu.enabled == gpu.active == self.enabled

    def needs_reboot(self, host: Host) -> bool:
        """Return whether the host cannot rebind a GPU, or already waits for a reboot."""
        return any(
            not self.is_done(gpu) and (gpu.enabled == self.enabled or not host.rebinds)
            for gpu in self.able(host)
        )


@dataclass
class _Switching:
    """The work on one host. ``rebooting``: the host has gone down, or may have."""

    host: Host
    vsphere: VSphere
    read: Callable[[], Inventory]
    events: Events
    change: _Change
    reboot: bool
    leave: bool
    changed: bool = False
    rebooting: bool = False

    @property
    def able(self) -> list[GPU]:
        return self.change.able(self.host)

    def now(self) -> Host:
        return self.read().host(self.host.name) or self.host


async def switch(work: _Switching) -> None:
    """Switch the GPUs of one host and, if needed, reboot it in maintenance mode.

    Checks for whatever prevents a reboot come before the first change.
    """
    try:
        _check(work)
        if work.reboot and work.change.needs_reboot(work.host):
            await _check_reboot(work)
        wrong = [gpu for gpu in work.able if gpu.enabled != work.change.enabled]
        _check_unused(work.host, wrong)
        await _set(work, wrong)
        if work.reboot and not await _is_done(work):
            await _check_reboot(work)
            work.changed = True
            await _reboot(work)
        elif work.leave and work.host.in_maintenance_mode:
            work.changed = True
            await _leave_maintenance(work)
    except KeyboardInterrupt:
        command = continue_hint(work.host.name, enabled=work.change.enabled, gpus=work.change.gpus)
        raise Interrupted(
            f"interrupted; {await _where(work)}",
            left=[work.host.name],
            hint=f"run {command} to continue and to leave maintenance mode",
        ) from None


async def _is_done(work: _Switching) -> bool:
    now = await Call("inventory", work.now)
    return all(map(work.change.is_done, work.change.able(now)))


def _check(work: _Switching) -> None:
    host = work.host
    if host.connection_state != "connected":
        raise PreflightRefused(f"{host.name}: {host.unusable}")
    if not host.gpus:
        raise PreflightRefused(f"{host.name} has no NVIDIA GPU")
    incapable = _incapable(work.change, host)
    if incapable is not None and not work.able:
        raise incapable


def _check_unused(host: Host, wrong: Sequence[GPU]) -> None:
    """Refuse to switch a GPU that running VMs use, as vGPUs or as a whole."""
    users = [
        f"{gpu.pci_address} by {holder.vm}"
        for gpu in wrong
        for holder in gpu.holders
        if holder.powered_on
    ]
    if users:
        raise PreflightRefused(
            f"{host.name}: in use: {', '.join(users)}",
            hint="stop those VMs first, or name other GPUs with --gpu",
        )


def _incapable(change: _Change, host: Host) -> PreflightRefused | None:
    able = change.able(host)
    unable = [gpu.pci_address for gpu in change.chosen(host) if gpu not in able]
    if not unable:
        return None
    return PreflightRefused(
        f"{host.name}: {', '.join(unable)} is not capable of passthrough",
        hint="VT-d or the AMD IOMMU must be on in the host's firmware",
    )


async def _set(work: _Switching, wrong: Sequence[GPU]) -> None:
    """Switch the GPUs; after a lost answer, the host's state decides whether that failed."""
    if not wrong:
        return
    devices = list(dict.fromkeys(gpu.dependent_device for gpu in wrong))
    enabled = work.change.enabled
    work.changed = True
    try:
        switch_gpus = work.vsphere.switch_passthrough
        await Call("passthrough", switch_gpus, work.host, devices, enabled=enabled)
    except OutcomeUnknown:
        able = work.change.able(await Call("inventory", work.now))
        if any(gpu.enabled != enabled for gpu in able):
            raise
    except GpuvmError:
        work.changed = False
        raise
    await _refresh(work)


async def _refresh(work: _Switching) -> None:
    """Without it the host's own schedule shows the change, so an error is only a warning."""
    try:
        await Call("refresh", work.vsphere.refresh_passthrough, work.host)
    except VSphereError as error:
        work.events.warning(f"its list of devices was not refreshed: {error}", work.host.name)


def _results(work: _Switching, error: GpuvmError | None = None) -> list[SwitchResult]:
    now = work.now()
    able, incapable = work.change.able(now), _incapable(work.change, now)
    return [
        SwitchResult(
            gpu,
            work.change.is_done(gpu),
            work.changed,
            error if gpu in able else error or incapable,
            now.in_maintenance_mode,
        )
        for gpu in work.change.chosen(now)
    ]


# Maintenance mode and the reboot.


async def _check_reboot(work: _Switching) -> None:
    """Raise PreflightRefused for a host that cannot be rebooted now, and NoPermission.

    Agent VMs are not checked: from 8.0.3 on, vCenter moves them or powers them off; before, that
    needs DRS, without which entering maintenance mode fails. A host that is already in maintenance
    mode runs no VMs.
    """
    wanted = {work.host.moref: privileges.REBOOT}
    for missing in (await Call("privileges", work.vsphere.missing_privileges, wanted)).values():
        if missing:
            raise NoPermission(", ".join(missing), work.host.name)
    residents: tuple[Resident, ...] = ()
    if not work.host.in_maintenance_mode:
        residents = await Call("residents", work.vsphere.residents, work.host)
    staying = [f"{vm.name} ({vm.stays})" for vm in residents if vm.stays and not vm.agent]
    if staying:
        raise PreflightRefused(
            f"{work.host.name} is not rebooted: vCenter does not move these running VMs: "
            f"{', '.join(staying)}",
            hint="stop or move them first; a reboot is never forced",
        )
    if not (await _state(work)).reboots:
        raise PreflightRefused(
            f"vCenter cannot reboot {work.host.name}",
            hint="put it into maintenance mode and reboot it from its console",
        )


async def _reboot(work: _Switching) -> None:
    try:
        if not work.host.in_maintenance_mode:
            await _enter_maintenance(work)
        await _restart(work)
    except (GpuvmError, KeyboardInterrupt):
        if not work.rebooting and not work.host.in_maintenance_mode:
            await _step_back(work)
        raise
    if not work.host.in_maintenance_mode or work.leave:
        await _leave_maintenance(work)


async def _enter_maintenance(work: _Switching) -> None:
    work.events.progress(work.host.name, "maintenance", 0.0)
    try:
        await _change_mode(
            work, ENTERING, work.vsphere.start_maintenance, lambda now: now.in_maintenance_mode
        )
    except (TaskFailed, DeadlinePassed) as error:
        error.hint = await _who_is_left(work) or error.hint
        raise


async def _who_is_left(work: _Switching) -> str | None:
    """Return a hint that names the VMs on the host: they nearly always block maintenance mode."""
    try:
        left = await Call("residents", work.vsphere.residents, work.host)
    except VSphereError:
        return None
    names = [f"{vm.name} ({vm.stays})" if vm.stays else vm.name for vm in left]
    agents = any(vm.agent for vm in left)
    retreat = "; retreat mode of the cluster removes vSphere Cluster Services"
    return f"still there: {', '.join(names)}{retreat if agents else ''}" if names else None


async def _leave_maintenance(work: _Switching) -> None:
    work.events.progress(work.host.name, "leaving", 0.0)
    start = work.vsphere.start_leaving_maintenance
    await _change_mode(work, LEAVING, start, lambda now: not now.in_maintenance_mode)


async def _step_back(work: _Switching) -> None:
    """Cancel entering maintenance mode, or leave it; errors show in the host's state afterwards."""
    try:
        for task in await _running(work, ENTERING):
            try:
                await Call("cancel", work.vsphere.cancel, task)
                await _end(work, task)
            except VSphereError:
                pass
        if (await _state(work)).in_maintenance_mode:
            await _leave_maintenance(work)
    except VSphereError:
        return


async def _change_mode(
    work: _Switching,
    operation: str,
    start: Callable[[Host], Task],
    so: Callable[[HostState], bool],
) -> None:
    """Change the mode; after a lost answer, look for the task before calling once more."""
    for last in (False, True):
        try:
            task = await Call(operation, start, work.host)
        except OutcomeUnknown:
            running = await _running(work, operation)
            if not running and so(await _state(work)):
                return
            if not running and last:
                raise
            if not running:
                continue
            task = running[0]
        await _end(work, task)
        return


async def _end(work: _Switching, task: Task) -> None:
    try:
        await End(task, task.operation, Deadline(MAINTENANCE_S, counts_queue=True))
    except Late:
        raise DeadlinePassed(f"{work.host.name}: {task.operation} took too long") from None


async def _restart(work: _Switching) -> None:
    """Reboot: the task ends when the reboot begins, a new boot time shows that it is complete."""
    name, moref = work.host.name, work.host.moref
    deadline = Deadline(REBOOT_S, counts_queue=True)
    work.events.progress(name, "rebooting", 0.0)
    try:
        before = (await NextHostChange(moref, deadline)).booted
        task = await _start_reboot(work)
        while True:
            now = await NextHostChange(moref, deadline, task)
            if now.connected and now.booted != before and _is_in_force(work, now):
                return
    except TaskFailed:
        work.rebooting = False
        raise
    except Late:
        raise DeadlinePassed(
            f"{name} is not back {REBOOT_S:g} s after its reboot", hint="check its console"
        ) from None


async def _start_reboot(work: _Switching) -> Task | None:
    """Start the reboot; after a lost answer, call once more if no task shows that it was made."""
    known, work.rebooting = await _reboots(work), True
    for last in (False, True):
        try:
            task: Task = await Call("reboot", work.vsphere.start_reboot, work.host)
        except OutcomeUnknown:
            work.events.note("no answer to the reboot: checking the host's tasks", work.host.name)
            if await _reboots(work) != known:
                return None
            if last:
                work.rebooting = False
                raise
        except GpuvmError:
            work.rebooting = False
            raise
        else:
            return task
    raise AssertionError("the last attempt returns or raises")


async def _reboots(work: _Switching) -> frozenset[MoRef]:
    recent_reboots = work.vsphere.recent_reboots
    found: frozenset[MoRef] = await Call("recent reboots", recent_reboots, work.host)
    return found


def _is_in_force(work: _Switching, host: HostChanged) -> bool:
    addresses = {gpu.pci_address for gpu in work.able}
    return addresses <= host.active if work.change.enabled else not addresses & host.active


async def _where(work: _Switching) -> str:
    """Return the state of the host, for the message after Ctrl-C."""
    name = work.host.name
    try:
        state = await _state(work)
    except (VSphereError, VCenterGone):
        return f"the state of {name} is unknown"
    if not state.connected:
        return f"{name} is rebooting, and in maintenance mode"
    return (
        f"{name} is in maintenance mode"
        if state.in_maintenance_mode
        else (f"{name} is not in maintenance mode")
    )


async def _state(work: _Switching) -> HostState:
    state: HostState = await Call("host state", work.vsphere.host_state, work.host)
    return state


async def _running(work: _Switching, operation: str) -> list[Task]:
    host_tasks = work.vsphere.host_tasks
    tasks: list[Task] = await Call(f"running {operation}", host_tasks, work.host, operation)
    return tasks
