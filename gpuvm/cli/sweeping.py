"""gpuvm run style --sweep: one grid of weights over all VMs, and one contact sheet of it."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gpuvm.errors import BadInput, RunError
from gpuvm.results import Run
from gpuvm.workload import Workload

SWEEPS = "style_transfer"
GRID = ("--content-weights", "0:2:5", "--style-weights", "0:10:5")


def prepared(
    workload: Workload, arguments: Sequence[str], *, sweep: bool, distributed: bool
) -> tuple[list[str], bool]:
    """The arguments with the paper's grid, unless they say another; and whether over all VMs.

    Raises BadInput for a workload that has nothing to sweep.
    """
    if not sweep:
        return list(arguments), distributed
    if workload.name != SWEEPS:
        raise BadInput(f"--sweep: {workload.name} has no grid to share out", hint="style has one")
    own = any(argument in (GRID[0], GRID[2]) for argument in arguments)
    return [*arguments, *(() if own else GRID)], True


def gather(workload: Workload, record: Run) -> Path:
    """Runs the workload itself on the fetched folders, which knows how a sheet is made."""
    folders = sorted(str(file.parent) for file in record.dir.glob("*/results.json"))
    command = [sys.executable, str(workload.program), "--out", str(record.dir), "--gather"]
    done = subprocess.run([*command, *folders], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunError(f"no contact sheet: {done.stderr.strip().splitlines()[-1:]}")
    return record.dir / "sheet.png"
