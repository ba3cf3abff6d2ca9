"""What provisioning would choose, and whether it could do it at all: the plan itself is tried."""

from collections import Counter
from collections.abc import Callable, Iterator

from gpuvm import selection, storage
from gpuvm.accelerators import DeviceGroup
from gpuvm.doctor.model import Check, Patient
from gpuvm.errors import GpuvmError, SeveralRefused
from gpuvm.planner import Action, Plan

_DONE: dict[Action, str] = {
    "create": "to make",
    "power-on": "to power on",
    "keep": "unchanged",
    "remove": "to remove",
}


def choices(patient: Patient) -> Iterator[Check]:
    """Device group, network and datastore: those of the plan, else what is known without one."""
    if isinstance(patient.spec.accelerator, DeviceGroup):
        yield _tried("device group", lambda: _device_group(patient))
    if not patient.prospect.makes_vms:
        return
    yield _tried("network", lambda: _network(patient))
    if isinstance(patient.prospect.plan, Plan):
        yield from _datastores(patient.prospect.plan)
    elif patient.prospect.used.datastores:
        for store in patient.prospect.used.datastores:
            yield Check("datastore", "ok", f"{store.name}: {store.free_gib:.0f} GiB free")
    elif not any(store.accessible for store in patient.inventory.datastores):
        yield Check("datastore", "failure", "no host has a datastore that can be reached")


def plan(patient: Patient) -> Iterator[Check]:
    """Says no where ``gpuvm plan`` does, with its words."""
    made = patient.prospect.plan
    if isinstance(made, GpuvmError):
        several = made.errors if isinstance(made, SeveralRefused) else (made,)
        yield from (Check("plan", "failure", str(error), error.hint) for error in several)
        return
    counted = Counter(step.action for step in made.steps)
    told = ", ".join(f"{counted[a]} {what}" for a, what in _DONE.items() if counted[a])
    yield Check("plan", "ok", f"VMs: {told}")
    for finding in made.findings:
        yield Check("plan", "warning", finding.text, finding.hint)


def _device_group(patient: Patient) -> str:
    selection.check_device_group(patient.spec, patient.inventory)
    return "offered"


def _network(patient: Patient) -> str:
    made = patient.prospect.plan
    if isinstance(made, Plan):
        return made.network.name if made.network else _TEMPLATES_OWN
    chosen = selection.network(patient.spec, patient.inventory, ())
    return chosen.name if chosen else _TEMPLATES_OWN


_TEMPLATES_OWN = "the template's own"


def _datastores(made: Plan) -> Iterator[Check]:
    if made.template is None or not made.datastores:
        yield Check("datastore", "ok", "none is needed")
        return
    for store in made.datastores:
        clones = sum(step.datastore == store for step in made.created)
        space = storage.Space.of(made.spec, made.template, clones)
        yield Check("datastore", "ok", f"{store.name}: {store.free_gib:.0f} GiB free, {space}")


def _tried(name: str, find: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", find())
    except GpuvmError as error:
        return Check(name, "failure", str(error), error.hint)
