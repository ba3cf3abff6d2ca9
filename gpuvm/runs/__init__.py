"""Bundle, launch, follow, fetch; TF_CONFIG for several workers.

    chosen = runs.find("captioning")
    runs.run(chosen, args, members, distributed=True, …)

A workload never imports gpuvm; workloads/README.md has the contract that it keeps, and what it
declares in its workload.toml.
"""

from gpuvm.runs import caption, sweep
from gpuvm.runs.bundle import Workload, find, of_project
from gpuvm.runs.call import ask
from gpuvm.runs.declaration import Reference
from gpuvm.runs.fan_out import Member
from gpuvm.runs.follow import Progress, Watch
from gpuvm.runs.guest_runs import (
    RunState,
    adopt,
    cancel_run,
    fetch_run,
    list_runs,
    prune_runs,
    read_logs,
    state_of,
)
from gpuvm.runs.inputs import DATA, Inputs
from gpuvm.runs.run import Terms, begin_record, run
from gpuvm.runs.watched import attach

__all__ = [
    "DATA",
    "Inputs",
    "Member",
    "Progress",
    "Reference",
    "RunState",
    "Terms",
    "Watch",
    "Workload",
    "adopt",
    "ask",
    "attach",
    "begin_record",
    "cancel_run",
    "caption",
    "fetch_run",
    "find",
    "list_runs",
    "of_project",
    "prune_runs",
    "read_logs",
    "run",
    "state_of",
    "sweep",
]
