"""Reboot: one host into maintenance mode, rebooted, and out of it again; never by force.

vCenter does not say who put a host into maintenance mode. One that was in it stays in it, unless
``leave`` says otherwise; one that this call put into it is taken out again, also when its reboot
could not begin.
"""

import contextlib
import time
from collections.abc import Callable

from gpuvm.errors import (
    DeadlinePassed,
    GpuvmError,
    OutcomeUnknown,
    PreflightRefused,
    TaskFailed,
    VSphereError,
)
from gpuvm.events import Events
from gpuvm.inventory import Host
from gpuvm.vsphere import HostChanged, HostState, Resident, Task, TaskEnded, VSphere

REBOOT_S = 1800.0
MAINTENANCE_S = 660.0
ENTERING, LEAVING = "maintenance mode", "leaving maintenance mode"


class Reboot:
    """``begun`` says that the host went, or may have gone, down."""

    def __init__(
        self,
        host: Host,
        vsphere: VSphere,
        events: Events,
        *,
        is_right: Callable[[HostChanged], bool],
        leave: bool,
    ) -> None:
        self.host, self.vsphere, self.events, self.is_right = host, vsphere, events, is_right
        self.stays = host.in_maintenance_mode and not leave
        self.begun = False

    def check(self) -> None:
        """Raises PreflightRefused for a host that cannot be rebooted now.

        vCenter's own agents are no reason: they go by themselves, or with the others.
        """
        staying = [f"{vm.name} ({vm.stays})" for vm in self._residents() if vm.stays]
        if staying:
            raise PreflightRefused(
                f"{self.host.name} is not rebooted: these VMs run there and are not moved by "
                f"vCenter: {', '.join(staying)}",
                hint="stop or move them first; a reboot is never forced",
            )
        if not self.vsphere.host_state(self.host).reboots:
            raise PreflightRefused(
                f"{self.host.name} cannot be rebooted by the vCenter",
                hint="put it into maintenance mode and reboot it by its console",
            )

    def run(self) -> None:
        try:
            if not self.host.in_maintenance_mode:
                self._enter()
            self._restart()
        except (GpuvmError, KeyboardInterrupt):
            if not self.begun and not self.host.in_maintenance_mode:
                self._step_back()
            raise
        self.leave()

    def leave(self) -> None:
        if not self.stays:
            self.events.progress(self.host.name, "leaving", 0.0)
            start = self.vsphere.start_leaving_maintenance
            self._do(LEAVING, start, lambda state: not state.in_maintenance_mode)

    def where(self) -> str:
        """What the host is now, for somebody who interrupted."""
        with contextlib.suppress(VSphereError):
            state = self.vsphere.host_state(self.host)
            if not state.connected:
                return f"{self.host.name} is rebooting, and in maintenance mode"
            if state.in_maintenance_mode:
                return f"{self.host.name} is in maintenance mode"
            return f"{self.host.name} is not in maintenance mode"
        return f"what {self.host.name} does now is not known"

    def _enter(self) -> None:
        self.events.progress(self.host.name, "maintenance", 0.0)
        start = self.vsphere.start_maintenance
        try:
            self._do(ENTERING, start, lambda state: state.in_maintenance_mode)
        except (TaskFailed, DeadlinePassed) as error:
            error.hint = self._who_is_left() or error.hint
            raise

    def _residents(self) -> list[Resident]:
        """Without vCenter's own; nobody runs on a host that is in maintenance mode already."""
        if self.host.in_maintenance_mode:
            return []
        return [vm for vm in self.vsphere.residents(self.host) if not vm.agent]

    def _who_is_left(self) -> str | None:
        """The reason why a host does not get into maintenance mode is nearly always a VM on it."""
        with contextlib.suppress(VSphereError):
            left = self.vsphere.residents(self.host)
            names = [f"{vm.name} ({vm.stays})" if vm.stays else vm.name for vm in left]
            agents = any(vm.agent for vm in left)
            retreat = "; retreat mode of the cluster removes vSphere Cluster Services"
            if names:
                return f"still there: {', '.join(names)}{retreat if agents else ''}"
        return None

    def _step_back(self) -> None:
        """As it was before: what does not succeed is seen in the host's state afterwards."""
        with contextlib.suppress(VSphereError):
            for task in self.vsphere.host_tasks(self.host, ENTERING):
                with contextlib.suppress(VSphereError):
                    self.vsphere.cancel(task)
                    self._follow(task)
            if self.vsphere.host_state(self.host).in_maintenance_mode:
                self.leave()

    def _do(
        self, operation: str, start: Callable[[Host], Task], so: Callable[[HostState], bool]
    ) -> None:
        """Without an answer it is looked for, and never asked for twice."""
        try:
            task = start(self.host)
        except OutcomeUnknown:
            running = self.vsphere.host_tasks(self.host, operation)
            if not running and not so(self.vsphere.host_state(self.host)):
                raise
            if not running:
                return
            task = running[0]
        self._follow(task)

    def _follow(self, task: Task) -> None:
        end = time.monotonic() + MAINTENANCE_S
        with self.vsphere.stream() as stream:
            stream.follow_tasks({self.host.name: task})
            for batch in stream.updates(lambda: end - time.monotonic()):
                for change in batch:
                    if isinstance(change, TaskEnded) and change.error is not None:
                        raise change.error
                if time.monotonic() > end:
                    raise DeadlinePassed(f"{self.host.name}: {task.operation} took too long")

    def _restart(self) -> None:
        """The task ends when the reboot has begun: another boot time says that it is over."""
        name, end, before = self.host.name, time.monotonic() + REBOOT_S, ""
        self.events.progress(name, "rebooting", 0.0)
        with self.vsphere.stream() as stream:
            stream.follow_host(name, self.host.moref)
            for batch in stream.updates(lambda: end - time.monotonic()):
                for change in batch:
                    if isinstance(change, TaskEnded) and change.error is not None:
                        self.begun = False
                        raise change.error
                    if isinstance(change, HostChanged) and not before:
                        before = change.booted
                        stream.follow_tasks(self._start())
                    elif isinstance(change, HostChanged) and self._is_back(change, before):
                        return
                if time.monotonic() > end:
                    raise DeadlinePassed(
                        f"{name} is not back {REBOOT_S:g} s after its reboot",
                        hint="look at its console",
                    )
        raise VSphereError(f"{name}: nothing is heard of it any more")

    def _start(self) -> dict[str, Task]:
        """Without an answer the host itself tells whether it reboots."""
        self.begun = True
        try:
            return {self.host.name: self.vsphere.start_reboot(self.host)}
        except OutcomeUnknown:
            self.events.note("no answer to the reboot: watching the host", self.host.name)
            return {}
        except GpuvmError:
            self.begun = False
            raise

    def _is_back(self, change: HostChanged, before: str) -> bool:
        return change.connected and change.booted != before and self.is_right(change)
