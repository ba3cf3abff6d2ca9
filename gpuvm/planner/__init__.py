"""The difference between a spec and the inventory, as a plan: pure, no clock, no network.

    plan(spec, inventory)            -> Plan, shown before anything is changed
    plan_start(vms, spec, inventory) -> Plan that only powers on

A spec that was applied gives a plan without changes.
"""

from gpuvm.planner.allocations import without_holder
from gpuvm.planner.drift import assigned, drift
from gpuvm.planner.mmio import mmio_window_gib
from gpuvm.planner.model import Action, Finding, Plan, Step
from gpuvm.planner.plan import check_readable, plan, replan_lost, unreadable
from gpuvm.planner.restart import plan_start
from gpuvm.planner.sameness import differences

__all__ = [
    "Action",
    "Finding",
    "Plan",
    "Step",
    "assigned",
    "check_readable",
    "differences",
    "drift",
    "mmio_window_gib",
    "plan",
    "plan_start",
    "replan_lost",
    "unreadable",
    "without_holder",
]
