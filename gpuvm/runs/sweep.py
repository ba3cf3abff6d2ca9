"""A grid of weights shared out over all VMs, and one contact sheet of it (the style workload)."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gpuvm.errors import BadInput, RunError
from gpuvm.results import Run
from gpuvm.runs.bundle import Workload
from gpuvm.runs.fan_out import Member

SWEEPS = "style_transfer"
SHARE = "--cells"
GRID = {"--content-weight": "0:2:5", "--style-weight": "0:10:5"}
"""The paper's: what ``OPTION`` is for one weight, ``OPTIONs`` is for several."""


def shared_out(
    workload: Workload, arguments: Sequence[str], *, sweep: bool, distributed: bool
) -> bool:
    """Whether each VM makes its share alone, which is all that style can distribute.

    Raises BadInput for a workload that has nothing to sweep, and for a share of one's own.
    """
    if workload.name != SWEEPS:
        if sweep:
            raise BadInput(
                f"--sweep: {workload.name} has no grid to share out", hint="style has one"
            )
        return False
    if (sweep or distributed) and SHARE in _options(arguments):
        raise BadInput(f"{SHARE}: the grid is shared out over the VMs already")
    return sweep or distributed


def with_grid(arguments: Sequence[str]) -> list[str]:
    """The arguments with the paper's grid, unless they have one of their own."""
    given = _options(arguments)
    if any(f"{option}s" in given for option in GRID):
        return list(arguments)
    added = [(f"{option}s", axis) for option, axis in GRID.items() if option not in given]
    return [*arguments, *(word for pair in added for word in pair)]


def shares(members: Sequence[Member]) -> dict[str, list[str]]:
    """Which cells of the grid each VM makes. The VMs need nothing of each other."""
    count = len(members)
    return {member.name: [SHARE, f"{i}/{count}"] for i, member in enumerate(members)}


def gather(workload: Workload, record: Run) -> Path:
    """Runs the workload itself on the fetched folders, which knows how a sheet is made."""
    folders = sorted(str(file.parent) for file in record.dir.glob("*/results.json"))
    command = [sys.executable, str(workload.program), "--out", str(record.dir), "--gather"]
    done = subprocess.run([*command, *folders], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunError(f"no contact sheet: {last_line}")
    return record.dir / "sheet.png"


def _options(arguments: Sequence[str]) -> set[str]:
    """Their names, of ``--x y`` and ``--x=y`` alike."""
    return {argument.partition("=")[0] for argument in arguments}
