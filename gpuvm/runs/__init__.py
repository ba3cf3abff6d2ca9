"""Bundle, launch, follow, fetch; TF_CONFIG for several workers.

    chosen = runs.find("captioning")
    runs.run(chosen, args, members, distributed=True, …)

A workload never imports gpuvm; workloads/README.md has the contract that it keeps, and what it
declares in its workload.toml.
"""

from gpuvm.runs import caption, sweep
from gpuvm.runs.bundle import Workload, find
from gpuvm.runs.call import ask
from gpuvm.runs.fan_out import Member
from gpuvm.runs.follow import Progress
from gpuvm.runs.inputs import DATA, Inputs
from gpuvm.runs.run import begin_record, run

__all__ = [
    "DATA",
    "Inputs",
    "Member",
    "Progress",
    "Workload",
    "ask",
    "begin_record",
    "caption",
    "find",
    "run",
    "sweep",
]
