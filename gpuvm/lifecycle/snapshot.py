"""create_snapshot(): what linked clones are made from, once, when somebody asks for it."""

from gpuvm.errors import DeadlinePassed
from gpuvm.inventory import Host, MoRef, VMTemplate
from gpuvm.vsphere import TaskEnded, VSphere

NAME = "gpuvm"
DEADLINE_S = 600.0


def create_snapshot(template: VMTemplate, host: Host, pool: MoRef, vsphere: VSphere) -> None:
    """A template cannot be snapshotted: it is a VM for that moment, and is never powered on.

    Raises what the vCenter says; the template is one again in any case.
    """
    if not template.is_template:
        _take(template, vsphere)
        return
    vsphere.mark_as_vm(template.moref, host.moref, pool)
    try:
        _take(template, vsphere)
    finally:
        vsphere.mark_as_template(template.moref)


def _take(template: VMTemplate, vsphere: VSphere) -> None:
    with vsphere.board() as board:
        board.follow_tasks({template.name: vsphere.start_snapshot(template.moref, NAME)})
        for batch in board.batches(lambda: DEADLINE_S):
            for change in batch:
                if isinstance(change, TaskEnded) and change.error is not None:
                    raise change.error
                if isinstance(change, TaskEnded):
                    return
    raise DeadlinePassed(f"{template.name}: no snapshot after {DEADLINE_S:g} s")
