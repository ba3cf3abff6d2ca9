"""Reconciles the lab's guests with the VMs of the vCenter.

Everything happens in the main thread, in :meth:`GuestReconciler.run`; other threads only post to
the inbox. Processes are bound to the thread that starts them (prctl(2), PR_SET_PDEATHSIG).
"""

import base64
import logging
import os
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from gpuvm import paths, vsphere
from gpuvm.errors import GpuvmError, LabError
from gpuvm.lab import addresses, guest_gpus, hypervisor, network, processes
from gpuvm.lab.description import Description
from gpuvm.lab.guest.boot import Boot
from gpuvm.lab.state_folder import GuestRecord, LabFolder, LabRecord, SupervisorRecord

HOST_KEYS = "guestinfo.gpuvm.ssh_host_keys"
USER_DATA = "guestinfo.userdata"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Connected:
    session: vsphere.VSphere


@dataclass(frozen=True)
class Lost:
    reason: str


@dataclass(frozen=True)
class VMsChanged:
    """``complete`` is set for the first list of a session: VMs that are not in it are gone."""

    vms: Sequence[vsphere.WatchedVM]
    complete: bool


@dataclass(frozen=True)
class Booted:
    guest: hypervisor.Guest
    ready: hypervisor.GuestReady


@dataclass(frozen=True)
class Died:
    guest: hypervisor.Guest


@dataclass(frozen=True)
class ShutDown:
    """A user has shut the guest down from inside."""

    guest: hypervisor.Guest


class Stop:
    pass


Message = Connected | Lost | VMsChanged | Booted | Died | ShutDown | Stop
Inbox = queue.SimpleQueue[Message]


@dataclass
class _ManagedVM:
    """A VM and its guest, if it has one."""

    vm: vsphere.WatchedVM
    guest: hypervisor.Guest | None = None
    cable: network.Cable | None = None
    ready: hypervisor.GuestReady | None = None
    published: str | None = None
    problem: str | None = None


