"""A grid divided among all VMs, and its contact sheet, for workloads that declare one."""

from collections.abc import Sequence
from pathlib import Path

from gpuvm.errors import BadInput, RunError
from gpuvm.results import Run
from gpuvm.runs.bundle import Workload, shipped
from gpuvm.runs.declaration import Sweep
from gpuvm.runs.fan_out import Member


def shared_out(
    workload: Workload, arguments: Sequence[str], *, sweep: bool, distributed: bool
) -> Sweep | None:
    """Returns the grid to divide among the VMs, or None.

    Raises BadInput for a workload without a grid, and for a share among the arguments.
    """
    grid = workload.declaration.sweep
    if grid is None and sweep:
        able = ", ".join(one.name for one in shipped() if one.declaration.sweep)
        raise BadInput(
            f"--sweep: {workload.name} has no grid to share out",
            hint=f"workloads with a grid: {able}",
        )
    if grid is None or not (sweep or distributed):
        return None
    if grid.share in _options(arguments):
        raise BadInput(f"{grid.share}: the grid is shared out over the VMs already")
    return grid


def with_grid(grid: Sweep, arguments: Sequence[str]) -> list[str]:
    """Adds the workload's default grid, unless the arguments define one."""
    given = _options(arguments)
    if any(axis.option in given for axis in grid.axes):
        return list(arguments)
    added = [(axis.option, axis.values) for axis in grid.axes if axis.single not in given]
    return [*arguments, *(word for pair in added for word in pair)]


def shares(grid: Sweep, members: Sequence[Member]) -> dict[str, list[str]]:
    """The arguments for each VM's share of the grid, by VM."""
    count = len(members)
    return {member.name: [grid.share, f"{i}/{count}"] for i, member in enumerate(members)}


def gather(workload: Workload, grid: Sweep, record: Run) -> Path:
    """Runs the workload locally on the fetched folders; returns the path of the contact sheet."""
    folders = sorted(str(file.parent) for file in record.dir.glob("*/results.json"))
    done = workload.run_here(["--out", str(record.dir), grid.gather, *folders])
    if done.returncode != 0:
        raise RunError(f"no contact sheet: {workload.error(done.stderr)}")
    return Path(done.stdout.strip().splitlines()[-1])


def _options(arguments: Sequence[str]) -> set[str]:
    """The option names in ``--x y`` and ``--x=y``."""
    return {argument.partition("=")[0] for argument in arguments}
