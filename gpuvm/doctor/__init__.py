"""Whether a vCenter has what gpuvm needs: a list of checks, each ok, a warning or a failure.

    trial = make_trial_plan(spec, inventory)
    run_checks(CheckInput(spec, inventory, trial, missing=…, tls=…, licences=…))

Pure, like the planner: everything was read before. A new check is a function in ``_CHECKS``.
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
    """Run all checks, in the order of ``_CHECKS``, and leave out duplicates."""
    results: list[Check] = []
    for find in _CHECKS:
        results += [
            check for check in find(given) if not any(_covers(one, check) for one in results)
        ]
    return tuple(results)


def _covers(earlier: Check, check: Check) -> bool:
    """Return whether an earlier check reported the same; the plan repeats most refusals."""
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
    checks.addresses,
    checks.not_shown,
    checks.templates,
    checks.choices,
    checks.plan,
)