@dataclass
class GuestReconciler:
    """``lab`` has the addresses and the SSH port of the guests.

    With a ``switch`` each has its own network.
    """

    folder: LabFolder
    lab: LabRecord
    description: Description
    isolation: hypervisor.Isolation
    switch: network.Switch | None = None
    inbox: Inbox = field(default_factory=queue.SimpleQueue)
    _session: vsphere.VSphere | None = None
    _problem: str | None = "the VMs have not been read yet"
    _vms: dict[str, _ManagedVM] = field(default_factory=dict)

    def run(self) -> None:
        """Runs until Stop is posted, then powers off all guests."""
        self._save()
        while not isinstance(message := self.inbox.get(), Stop):
            self._handle(message)
            self._publish()
            self._save()
        self._power_off_all()
        self._save()

    def _handle(self, message: Message) -> None:
        match message:
            case Connected(session):
                self._session = session
            case Lost(reason):
                self._session, self._problem = None, reason
            case VMsChanged(vms, complete):
                self._problem = None
                self._destroy_missing(vms if complete else None)
                for vm in vms:
                    self._reconcile(vm)
            case Booted(guest, ready):
                for managed in self._managed_by(guest):
                    managed.ready = ready
            case ShutDown(guest):
                self._shut_down(guest)
            case Died(guest):
                self._record_exit(guest)

    def _record_exit(self, guest: hypervisor.Guest) -> None:
        for managed in self._managed_by(guest):
            managed.problem = f"its guest exited unexpectedly: {guest.last_console_line()}"
            _LOG.warning("%s: %s", managed.vm.name, managed.problem)

    def _shut_down(self, guest: hypervisor.Guest) -> None:
        """Powers off the VM in the vCenter."""
        for managed in self._managed_by(guest):
            try:
                if self._session is not None:
                    self._session.shut_down(managed.vm.moref)
            except GpuvmError as error:
                managed.problem = f"its guest shut down, but the VM did not: {error}"

    def _managed_by(self, guest: hypervisor.Guest) -> list[_ManagedVM]:
        return [managed for managed in self._vms.values() if managed.guest is guest]

    def _destroy_missing(self, vms: Sequence[vsphere.WatchedVM] | None) -> None:
        if vms is not None:
            for key in set(self._vms) - {_key(vm) for vm in vms}:
                self._destroy(key)

    def _reconcile(self, vm: vsphere.WatchedVM) -> None:
        """Starts, stops or keeps the guest, as the VM requires."""
        key = _key(vm)
        if vm.gone:
            self._destroy(key)
            return
        managed = self._vms.setdefault(key, _ManagedVM(vm))
        managed.vm = vm
        if vm.extra_config.get(HOST_KEYS) != managed.published:
            managed.published = None  # it was reset, for example by a repair of the VM
        if managed.guest is not None and not self._matches(managed.guest, vm):
            self._power_off(managed)
        if managed.guest is None and self._needs_guest(vm):
            self._power_on(key, managed)

    def _needs_guest(self, vm: vsphere.WatchedVM) -> bool:
        return _has_user_data(vm) and vm.powered_on and bool(self._reachable(vm))

    def _matches(self, guest: hypervisor.Guest, vm: vsphere.WatchedVM) -> bool:
        """A VM that briefly reports no address keeps its guest."""
        now = self._reachable(vm)
        moved = now and now != guest.boot.addresses
        return vm.powered_on and not moved

    def _reachable(self, vm: vsphere.WatchedVM) -> tuple[str, ...]:
        return addresses.reachable(vm.addresses, self.lab.address_block)

    def _power_on(self, key: str, managed: _ManagedVM) -> None:
        vm = managed.vm
        boot = Boot(
            vm=vm.name,
            addresses=self._reachable(vm),
            port=self.lab.ssh_port,
            isolated=self.isolation.isolated,
            gpus=guest_gpus.in_guest(self.description, vm.gpus, vm.instance_uuid),
            guestinfo={k: v for k, v in vm.extra_config.items() if k.startswith("guestinfo.")},
            hidden=_hidden_paths(self.folder),
        )
        try:
            if self.switch is not None:
                managed.cable = self.switch.plug(next(iter(vm.macs), None), boot.addresses)
            namespace = managed.cable.namespace if managed.cable else None
            managed.guest = hypervisor.power_on(
                self.folder.guests / key, boot, self.isolation, namespace
            )
        except (OSError, LabError) as error:
            self._unplug(managed)
            managed.problem = f"its guest could not be started: {error}"
            return
        _LOG.info("%s is on at %s", vm.name, ", ".join(vm.addresses))
        threading.Thread(target=self._listen, args=(managed.guest,), daemon=True).start()

    def _listen(self, guest: hypervisor.Guest) -> None:
        for message in guest.messages():
            if isinstance(message, hypervisor.GuestReady):
                self.inbox.put(Booted(guest, message))
            else:
                self.inbox.put(ShutDown(guest))
        self.inbox.put(Died(guest))

    def _publish(self) -> None:
        """Publishes host keys that the vCenter does not have; failures are retried later."""
        for managed in self._vms.values():
            if self._session is None or managed.ready is None or managed.published:
                continue
            keys = _encode(managed.ready.host_keys)
            try:
                if managed.vm.extra_config.get(HOST_KEYS) != keys:
                    self._session.vm_watch().publish_guestinfo(managed.vm.moref, {HOST_KEYS: keys})
                managed.published = keys
            except GpuvmError as error:
                _LOG.warning("%s: host key not published: %s", managed.vm.name, error)

    def _power_off(self, managed: _ManagedVM) -> None:
        guest, managed.guest, managed.ready = managed.guest, None, None
        managed.published, managed.problem = None, None
        if guest is not None:
            guest.power_off()
            self._unplug(managed)
            self._kill_strays()
            _LOG.info("%s is off", managed.vm.name)

    def _unplug(self, managed: _ManagedVM) -> None:
        cable, managed.cable = managed.cable, None
        if self.switch is None or cable is None:
            return
        try:
            self.switch.unplug(cable)
        except LabError as error:  # the kernel removes it later
            _LOG.warning("%s: %s", managed.vm.name, error)

    def _destroy(self, key: str) -> None:
        managed = self._vms.pop(key, None)
        if managed is not None:
            self._power_off(managed)
            hypervisor.remove_folder(self.folder.guests / key)

    def _power_off_all(self) -> None:
        for managed in self._vms.values():
            self._power_off(managed)

    def _kill_strays(self) -> None:
        """Kills processes that a killed guest left behind; needed only without namespaces."""
        if not self.isolation.isolated:
            running = {managed.guest.process.pid for managed in self._vms.values() if managed.guest}
            strays = set(processes.children(os.getpid())) - running
            hypervisor.kill(strays)
            for pid in strays:
                os.waitpid(pid, 0)

    def _save(self) -> None:
        self.folder.save(
            SupervisorRecord(
                pid=os.getpid(),
                connected=self._problem is None,
                isolation=str(self.isolation),
                isolated=self.isolation.isolated,
                problem=self._problem,
                switch=self.switch.namespace if self.switch is not None else None,
                guests=tuple(_record(s) for s in self._vms.values() if _has_user_data(s.vm)),
            )
        )


def _key(vm: vsphere.WatchedVM) -> str:
    """The name of the VM's folder; a restarted vCenter may assign the same MoRef again."""
    return f"{vm.moref}-{vm.instance_uuid}"


def _encode(host_keys: Sequence[str]) -> str:
    return base64.b64encode("\n".join(host_keys).encode()).decode()


def _has_user_data(vm: vsphere.WatchedVM) -> bool:
    return not vm.is_template and bool(vm.extra_config.get(USER_DATA))


def _hidden_paths(folder: LabFolder) -> tuple[str, ...]:
    """The folders of gpuvm itself, in case they lie in one that guests can see."""
    roots = (folder.path, paths.state_dir(), paths.config_dir())
    return tuple(str(root.resolve()) for root in roots)


def _record(managed: _ManagedVM) -> GuestRecord:
    vm, ready = managed.vm, managed.ready
    return GuestRecord(
        vm=vm.name,
        instance_uuid=vm.instance_uuid,
        address=vm.addresses[0] if vm.addresses else None,
        powered=vm.powered_on,
        process=processes.identify(ready.pid) if ready else None,
        cable=managed.cable,
        problem=managed.problem,
    )
