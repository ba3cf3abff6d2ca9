"""teardown(): power off, destroy, forget; already gone is success, and twice is quiet."""

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from gpuvm import guest
from gpuvm.errors import (
    DeadlinePassed,
    GpuvmError,
    Interrupted,
    OutcomeUnknown,
    PreflightRefused,
    VSphereError,
)
from gpuvm.events import Events
from gpuvm.inventory import UNREADABLE_HINT, VM, MoRef, UnreadableVM
from gpuvm.lifecycle import looking
from gpuvm.lifecycle.result import ApplyResult, Outcome, unreadable_outcome
from gpuvm.vsphere import Task, TaskEnded, UpdateStream, VSphere

DEADLINE_S = 600.0
LOOKS = 2
"""How often it is looked up what became of one operation on a VM before its error stands."""


def teardown(
    vms: Sequence[VM],
    vsphere: VSphere,
    events: Events,
    *,
    unreadable: Sequence[UnreadableVM] = (),
    with_disks: bool = False,
    with_templates: bool = False,
) -> ApplyResult:
    """Removes the VMs, all at once; only those that are ours, whatever was handed in.

    A VM with disks that it was not cloned with, and one that is a template by now, is left unless
    ``with_disks`` or ``with_templates`` says otherwise; of an ``unreadable`` one nobody can tell.

    Raises Interrupted on Ctrl-C, naming what is left.
    """
    ours = [vm for vm in vms if vm.ownership == "ours"]
    work = _Teardown(ours, vsphere, events, with_disks=with_disks, with_templates=with_templates)
    try:
        work.run()
    except KeyboardInterrupt:
        left = [vm.name for vm in ours if vm.moref not in work.gone]
        raise Interrupted(
            "interrupted; these VMs may be left: " + ", ".join(left),
            left=left,
            hint="run 'gpuvm teardown' again to continue",
        ) from None
    return ApplyResult((*map(work.outcome, ours), *map(unreadable_outcome, unreadable)))


def why_left(vm: VM, *, with_disks: bool, with_templates: bool) -> PreflightRefused | None:
    """What is in the way of destroying the VM; None when nothing is."""
    seen = replace(
        vm,
        template=vm.template and not with_templates,
        foreign_disks=() if with_disks else vm.foreign_disks,
    )
    why = looking.not_its_own(seen)
    return PreflightRefused(f"{vm.name} is left: {why}", hint=_hint(seen)) if why else None


def _hint(vm: VM) -> str | None:
    if vm.ownership != "ours":
        return None
    if vm.hidden:
        return UNREADABLE_HINT
    if vm.template:
        return "'gpuvm teardown --with-templates' destroys it too"
    return "detach them, or 'gpuvm teardown --with-disks' destroys them with the VM"


