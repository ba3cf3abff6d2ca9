"""Bundle, launch, follow, fetch; TF_CONFIG for several workers.

    chosen = workload.find("captioning")
    workload.run(chosen, args, members, distributed=True, …)

A workload never imports gpuvm; what it keeps to is in workloads/README.md.
"""

from gpuvm.workload.asking import ask
from gpuvm.workload.bundle import Workload, find
from gpuvm.workload.follow import Progress
from gpuvm.workload.inputs import DATA, Inputs
from gpuvm.workload.member import Member
from gpuvm.workload.running import run

__all__ = ["DATA", "Inputs", "Member", "Progress", "Workload", "ask", "find", "run"]
