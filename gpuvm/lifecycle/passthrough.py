"""Passthrough of a host's GPUs on or off, and the reboot that some hosts need for it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpuvm.errors import DeadlinePassed, GpuvmError, NotFound, PreflightRefused, VSphereError
from gpuvm.events import Events
from gpuvm.inventory import GPU, Host, Inventory
from gpuvm.vsphere import HostChanged, Task, TaskEnded, VSphere

REBOOT_S = 1800.0
MAINTENANCE_S = 660.0


@dataclass(frozen=True)
class Switched:
    """What became of one GPU; ``done`` says that it is as wished and in force."""

    gpu: GPU
    done: bool
    changed: bool
    error: GpuvmError | None = None

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
    reboot: bool = False,
) -> tuple[Switched, ...]:
    """One host after the other, so that never more than one is away.

    ``read`` gives the inventory of now. A host that fails does not keep the others from their turn.
    """
    results: list[Switched] = []
    for host in hosts:
        events.progress(host.name, "passthrough", 0.0)
        work = _Switching(host, vsphere, read, events, enabled=enabled)
        try:
            results += work.run(reboot=reboot)
        except GpuvmError as error:
            now = _gpus_of(host.name, read())
            results += [Switched(gpu, work.is_done(gpu), work.changed, error) for gpu in now]
        events.progress(host.name, "done", 1.0)
    return tuple(results)


def choose_hosts(names: Sequence[str], inventory: Inventory) -> list[Host]:
    """The hosts of these names; all that have a GPU when none is named. Raises NotFound."""
    if not names:
        return [host for host in inventory.hosts if host.gpus]
    found = []
    for name in dict.fromkeys(names):
        host = inventory.host(name)
        if host is None:
            raise NotFound("host", name, [h.name for h in inventory.hosts])
        found.append(host)
    return found


class _Switching:
    """One host."""

    def __init__(
        self,
        host: Host,
        vsphere: VSphere,
        read: Callable[[], Inventory],
        events: Events,
        *,
        enabled: bool,
    ) -> None:
        self.host, self.vsphere, self.read, self.events = host, vsphere, read, events
        self.enabled, self.changed = enabled, False

    def run(self, *, reboot: bool) -> list[Switched]:
        self._check()
        wrong = [gpu for gpu in self.host.gpus if gpu.enabled != self.enabled]
        if wrong:
            devices = list(dict.fromkeys(gpu.dependent_device for gpu in wrong))
            self.vsphere.switch_passthrough(
                self.host, devices, enabled=self.enabled, at_once=self.host.rebinds
            )
            self.changed = True
        now = _gpus_of(self.host.name, self.read())
        if reboot and not all(map(self.is_done, now)):
            self._reboot(now)
            now = _gpus_of(self.host.name, self.read())
        return [Switched(gpu, self.is_done(gpu), self.changed) for gpu in now]

    def is_done(self, gpu: GPU) -> bool:
        return gpu.enabled == gpu.active == self.enabled

    def _check(self) -> None:
        if self.host.connection_state != "connected":
            raise PreflightRefused(f"{self.host.name}: {self.host.unusable}")
        if not self.host.gpus:
            raise PreflightRefused(f"{self.host.name} has no NVIDIA GPU")
        incapable = [g for g in self.host.gpus if not g.capable and self.enabled]
        if incapable:
            raise PreflightRefused(
                f"{self.host.name}: {incapable[0].pci_address} is not capable of passthrough",
                hint="VT-d or the AMD IOMMU must be on in the host's firmware",
            )

    def _reboot(self, gpus: Sequence[GPU]) -> None:
        """Maintenance mode, reboot, back, and out of maintenance mode if it was not in it."""
        running = self.vsphere.running_on(self.host)
        if running:
            raise PreflightRefused(
                f"{self.host.name} is not rebooted: {', '.join(running)} run there",
                hint="stop or move them first; a reboot is never forced",
            )
        self.changed = True
        if not self.host.in_maintenance_mode:
            self._finish("maintenance", self.vsphere.start_maintenance(self.host))
        self._restart({gpu.pci_address for gpu in gpus})
        if not self.host.in_maintenance_mode:
            self._finish("leaving", self.vsphere.start_leaving_maintenance(self.host))

    def _finish(self, what: str, task: Task) -> None:
        self.events.progress(self.host.name, what, 0.0)
        end = time.monotonic() + MAINTENANCE_S
        with self.vsphere.board() as board:
            board.follow_tasks({self.host.name: task})
            for batch in board.batches(lambda: end - time.monotonic()):
                for change in batch:
                    if isinstance(change, TaskEnded) and change.error is not None:
                        raise change.error
                if time.monotonic() > end:
                    raise DeadlinePassed(f"{self.host.name}: {task.operation} took too long")

    def _restart(self, addresses: set[str]) -> None:
        """The task ends when the reboot has begun: another boot time says that it is over."""
        self.events.progress(self.host.name, "rebooting", 0.0)
        end, before = time.monotonic() + REBOOT_S, ""
        with self.vsphere.board() as board:
            board.follow_host("host", self.host.moref)
            for batch in board.batches(lambda: end - time.monotonic()):
                for change in batch:
                    if isinstance(change, TaskEnded) and change.error is not None:
                        raise change.error
                    if isinstance(change, HostChanged) and not before:
                        before = change.booted
                        board.follow_tasks({"reboot": self.vsphere.start_reboot(self.host)})
                    elif isinstance(change, HostChanged) and self._is_back(
                        change, before, addresses
                    ):
                        return
                if time.monotonic() > end:
                    raise DeadlinePassed(
                        f"{self.host.name} is not back {REBOOT_S:g} s after its reboot",
                        hint="it is in maintenance mode still: look at its console",
                    )
        raise VSphereError(f"{self.host.name}: nothing is heard of it any more")

    def _is_back(self, host: HostChanged, before: str, addresses: set[str]) -> bool:
        right = addresses <= host.active if self.enabled else not addresses & host.active
        return host.connected and host.booted != before and right


def _gpus_of(host: str, inventory: Inventory) -> tuple[GPU, ...]:
    found = inventory.host(host)
    return found.gpus if found else ()
