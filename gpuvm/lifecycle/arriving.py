"""From power-on to ready: where the VM runs, its address, its guest."""

import abc
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from typing_extensions import override

from gpuvm import guest
from gpuvm.devices import DynamicDevice, PassthroughDevice
from gpuvm.errors import GpuvmError, VSphereError
from gpuvm.events import Events
from gpuvm.lifecycle.clone_request import endpoint
from gpuvm.lifecycle.machine import Check, Machine, Seen
from gpuvm.lifecycle.recovery import Recovery, if_told
from gpuvm.lifecycle.result import Until
from gpuvm.planner import Plan
from gpuvm.settings import Context
from gpuvm.vsphere import VSphere

STABLE_S = 1.0
"""How long addresses must stay the same before they are tried."""
READ_ANEW_S = 10.0
"""How often a VM is read anew whose guest has an address and has not published its host keys."""


class Arriving(Recovery, abc.ABC):
    def __init__(
        self,
        plan: Plan,
        vsphere: VSphere,
        context: Context,
        events: Events,
        until: Until,
        *,
        keep_failed: bool,
    ) -> None:
        super().__init__(plan, vsphere, events, until, keep_failed=keep_failed)
        self.context = context

    @override
    def powered_on(self, machines: Sequence[Machine]) -> None:
        """Where vCenter chooses at power-on, it is read what it chose."""
        chosen = [machine for machine in machines if self._is_placed(machine)]
        with if_told():
            now = self.vsphere.read_vms([machine.moref for machine in chosen]) if chosen else ()
            read = {vm.moref: vm for vm in now}
            for machine in chosen:
                machine.vm = read.get(machine.moref, machine.vm)
        self.await_address(machines)

    def _is_placed(self, machine: Machine) -> bool:
        tied = any(isinstance(device, PassthroughDevice) for device in machine.step.devices)
        dynamic = any(isinstance(device, DynamicDevice) for device in machine.step.devices)
        return dynamic or (self.plan.cluster.drs_places and not tied)

    def await_address(self, machines: Sequence[Machine]) -> None:
        if self.until == "powered-on":
            for machine in machines:
                self.done(machine)
            return
        for machine in machines:
            self.enter(machine, "address")
        self.stream.follow_vms({machine.name: machine.moref for machine in machines})

    def look_at_addresses(self) -> None:
        """Addresses are tried once they have stayed, and watched until SSH answers at one."""
        waiting = [m for m in self.machines.values() if m.stage == "address"]
        self._read_anew([m for m in waiting if m.seen and not self._may_be_trusted(m.seen)])
        for machine in waiting:
            seen = machine.seen
            if seen is None or self._unsettled(machine):
                continue
            if machine.awaited.among(seen.addresses) and self._may_be_trusted(seen):
                self._addressed(machine, seen)
        for machine in self.machines.values():
            if machine.check is not None and machine.check.settled:
                self.stream.forget(machine.name)

    def _may_be_trusted(self, seen: Seen) -> bool:
        first_use = self.context.ssh.trust == "first-use"
        return bool(seen.host_keys) or self.until == "address" or first_use

    def _read_anew(self, machines: Sequence[Machine]) -> None:
        """What a guest sets in guestinfo may be in no update: it is read, now and then."""
        now = time.monotonic()
        due = [m for m in machines if m.seen and now - max(m.read, m.seen.since) >= READ_ANEW_S]
        if not due:
            return
        with if_told():
            found = {vm.moref: vm for vm in self.vsphere.read_vms([m.moref for m in due])}
            for machine in due:
                machine.read = now
                vm = found.get(machine.moref)
                if vm is not None and vm.powered_on:
                    machine.see(vm.addresses, vm.host_keys)

    def _unsettled(self, machine: Machine) -> bool:
        return machine.seen is not None and time.monotonic() - machine.seen.since < STABLE_S

    def _addressed(self, machine: Machine, seen: Seen) -> None:
        self.finish(machine)
        if machine.vm is not None:
            counts = machine.awaited.among(seen.addresses)
            machine.vm = replace(machine.vm, addresses=counts, host_keys=seen.host_keys)
        if self.until == "address":
            self.stream.forget(machine.name)
            self.done(machine)
            return
        machine.enter("ready")
        machine.check = Check(lambda answered: self._check_guest(machine, answered))

    def _check_guest(self, machine: Machine, answered: Callable[[], None]) -> guest.Ready:
        if machine.vm is None:
            raise VSphereError(f"{machine.name} was not read back")
        expected = guest.Expected(
            gpus=tuple((gpu.vendor_id, gpu.device_id) for gpu in machine.step.gpus),
            settings=self.context.guest,
        )
        deadline_s = self.plan.spec.deadlines.ready_s
        with self.events.phase("ready", machine.name):
            return guest.wait_ready(
                lambda: self._where(machine), expected, deadline_s, self.events, answered=answered
            )

    def _where(self, machine: Machine) -> guest.Endpoint:
        """As the guest reports it now: a lease may change after the first report."""
        assert machine.vm is not None  # noqa: S101 - it was read back before its check began
        seen, vm = machine.seen, machine.vm
        counts = machine.awaited.among(seen.addresses) if seen else ()
        if seen and counts:
            vm = replace(vm, addresses=counts, host_keys=seen.host_keys or vm.host_keys)
        return endpoint(vm, self.context)

    def collect_checks(self) -> None:
        for machine in self.machines.values():
            if machine.check is None:
                continue
            try:
                machine.ready = machine.check.result()
                self._note_address(machine, machine.ready.address)
            except GpuvmError as error:
                machine.error, machine.left = error, True
            self.done(machine)

    def _note_address(self, machine: Machine, answered: str) -> None:
        if machine.vm is not None and answered:
            others = [a for a in machine.vm.addresses if a != answered]
            machine.vm = replace(machine.vm, addresses=(answered, *others))
