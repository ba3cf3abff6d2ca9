"""The order of work: provision, stop and teardown, with fan-out and clean-up; never prints.

    result = lifecycle.provision(plan, vsphere, context, events)
    result = lifecycle.teardown(vms, vsphere, events)

Each VM's outcome is kept: one VM's failure does not stop the others.
"""

from gpuvm.lifecycle.outcome import ApplyResult, Outcome
from gpuvm.lifecycle.provision import provision
from gpuvm.lifecycle.records import Recorder, provisioning_record
from gpuvm.lifecycle.requests import endpoint
from gpuvm.lifecycle.stop import stop
from gpuvm.lifecycle.teardown import teardown
from gpuvm.lifecycle.until import Until

__all__ = [
    "ApplyResult",
    "Outcome",
    "Recorder",
    "Until",
    "endpoint",
    "provision",
    "provisioning_record",
    "stop",
    "teardown",
]
