"""How the workers of a distributed run train together.

``allreduce`` brings their gradients together after every step: exact, for fast networks between the
VMs. ``local-sgd`` averages their weights now and then, over the connections that this process has
to each of them: little is sent, no port is opened, and a worker may be lost and come back.
"""

from gpuvm.errors import BadInput
from gpuvm.results import Strategy
from gpuvm.runs.bundle import Workload

HINT = "a workload that has allreduce goes on without it: '--strategy allreduce'"


def choose(workload: Workload, wanted: Strategy | None, *, detach: bool) -> Strategy:
    """The one that was asked for, or the first that the workload can do.

    Raises BadInput when the workload does not have it, or when nobody would average the weights.
    """
    known = workload.declaration.strategies
    if wanted is not None and workload.declaration.contract and wanted not in known:
        has = " and ".join(known) or "none"
        raise BadInput(f"--strategy {wanted}: {workload.name} does not have it; it has {has}")
    if wanted is None:
        usable = [one for one in known if not (detach and one == "local-sgd")]
        wanted = (usable or known or ("allreduce",))[0]
    if wanted == "local-sgd" and detach:
        raise BadInput("--strategy local-sgd averages over this terminal's connections", hint=HINT)
    return wanted
