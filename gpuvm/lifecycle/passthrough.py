"""Passthrough of a host's GPUs on or off, and the reboot that some hosts need for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpuvm.devices import GPU
from gpuvm.errors import GpuvmError, Interrupted, NotFound, OutcomeUnknown, PreflightRefused
from gpuvm.events import Events
from gpuvm.inventory import Host, Inventory
from gpuvm.lifecycle.rebooting import Reboot
from gpuvm.vsphere import HostChanged, VSphere


@dataclass(frozen=True)
class SwitchResult:
    """What became of one GPU; ``done`` says that it is as wished and in force.

    ``in_maintenance_mode`` is its host's.
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
    """One host after the other, so that never more than one is away.

    ``read`` gives the inventory of now; ``gpus`` are PCI addresses, all of a host's when there are
    none. A card that a VM runs with is not switched, whichever way. A host that fails does not keep
    the others from their turn. One that was in maintenance mode stays in it unless it is to leave
    it. Raises Interrupted on Ctrl-C, saying what the host is then.
    """
    results: list[SwitchResult] = []
    for host in hosts:
        events.progress(host.name, "passthrough", 0.0)
        work = _Switching(
            host, vsphere, read, events, enabled=enabled, gpus=gpus, leave=leave_maintenance
        )
        try:
            work.run(reboot=reboot)
            results += work.results()
        except GpuvmError as error:
            results += work.results(error)
        except KeyboardInterrupt:
            raise work.interrupted() from None
        events.progress(host.name, "done", 1.0)
    return tuple(results)


def moved_first(
    hosts: Sequence[Host],
    vsphere: VSphere,
    *,
    enabled: bool,
    gpus: Sequence[str] = (),
) -> dict[str, tuple[str, ...]]:
    """By host: the VMs that DRS moves away from it, and not back, before it is rebooted.

    Hosts that need no reboot are left out, and those that will be refused because a VM stays.
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
    """The hosts of these names that have one of these GPUs; without either, all that have a GPU.

    Raises NotFound for a host, and for a PCI address that none of the hosts has.
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
    """The command that finishes what was begun on the host."""
    verb = "enable" if enabled else "disable"
    only = "".join(f" --gpu {address}" for address in gpus)
    return f"gpuvm passthrough {verb} {host}{only} --reboot --leave-maintenance"


@dataclass(frozen=True)
class _Change:
    """What is wanted: passthrough on or off, for these cards of a host or for all."""

    enabled: bool
    gpus: Sequence[str]

    def chosen(self, host: Host) -> list[GPU]:
        """The named ones, and those that are switched with them: they hang on the same device."""
        if not self.gpus:
            return list(host.gpus)
        devices = {gpu.dependent_device for gpu in host.gpus if gpu.pci_address in self.gpus}
        return [gpu for gpu in host.gpus if gpu.dependent_device in devices]

    def able(self, host: Host) -> list[GPU]:
        return [gpu for gpu in self.chosen(host) if gpu.capable or not self.enabled]

    def is_done(self, gpu: GPU) -> bool:
        return gpu.enabled == gpu.active == self.enabled

    def needs_reboot(self, host: Host) -> bool:
        """Whatever is set: the host cannot rebind a card, or one waits for a reboot already."""
        return any(
            not self.is_done(gpu) and (gpu.enabled == self.enabled or not host.rebinds)
            for gpu in self.able(host)
        )


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
        gpus: Sequence[str],
        leave: bool,
    ) -> None:
        self.change = _Change(enabled, gpus)
        self.host, self.vsphere, self.read = host, vsphere, read
        self.leave, self.changed = leave, False
        self.reboot = Reboot(host, vsphere, events, is_right=self._is_in_force, leave=leave)

    def run(self, *, reboot: bool) -> None:
        """What would be in the way of a reboot is looked for before anything is changed."""
        self._check()
        if reboot and self.change.needs_reboot(self.host):
            self.reboot.check()
        wrong = [gpu for gpu in self.change.able(self.host) if gpu.enabled != self.change.enabled]
        self._check_unused(wrong)
        self._set(wrong)
        if reboot and not all(map(self.change.is_done, self.change.able(self._now()))):
            self.reboot.check()
            self.changed = True
            self.reboot.run()
        elif self.leave and self.host.in_maintenance_mode:
            self.changed = True
            self.reboot.leave()

    def results(self, error: GpuvmError | None = None) -> list[SwitchResult]:
        now = self._now()
        able, incapable = self.change.able(now), self._incapable(now)
        return [
            SwitchResult(
                gpu,
                self.change.is_done(gpu),
                self.changed,
                error if gpu in able else error or incapable,
                now.in_maintenance_mode,
            )
            for gpu in self.change.chosen(now)
        ]

    def interrupted(self) -> Interrupted:
        where, command = (
            self.reboot.where(),
            continue_hint(self.host.name, enabled=self.change.enabled, gpus=self.change.gpus),
        )
        return Interrupted(
            f"interrupted; {where}",
            left=[self.host.name],
            hint=f"run '{command}' to continue and to leave maintenance mode",
        )

    def _check(self) -> None:
        if self.host.connection_state != "connected":
            raise PreflightRefused(f"{self.host.name}: {self.host.unusable}")
        if not self.host.gpus:
            raise PreflightRefused(f"{self.host.name} has no NVIDIA GPU")
        incapable = self._incapable(self.host)
        if incapable is not None and not self.change.able(self.host):
            raise incapable

    def _check_unused(self, wrong: Sequence[GPU]) -> None:
        """A card that serves vGPUs, or runs passed through, is taken from nobody."""
        users = [
            f"{gpu.pci_address} by {holder.vm}"
            for gpu in wrong
            for holder in gpu.holders
            if holder.powered_on
        ]
        if users:
            raise PreflightRefused(
                f"{self.host.name}: in use: {', '.join(users)}",
                hint="stop those VMs first, or name other cards with --gpu",
            )

    def _incapable(self, host: Host) -> PreflightRefused | None:
        able = self.change.able(host)
        unable = [gpu.pci_address for gpu in self.change.chosen(host) if gpu not in able]
        if not unable:
            return None
        return PreflightRefused(
            f"{host.name}: {', '.join(unable)} is not capable of passthrough",
            hint="VT-d or the AMD IOMMU must be on in the host's firmware",
        )

    def _set(self, wrong: Sequence[GPU]) -> None:
        """What the host says afterwards counts, so an answer that was lost is no failure yet."""
        if not wrong:
            return
        devices = list(dict.fromkeys(gpu.dependent_device for gpu in wrong))
        self.changed = True
        try:
            self.vsphere.switch_passthrough(self.host, devices, enabled=self.change.enabled)
        except OutcomeUnknown:
            able = self.change.able(self._now())
            if any(gpu.enabled != self.change.enabled for gpu in able):
                raise
        except GpuvmError:
            self.changed = False
            raise

    def _now(self) -> Host:
        return self.read().host(self.host.name) or self.host

    def _is_in_force(self, host: HostChanged) -> bool:
        addresses = {gpu.pci_address for gpu in self.change.able(self.host)}
        return addresses <= host.active if self.change.enabled else not addresses & host.active
