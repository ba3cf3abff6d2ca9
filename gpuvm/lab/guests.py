"""The lab's machines: makes guests fit what the vCenter says of the VMs.

Everything happens in the main thread, in :meth:`MachineRoom.run`; other threads only post to the
inbox. Processes are bound to the thread that starts them (prctl(2), PR_SET_PDEATHSIG).
"""

import base64
import logging
import os
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from gpuvm import paths, vsphere
from gpuvm.errors import GpuvmError
from gpuvm.lab import guest_gpus, hypervisor, processes
from gpuvm.lab.description import Description
from gpuvm.lab.guest.boot import Boot
from gpuvm.lab.state_folder import GuestRecord, LabFolder, SupervisorRecord

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
class Seen:
    """``everything`` is set for the first batch of a session: what is not in it is gone."""

    machines: Sequence[vsphere.WatchedVM]
    everything: bool


@dataclass(frozen=True)
class Booted:
    guest: hypervisor.Guest
    ready: hypervisor.GuestReady


@dataclass(frozen=True)
class Died:
    guest: hypervisor.Guest


@dataclass(frozen=True)
class ShutDown:
    """From inside, by a user."""

    guest: hypervisor.Guest


class Stop:
    pass


Message = Connected | Lost | Seen | Booted | Died | ShutDown | Stop
Inbox = queue.SimpleQueue[Message]


@dataclass
class _Slot:
    """A VM of the vCenter and its guest, if it has one."""

    machine: vsphere.WatchedVM
    guest: hypervisor.Guest | None = None
    ready: hypervisor.GuestReady | None = None
    published: str | None = None
    problem: str | None = None


@dataclass
class MachineRoom:
    """``port`` is that of the guests' SSH servers."""

    folder: LabFolder
    port: int
    description: Description
    isolation: hypervisor.Isolation
    inbox: Inbox = field(default_factory=queue.SimpleQueue)
    _session: vsphere.VSphere | None = None
    _problem: str | None = "the machines have not been read yet"
    _slots: dict[str, _Slot] = field(default_factory=dict)

    def run(self) -> None:
        """Runs until it is stopped; then no guest is left."""
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
            case Seen(machines, everything):
                self._problem = None
                self._forget_all_but(machines if everything else None)
                for machine in machines:
                    self._follow(machine)
            case Booted(guest, ready):
                for slot in self._slots_of(guest):
                    slot.ready = ready
            case ShutDown(guest):
                self._shut_down(guest)
            case Died(guest):
                self._note_death(guest)

    def _note_death(self, guest: hypervisor.Guest) -> None:
        for slot in self._slots_of(guest):
            slot.problem = f"its guest ended by itself: {guest.last_words()}"
            _LOG.warning("%s: %s", slot.machine.name, slot.problem)

    def _shut_down(self, guest: hypervisor.Guest) -> None:
        """The VM in the vCenter powers off as its guest does."""
        for slot in self._slots_of(guest):
            try:
                if self._session is not None:
                    self._session.shut_down(slot.machine.moref)
            except GpuvmError as error:
                slot.problem = f"its guest shut down, the VM did not: {error}"

    def _slots_of(self, guest: hypervisor.Guest) -> list[_Slot]:
        """None when it has been powered off meanwhile."""
        return [slot for slot in self._slots.values() if slot.guest is guest]

    def _forget_all_but(self, machines: Sequence[vsphere.WatchedVM] | None) -> None:
        if machines is not None:
            for key in set(self._slots) - {_key(machine) for machine in machines}:
                self._destroy(key)

    def _follow(self, machine: vsphere.WatchedVM) -> None:
        """Makes the guest fit what the vCenter says of its VM."""
        key = _key(machine)
        if machine.gone:
            self._destroy(key)
            return
        slot = self._slots.setdefault(key, _Slot(machine))
        slot.machine = machine
        if machine.extra_config.get(HOST_KEYS) != slot.published:
            slot.published = None  # somebody has set it back, such as a repair of the VM
        if slot.guest is not None and not _is_right(slot.guest, machine):
            self._power_off(slot)
        if slot.guest is None and _wants_guest(machine):
            self._power_on(key, slot)

    def _power_on(self, key: str, slot: _Slot) -> None:
        machine = slot.machine
        boot = Boot(
            vm=machine.name,
            addresses=_reachable(machine.addresses),
            port=self.port,
            isolated=self.isolation.isolated,
            gpus=guest_gpus.in_guest(self.description, machine.gpus, machine.instance_uuid),
            guestinfo={k: v for k, v in machine.extra_config.items() if k.startswith("guestinfo.")},
            hidden=_hidden(self.folder),
        )
        try:
            slot.guest = hypervisor.power_on(self.folder.guests / key, boot, self.isolation)
        except OSError as error:
            slot.problem = f"its guest could not be started: {error}"
            return
        _LOG.info("%s is on at %s", machine.name, ", ".join(machine.addresses))
        threading.Thread(target=self._listen, args=(slot.guest,), daemon=True).start()

    def _listen(self, guest: hypervisor.Guest) -> None:
        for message in guest.messages():
            if isinstance(message, hypervisor.GuestReady):
                self.inbox.put(Booted(guest, message))
            else:
                self.inbox.put(ShutDown(guest))
        self.inbox.put(Died(guest))

    def _publish(self) -> None:
        """Host keys that the vCenter does not have; what fails is tried at the next message."""
        for slot in self._slots.values():
            if self._session is None or slot.ready is None or slot.published:
                continue
            keys = _encoded(slot.ready.host_keys)
            try:
                if slot.machine.extra_config.get(HOST_KEYS) != keys:
                    self._session.vm_watch().publish_guestinfo(
                        slot.machine.moref, {HOST_KEYS: keys}
                    )
                slot.published = keys
            except GpuvmError as error:
                _LOG.warning("%s: host key not published: %s", slot.machine.name, error)

    def _power_off(self, slot: _Slot) -> None:
        guest, slot.guest, slot.ready = slot.guest, None, None
        slot.published, slot.problem = None, None
        if guest is not None:
            guest.power_off()
            self._sweep()
            _LOG.info("%s is off", slot.machine.name)

    def _destroy(self, key: str) -> None:
        slot = self._slots.pop(key, None)
        if slot is not None:
            self._power_off(slot)
            hypervisor.remove_folder(self.folder.guests / key)

    def _power_off_all(self) -> None:
        for slot in self._slots.values():
            self._power_off(slot)

    def _sweep(self) -> None:
        """Without namespaces, what a guest that was killed has left behind falls to us."""
        if not self.isolation.isolated:
            running = {slot.guest.process.pid for slot in self._slots.values() if slot.guest}
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
                guests=tuple(_record(s) for s in self._slots.values() if _is_ours(s.machine)),
            )
        )


