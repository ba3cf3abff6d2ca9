"""create_snapshot(): create the snapshot of a template that linked clones need, on request.

vCenter cannot snapshot a template, so it becomes a VM meanwhile, and is never powered on. A note on
it comes first, so that gpuvm can still identify the template if it is killed in between.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from gpuvm import privileges, selection
from gpuvm.errors import DeadlinePassed, Interrupted, NoPermission, PreflightRefused, VSphereError
from gpuvm.events import Events
from gpuvm.inventory import Host, Inventory, MoRef, VMTemplate
from gpuvm.lifecycle.driver import Call, Deadline, Driver, End, Late, VCenterGone
from gpuvm.spec import ClusterSpec
from gpuvm.vsphere import Task, TemplateHandle, TemplateState, VSphere

NAME = "gpuvm"
DEADLINE_S = 600.0


def missing_snapshot(spec: ClusterSpec, inventory: Inventory) -> tuple[VMTemplate, Host] | None:
    """Return the template without a snapshot and a host where it can be a VM, or None.

    Raises what ``selection.template`` raises, and PreflightRefused if no host can take it.
    """
    full = spec.model_copy(update={"clone_mode": "full"})
    template = selection.template(full, inventory)
    if template.snapshots and not template.unfinished:
        return None
    return template, _host_for(template, inventory)


def create_snapshot(template: VMTemplate, host: Host, pool: MoRef, vsphere: VSphere) -> None:
    """Create the snapshot if there is none; ``host`` is where the template is a VM meanwhile.

    Continues where a killed gpuvm stopped. Raises NoPermission before anything is changed. Raises
    vCenter's errors, and Interrupted on Ctrl-C, after an attempt to restore the template.
    """
    _check_privileges(template, pool, vsphere)
    work = _snapshotting(template.moref, template.name, vsphere)
    Driver(vsphere, Events()).run_one(template.name, make_snapshot(work, host.moref, pool))


def _check_privileges(template: VMTemplate, pool: MoRef, vsphere: VSphere) -> None:
    """Raise NoPermission: without the last privilege, the template would be left as a VM."""
    names = {template.moref: template.name, pool: "the resource pool"}
    wanted = {template.moref: privileges.SNAPSHOT, pool: privileges.POOL}
    for moref, missing in vsphere.missing_privileges(wanted).items():
        if missing:
            raise NoPermission(", ".join(missing), names[moref])


def restore_template(moref: MoRef, name: str, vsphere: VSphere) -> None:
    """Turn a template that is still a VM into a template again, with or without its snapshot."""
    work = _snapshotting(moref, name, vsphere)
    Driver(vsphere, Events()).run_one(name, restore(work))


def restore_templates(vsphere: VSphere, events: Events) -> None:
    """Restore every template of the vCenter that is still a VM; report those that fail."""
    for moref, name in vsphere.unfinished_templates().items():
        try:
            restore_template(moref, name, vsphere)
        except VSphereError as error:
            events.warning(f"{name} cannot be turned back into a template: {error}")
        else:
            events.note("is a template again", name)


def _host_for(template: VMTemplate, inventory: Inventory) -> Host:
    """Return the host where the template can be a VM: its own, or one that reaches its disks."""
    fitting = [
        host
        for host in inventory.hosts
        if host.unusable is None and set(template.datastores) <= set(host.datastores)
    ]
    if not fitting:
        names = {store.moref: store.name for store in inventory.datastores}
        stores = ", ".join(names.get(m, m) for m in template.datastores) or "its datastore"
        raise PreflightRefused(
            f"no host can take {template.name} while its snapshot is made",
            hint=f"a usable host of {inventory.cluster.name} must reach {stores}",
        )
    return next((host for host in fitting if host.moref == template.host), fitting[0])


@dataclass(frozen=True)
class _Snapshotting:
    moref: MoRef
    name: str
    vsphere: VSphere
    template: TemplateHandle
    deadline: Deadline


def _snapshotting(moref: MoRef, name: str, vsphere: VSphere) -> _Snapshotting:
    deadline = Deadline(DEADLINE_S, counts_queue=True)
    return _Snapshotting(moref, name, vsphere, vsphere.template(moref, name), deadline)


async def make_snapshot(work: _Snapshotting, host: MoRef, pool: MoRef) -> None:
    """Note, convert to a VM, snapshot, convert back; skip each step that is already done."""
    try:
        for last in (False, True):
            if (await _state(work)).has_snapshot:
                break
            await _note(work, noted=True)
            await _mark_as_vm(work, host, pool)
            try:
                await _take(work)
            except VSphereError:
                # Another gpuvm may have turned it back into a template: try once more.
                if last or not (await _state(work)).is_template:
                    raise
    except KeyboardInterrupt:
        await _try_to_restore(work)
        raise Interrupted(
            f"interrupted; {work.name} {await _what_it_is(work)}",
            left=[work.name],
            hint="run 'gpuvm provision --create-snapshot' again to continue",
        ) from None
    except VSphereError:
        await _try_to_restore(work)
        raise
    await restore(work)


async def restore(work: _Snapshotting) -> None:
    await _follow_running(work)
    await _mark_as_template(work)
    await _note(work, noted=False)


async def _try_to_restore(work: _Snapshotting) -> None:
    try:
        await _mark_as_template(work)
        await _note(work, noted=False)
    except (VSphereError, VCenterGone):
        return


async def _what_it_is(work: _Snapshotting) -> str:
    try:
        if (await _state(work)).is_template:
            return "is a template as before"
    except (VSphereError, VCenterGone):
        pass
    return "is a VM until its snapshot is made"


async def _take(work: _Snapshotting) -> None:
    await _follow_running(work)
    if (await _state(work)).has_snapshot:
        return
    try:
        await _wait(work, await Call("snapshot", work.template.start_snapshot, NAME))
    except VSphereError:
        await _follow_running(work)
        if not (await _state(work)).has_snapshot:
            raise


async def _note(work: _Snapshotting, *, noted: bool) -> None:
    if (await _state(work)).noted == noted:
        return
    try:
        await _wait(work, await Call("note", work.template.start_noting, noted=noted))
    except VSphereError:
        if (await _state(work)).noted != noted:
            raise


async def _mark_as_vm(work: _Snapshotting, host: MoRef, pool: MoRef) -> None:
    await _mark(
        work,
        lambda state: not state.is_template,
        lambda: work.template.mark_as_vm(host, pool),
    )


async def _mark_as_template(work: _Snapshotting) -> None:
    await _mark(work, lambda state: state.is_template, work.template.mark_as_template)


async def _mark(
    work: _Snapshotting, so: Callable[[TemplateState], bool], mark: Callable[[], None]
) -> None:
    """Convert; an error counts only if the state is not ``so`` afterwards."""
    if so(await _state(work)):
        return
    try:
        await Call("mark", mark)
    except VSphereError:
        if not so(await _state(work)):
            raise


async def _state(work: _Snapshotting) -> TemplateState:
    state: TemplateState = await Call("state", work.template.state)
    return state


async def _follow_running(work: _Snapshotting) -> None:
    """Wait for running snapshot tasks: another gpuvm's, a killed one's, or after a lost answer."""
    running = await Call("running snapshot", work.vsphere.running_tasks, work.moref, "snapshot")
    for task in running:
        with contextlib.suppress(VSphereError):
            await _wait(work, task)


async def _wait(work: _Snapshotting, task: Task) -> None:
    try:
        await End(task, task.operation, work.deadline)
    except Late:
        raise DeadlinePassed(f"{work.name}: no snapshot after {DEADLINE_S:g} s") from None
