"""What a run takes over from one before it: the checkpoints, each to where it can be gone on from.

Workers of one distributed run hold the same weights and only the chief keeps them, so the chief's
go to every VM: they share no disk. Programs side by side each have checkpoints of their own.
"""

from collections.abc import Sequence
from pathlib import Path

from gpuvm import results
from gpuvm.errors import PreflightRefused

CHECKPOINTS = "checkpoints"

Files = dict[str, Path | bytes]


def possible(run: results.Run) -> bool:
    """Something was kept that could be gone on from."""
    return any(_of(run, vm) for vm in run.manifest.vms)


def files(run: results.Run, members: int, *, distributed: bool) -> Sequence[Files]:
    """For each of so many members, in order, the files to push into its folder.

    Raises PreflightRefused when there is nothing to go on from, or it fits only other VMs.
    """
    vms = run.manifest.vms
    if distributed or run.manifest.distributed or len(vms) == 1:
        found = [_of(run, vms[0])] * members
    elif len(vms) == members:
        found = [_of(run, vm) for vm in vms]
    else:
        raise PreflightRefused(
            f"run {run.run_id} was on {len(vms)} VMs, each with checkpoints of its own; "
            f"this one would be on {members}",
            hint="name as many with --vm, in the same order: " + ", ".join(vm.name for vm in vms),
        )
    if not any(found):
        raise PreflightRefused(f"run {run.run_id} has no checkpoint to go on from")
    return found


def _of(run: results.Run, vm: results.RunVM) -> Files:
    folder = run.vm_dir(vm.name)
    kept = [file for file in (folder / CHECKPOINTS).rglob("*") if file.is_file()]
    return {f"out/{file.relative_to(folder)}": file for file in kept}