class _Teardown:
    def __init__(
        self,
        vms: Sequence[VM],
        vsphere: VSphere,
        events: Events,
        *,
        with_disks: bool,
        with_templates: bool,
    ) -> None:
        self.vms = {vm.moref: vm for vm in vms}
        self.vsphere, self.events = vsphere, events
        self.why_left = functools.partial(
            why_left, with_disks=with_disks, with_templates=with_templates
        )
        self.gone: set[str] = set()
        refused = {vm.moref: self.why_left(vm) for vm in vms}
        self.errors: dict[str, GpuvmError] = {key: why for key, why in refused.items() if why}
        self.looks: Counter[tuple[MoRef, str]] = Counter()
        self.begun = time.monotonic()

    def run(self) -> None:
        if self.vms.keys() == self.errors.keys():
            return
        with self.events.phase("teardown"), self.vsphere.stream() as stream:
            going = [vm for vm in self.vms.values() if vm.moref not in self.errors]
            self._power_off([vm for vm in going if vm.powered_on], stream)
            self._destroy([vm.moref for vm in going if not vm.powered_on], stream)
            for batch in stream.updates(lambda: self.begun + DEADLINE_S - time.monotonic()):
                ended = [change for change in batch if isinstance(change, TaskEnded)]
                self._advance(ended, stream)
                if time.monotonic() - self.begun > DEADLINE_S:
                    break
        for key in self.vms.keys() - self.gone - self.errors.keys():
            name = self.vms[key].name
            self.errors[key] = DeadlinePassed(f"{name}: not removed after {DEADLINE_S:g} s")

    def outcome(self, vm: VM) -> Outcome:
        error = self.errors.get(vm.moref)
        return Outcome(
            name=vm.name,
            host=vm.host,
            state="failed" if error else "removed",
            changed=error is None,
            gpus=vm.pci_addresses,
            error=error,
            left=error is not None,
        )

    def _power_off(self, vms: Sequence[VM], stream: UpdateStream) -> None:
        self._submit(vms, "power off", self.vsphere.start_power_off, stream)

    def _destroy(self, keys: Sequence[MoRef], stream: UpdateStream) -> None:
        """Looks once more, just before: a disk may have been attached while it was powered off."""
        try:
            now = {vm.moref: vm for vm in self.vsphere.read_vms(keys)}
        except VSphereError as error:
            self.errors.update(dict.fromkeys(keys, error))
            return
        for key in keys:
            why = self.why_left(now[key]) if key in now else None
            if key not in now:
                self._gone(key)
            elif why is not None:
                self.errors[key] = why
        going = [vm for vm in now.values() if vm.moref not in self.errors]
        self._submit(going, "destroy", self.vsphere.start_destroy, stream)

    def _submit(
        self,
        vms: Sequence[VM],
        operation: str,
        start: Callable[[MoRef], Task],
        stream: UpdateStream,
    ) -> None:
        tasks: dict[str, Task] = {}
        for vm in vms:
            self.events.progress(vm.name, operation, 0.0)
            try:
                tasks[vm.moref] = start(vm.moref)
            except VSphereError as error:
                self._failed(vm.moref, operation, error, stream)
        if tasks:
            stream.follow_tasks(tasks)

    def _advance(self, ended: Sequence[TaskEnded], stream: UpdateStream) -> None:
        off = []
        for change in ended:
            if change.error is not None:
                self._failed(change.key, change.operation, change.error, stream)
            elif change.operation == "power off":
                off.append(change.key)
            else:
                self._gone(change.key)
        self._destroy(off, stream)

    def _failed(self, key: MoRef, operation: str, error: GpuvmError, stream: UpdateStream) -> None:
        """Looks what is there now: what is done, or under way, is so whoever did it."""
        now = self._look(key, operation)
        if isinstance(now, Task):
            stream.follow_tasks({key: now})
        elif now == "gone":
            self._gone(key)
        elif now == "off" and (operation == "power off" or isinstance(error, OutcomeUnknown)):
            self._destroy([key], stream)
        elif now == "on" and (operation == "destroy" or isinstance(error, OutcomeUnknown)):
            self._power_off([self.vms[key]], stream)
        else:
            self.errors[key] = error

    def _look(self, key: MoRef, operation: str) -> Task | Literal["gone", "on", "off"] | None:
        """None when it cannot be told, or was looked at too often.

        Tasks first: one that ends meanwhile has left the state that is read after it.
        """
        self.looks[key, operation] += 1
        if self.looks[key, operation] > LOOKS:
            return None
        with contextlib.suppress(VSphereError):
            for one in ("destroy", "power off"):
                for task in self.vsphere.running_tasks(key, one):
                    return task
            found = self.vsphere.read_vms([key])
            if not found:
                return "gone"
            if found[0].ownership == "ours":
                return "on" if found[0].powered_on else "off"
        return None

    def _gone(self, key: MoRef) -> None:
        self.gone.add(key)
        guest.forget_host_keys(self.vms[key].instance_uuid)
        self.events.progress(self.vms[key].name, "removed", 1.0)
