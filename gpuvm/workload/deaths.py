"""When workers of one distributed run end: which of them died by itself, and which lost a peer."""

from collections.abc import Sequence

from gpuvm.errors import GpuvmError, PartlyDone, RunError, WorkerDied
from gpuvm.workload.follow import Follower, Outcome

LOST_A_PEER = 3
"""With this status a workload says that another worker went away (workloads/README.md)."""

Ending = tuple[Follower, Outcome]


def cause(endings: Sequence[Ending], out_of_reach: Sequence[Follower]) -> WorkerDied:
    """The first to end, unless it says itself that it lost a peer, or a guest is out of reach.

    A guest that went away as a whole is noticed last but is the reason for all others.
    """
    if out_of_reach:
        lost = out_of_reach[0]
        return WorkerDied(lost.name, None, [*lost.tail(), f"{lost.name} is out of reach"])
    failed = [ending for ending in endings if ending[1].failed]
    first, outcome = min(failed, key=lambda ending: (_victim(ending[1]), ending[1].at))
    return _died(first, outcome)


def sum_up(endings: Sequence[Ending]) -> GpuvmError | None:
    """Of programs that ran side by side without knowing of each other; None when all are well."""
    died = [_died(follower, outcome) for follower, outcome in endings if outcome.failed]
    if not died or len(endings) == len(died):
        return died[0] if died else None
    told = "; ".join(str(one) for one in died)
    return PartlyDone(f"{len(died)} of {len(endings)} failed: {told}")


def not_started(followers: Sequence[Follower], start_s: float) -> RunError:
    names = ", ".join(follower.name for follower in followers)
    last = [line for follower in followers for line in follower.tail()[-1:]]
    said = f": {last[0]}" if last else ""
    return RunError(
        f"not started within {start_s:g} s: {names}{said}",
        hint="a distributed program writes a 'start' record (workloads/README.md) when its "
        "cluster is up; distributed.start_s in gpuvm.yaml gives it more time",
    )


def _victim(outcome: Outcome) -> bool:
    return outcome.exit_status == LOST_A_PEER


def _died(follower: Follower, outcome: Outcome) -> WorkerDied:
    why = [str(outcome.error)] if outcome.error else []
    return WorkerDied(follower.name, outcome.exit_status, [*follower.tail(), *why])
