"""Whether a vCenter has what gpuvm needs: a list of checks, each ok, a warning or a failure.

    prospect = prospect_of(spec, inventory)      what would be planned, and with which objects
    examine(CheckInput(spec, inventory, prospect, missing=…, tls=…, licences=…))

Pure, like the planner: what is judged here was read before. A new check is one more function in
``_CHECKS``.
"""

from collections.abc import Callable, Iterator

from gpuvm.doctor import checks
from gpuvm.doctor.anonymous import anonymous
from gpuvm.doctor.model import Check, CheckInput, Level
from gpuvm.doctor.trial_plan import TrialPlan, make_trial_plan

__all__ = [
    "Check",
    "CheckInput",
    "Level",
    "TrialPlan",
    "anonymous",
    "make_trial_plan",
    "run_checks",
]


def run_checks(given: CheckInput) -> tuple[Check, ...]:
    """All checks, in the order in which things are needed; the same thing is said once."""
    told: list[Check] = []
    for find in _CHECKS:
        told += [check for check in find(given) if not any(_covers(t, check) for t in told)]
    return tuple(told)


def _covers(earlier: Check, check: Check) -> bool:
    """The plan is refused for what another check has named already."""
    ranks = ("ok", "warning", "failure")
    as_bad = ranks.index(earlier.level) >= ranks.index(check.level) > 0
    return as_bad and earlier.text in f"{check.text} {check.hint}"


_CHECKS: tuple[Callable[[CheckInput], Iterator[Check]], ...] = (
    checks.version,
    checks.tls,
    checks.licences,
    checks.account_privileges,
    checks.hosts,
    checks.gpus,
    checks.vgpu,
    checks.unseen,
    checks.templates,
    checks.choices,
    checks.plan,
)
