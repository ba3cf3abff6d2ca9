"""The order of work: provision, stop and teardown, with fan-out and clean-up; never prints.

    plan = lifecycle.make_plan(spec, vsphere)
    result = lifecycle.provision(plan, vsphere, context, events)
    result = lifecycle.teardown(vms, vsphere, events)

One VM's failure does not stop the others; the result holds each VM's outcome.
"""

from gpuvm.lifecycle.passthrough import (
    SwitchResult,
    choose_hosts,
    continue_hint,
    moved_first,
    switch_passthrough,
)
from gpuvm.lifecycle.planning import make_plan, make_start_plan, read_inventory
from gpuvm.lifecycle.provision import provision
from gpuvm.lifecycle.result import ApplyResult, Outcome, Until
from gpuvm.lifecycle.snapshot import (
    create_snapshot,
    missing_snapshot,
    restore_template,
    restore_templates,
)
from gpuvm.lifecycle.stop import GRACE_S, stop
from gpuvm.lifecycle.teardown import await_clones, clones_in_flight, teardown, why_left
from gpuvm.results import Recorder, provisioning_record

__all__ = [
    "GRACE_S",
    "ApplyResult",
    "Outcome",
    "Recorder",
    "SwitchResult",
    "Until",
    "await_clones",
    "choose_hosts",
    "clones_in_flight",
    "continue_hint",
    "create_snapshot",
    "make_plan",
    "make_start_plan",
    "missing_snapshot",
    "moved_first",
    "provision",
    "provisioning_record",
    "read_inventory",
    "restore_template",
    "restore_templates",
    "stop",
    "switch_passthrough",
    "teardown",
    "why_left",
]
