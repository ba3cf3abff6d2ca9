"""Bundle, launch, follow, fetch; TF_CONFIG for several workers.

    chosen = runs.find("captioning")
    runs.run(chosen, args, members, distributed=True, …)

A workload never imports gpuvm; workloads/README.md describes its contract and its workload.toml.
"""

from gpuvm.runs import caption, sweep
from gpuvm.runs.bundle import Workload, find, of_project
from gpuvm.runs.call import run_once
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
from gpuvm.runs.here import begin_record_here, run_here
from gpuvm.runs.inputs import DATA, Inputs, with_data
from gpuvm.runs.launch import RunOptions
from gpuvm.runs.run import attach, begin_record, run
from gpuvm.runs.strategy import choose as choose_strategy

__all__ = [
    "DATA",
    "Inputs",
    "Member",
    "Progress",
    "Reference",
    "RunOptions",
    "RunState",
    "Watch",
    "Workload",
    "adopt",
    "attach",
    "begin_record",
    "begin_record_here",
    "cancel_run",
    "caption",
    "choose_strategy",
    "fetch_run",
    "find",
    "list_runs",
    "of_project",
    "prune_runs",
    "read_logs",
    "run",
    "run_here",
    "run_once",
    "state_of",
    "sweep",
    "with_data",
]
