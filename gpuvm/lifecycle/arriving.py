"""From power-on to ready: where the VM runs, its customization, its address, its guest."""

import abc
import time
from collections.abc import Sequence
from dataclasses import replace

from typing_extensions import override

from gpuvm import guest
from gpuvm.errors import GpuvmError, VSphereError
from gpuvm.events import Events
from gpuvm.inventory import DynamicDevice, PassthroughDevice
from gpuvm.lifecycle import looking
from gpuvm.lifecycle.machine import Check, Machine
from gpuvm.lifecycle.recovery import Recovery, if_told
from gpuvm.lifecycle.requests import endpoint
from gpuvm.lifecycle.until import Until
from gpuvm.planner import Plan
from gpuvm.settings import Context
from gpuvm.vsphere import VSphere

STABLE_S = 1.0
"""How long an address must stay the same before it is trusted."""


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
        self.board.follow_vms({machine.name: machine.moref for machine in machines})

    def look_at_addresses(self) -> None:
        """An address counts when it has stayed, and after the customization that it comes from."""
        waiting = [m for m in self.machines.values() if m.stage == "address"]
        self._look_at_customizations([m for m in waiting if m.request.address])
        for machine in waiting:
            wished, seen = machine.request.address, machine.seen
            if machine.stage != "address" or seen is None or self._unsettled(machine):
                continue
            if wished is not None and not (machine.customized and seen.address == wished.address):
                continue
            if seen.host_keys or self.until == "address" or self.context.ssh.trust == "first-use":
                self._addressed(machine, seen.address, seen.host_keys)

    def _look_at_customizations(self, machines: Sequence[Machine]) -> None:
        unfinished = [m for m in machines if not m.customized and m.created]
        if not unfinished:
            for machine in machines:
                machine.customized = True
            return
        folder = self.plan.cluster.vm_folder
        ended = self.read_for(unfinished, "address", lambda: self.vsphere.customizations(folder))
        if ended is None:
            return
        for machine in unfinished:
            machine.customized = machine.moref in ended
            problem = ended.get(machine.moref)
            if problem is not None:
                self.board.forget(machine.name)
                self.finish(machine, ok=False)
                machine.error, machine.left = looking.not_customized(machine, problem), True
                self.done(machine)

    def _unsettled(self, machine: Machine) -> bool:
        return machine.seen is not None and time.monotonic() - machine.seen.since < STABLE_S

    def _addressed(self, machine: Machine, address: str, host_keys: tuple[str, ...]) -> None:
        self.finish(machine)
        self.board.forget(machine.name)
        if machine.vm is not None:
            machine.vm = replace(machine.vm, address=address, host_keys=host_keys)
        if self.until == "address":
            self.done(machine)
            return
        machine.enter("ready")
        machine.check = Check(lambda: self._check_guest(machine))

    def _check_guest(self, machine: Machine) -> guest.Ready:
        if machine.vm is None:
            raise VSphereError(f"{machine.name} was not read back")
        expected = guest.Expected(
            gpus=tuple((gpu.vendor_id, gpu.device_id) for gpu in machine.step.gpus),
            settings=self.context.guest,
        )
        where, deadline_s = endpoint(machine.vm, self.context), self.plan.spec.deadlines.ready_s
        with self.events.phase("ready", machine.name):
            return guest.wait_ready(where, expected, deadline_s, self.events)

    def collect_checks(self) -> None:
        for machine in self.machines.values():
            if machine.check is None:
                continue
            try:
                machine.ready = machine.check.result()
            except GpuvmError as error:
                machine.error, machine.left = error, True
            self.done(machine)