def _key(machine: vsphere.WatchedVM) -> str:
    """A folder's name; the id alone may be given again by a vCenter that was started afresh."""
    return f"{machine.moref}-{machine.instance_uuid}"


def _encoded(host_keys: Sequence[str]) -> str:
    return base64.b64encode("\n".join(host_keys).encode()).decode()


def _is_ours(machine: vsphere.WatchedVM) -> bool:
    return not machine.is_template and bool(machine.extra_config.get(USER_DATA))


def _wants_guest(machine: vsphere.WatchedVM) -> bool:
    return _is_ours(machine) and machine.powered_on and bool(_reachable(machine.addresses))


def _reachable(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Those that a guest listens at: nobody hears it on the lab's isolated network (127.255)."""
    return tuple(a for a in addresses if a.startswith("127.") and not a.startswith("127.255."))


def _is_right(guest: hypervisor.Guest, machine: vsphere.WatchedVM) -> bool:
    """An address that is not reported for a moment is no reason to pull the plug."""
    now = _reachable(machine.addresses)
    moved = now and now != guest.boot.addresses
    return machine.powered_on and not moved


def _hidden(folder: LabFolder) -> tuple[str, ...]:
    """Everything of gpuvm's own that could lie within a folder that guests see."""
    roots = (folder.path, paths.state_dir(), paths.config_dir())
    return tuple(str(root.resolve()) for root in roots)


def _record(slot: _Slot) -> GuestRecord:
    machine, ready = slot.machine, slot.ready
    return GuestRecord(
        vm=machine.name,
        instance_uuid=machine.instance_uuid,
        address=machine.addresses[0] if machine.addresses else None,
        powered=machine.powered_on,
        process=processes.identify(ready.pid) if ready else None,
        problem=slot.problem,
    )
