"""create_snapshot(): what linked clones are made from, once, when somebody asks for it.

A template cannot be snapshotted: it is a VM for that moment, and is never powered on. Its notes say
so before it becomes one, so that a gpuvm that is killed leaves a template that is still known.
"""

import contextlib
import time
from collections.abc import Callable

from gpuvm.errors import DeadlinePassed, Interrupted, VSphereError
from gpuvm.events import Events
from gpuvm.inventory import Host, MoRef, VMTemplate
from gpuvm.vsphere import Task, TaskEnded, TemplateState, VSphere

NAME = "gpuvm"
DEADLINE_S = 600.0


def create_snapshot(template: VMTemplate, host: Host, pool: MoRef, vsphere: VSphere) -> None:
    """If there is none; ``host`` is where the template is a VM meanwhile.

    Goes on where one that was killed left off. Raises what the vCenter says, and Interrupted on
    Ctrl-C; the template is one again as far as the vCenter lets it.
    """
    work = _Making(template.moref, template.name, vsphere)
    try:
        work.make(host.moref, pool)
    except KeyboardInterrupt:
        work.try_to_restore()
        raise Interrupted(
            f"interrupted; {template.name} {work.what_it_is()}",
            left=[template.name],
            hint="run 'gpuvm provision --create-snapshot' again to continue",
        ) from None
    except VSphereError:
        work.try_to_restore()
        raise
    work.restore()


def restore_template(moref: MoRef, name: str, vsphere: VSphere) -> None:
    """Of one that was left a VM: it is a template again, with or without its snapshot."""
    _Making(moref, name, vsphere).restore()


def restore_templates(vsphere: VSphere, events: Events) -> None:
    """All that were left VMs, wherever in the vCenter; one that cannot be is told."""
    for moref, name in vsphere.unfinished_templates().items():
        try:
            restore_template(moref, name, vsphere)
        except VSphereError as error:
            events.warning(f"{name} is a template that was left a VM, and stays one: {error}")
        else:
            events.note("is a template again", name)


class _Making:
    """Each step is taken if it is not so already; an error counts if it is not so afterwards."""

    def __init__(self, moref: MoRef, name: str, vsphere: VSphere) -> None:
        self.moref, self.name, self.vsphere = moref, name, vsphere
        self.template = vsphere.template(moref, name)
        self.end = time.monotonic() + DEADLINE_S

    def make(self, host: MoRef, pool: MoRef) -> None:
        for last in (False, True):
            if self.template.state().has_snapshot:
                return
            self._until(lambda s: s.noted, lambda: self._note(noted=True))
            self._until(lambda s: not s.is_template, lambda: self.template.mark_as_vm(host, pool))
            try:
                self._take()
            except VSphereError:
                # Somebody else's gpuvm may have made a template of it again: once more, then.
                if last or not self.template.state().is_template:
                    raise

    def restore(self) -> None:
        self._follow_running()
        self._until(lambda s: s.is_template, self.template.mark_as_template)
        self._until(lambda s: not s.noted, lambda: self._note(noted=False))

    def try_to_restore(self) -> None:
        with contextlib.suppress(VSphereError):
            self._until(lambda s: s.is_template, self.template.mark_as_template)
            self._until(lambda s: not s.noted, lambda: self._note(noted=False))

    def what_it_is(self) -> str:
        with contextlib.suppress(VSphereError):
            if self.template.state().is_template:
                return "is a template as before"
        return "is a VM until its snapshot is made"

    def _take(self) -> None:
        self._follow_running()
        try:
            self._until(lambda s: s.has_snapshot, self._snapshot)
        except VSphereError:
            self._follow_running()
            if not self.template.state().has_snapshot:
                raise

    def _snapshot(self) -> None:
        self._wait(self.template.start_snapshot(NAME))

    def _note(self, *, noted: bool) -> None:
        self._wait(self.template.start_noting(noted=noted))

    def _follow_running(self) -> None:
        """Of a gpuvm that was killed, of another one, or one whose answer was lost."""
        for task in self.vsphere.running_tasks(self.moref, "snapshot"):
            with contextlib.suppress(VSphereError):
                self._wait(task)

    def _until(self, so: Callable[[TemplateState], bool], step: Callable[[], None]) -> None:
        if so(self.template.state()):
            return
        try:
            step()
        except VSphereError:
            if not so(self.template.state()):
                raise

    def _wait(self, task: Task) -> None:
        with self.vsphere.stream() as stream:
            stream.follow_tasks({self.name: task})
            for batch in stream.updates(lambda: self.end - time.monotonic()):
                for change in batch:
                    if isinstance(change, TaskEnded) and change.error is not None:
                        raise change.error
                if time.monotonic() > self.end:
                    raise DeadlinePassed(f"{self.name}: no snapshot after {DEADLINE_S:g} s")
