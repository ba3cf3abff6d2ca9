"""What the account lacks, on which object, of what this wish needs."""

from collections.abc import Iterator

from gpuvm import permissions
from gpuvm.doctor.model import Check, Patient
from gpuvm.permissions import Wanted

_ROLES = "docs/permissions.md has the roles, and the govc lines that make them"


def privileges(patient: Patient) -> Iterator[Check]:
    spec, inventory, used = patient.spec, patient.inventory, patient.prospect.used
    lacking = _lacking(patient, permissions.to_provision(spec, inventory, used))
    if lacking:
        yield Check("privileges", "failure", "missing: " + lacking, _ROLES)
    else:
        told = "this account may make, start and remove these VMs"
        yield Check("privileges", "ok", told + _not_asked(patient))
    cancelling = _lacking(patient, permissions.to_cancel(used))
    if cancelling:
        hint = "only Ctrl-C needs it, to stop clones that are under way"
        yield Check("privileges", "warning", "missing: " + cancelling, hint)
    moving = _lacking(patient, permissions.to_move(spec, inventory))
    if moving and not lacking:
        hint = "only 'gpuvm start' needs it, to find a GPU on another host"
        yield Check("privileges", "warning", "missing: " + moving, hint)
    for moref, wanted in permissions.to_prepare_hosts(inventory).items():
        missing = _lacking(patient, {moref: wanted})
        if missing:
            hint = "only 'gpuvm passthrough' needs them; another account may have them"
            yield Check("host privileges", "warning", "missing: " + missing, hint)


def _lacking(patient: Patient, wanted: Wanted) -> str:
    names = permissions.names(patient.spec, patient.inventory)
    told = []
    for moref, asked in wanted.items():
        missing = [one for one in asked if one in patient.missing.get(moref, ())]
        if missing:
            told.append(f"{', '.join(missing)} on {names[moref]}")
    return "; ".join(told)


def _not_asked(patient: Patient) -> str:
    """What could not be asked is no finding, but is not ok either."""
    used = patient.prospect.used
    if not patient.prospect.makes_vms:
        return ""
    objects = {
        "template": used.template,
        "datastore": used.datastores or None,
        "template's network": used.network,
    }
    unknown = [name for name, found in objects.items() if found is None]
    return f"; not asked, for it is not known which: {', '.join(unknown)}" if unknown else ""
