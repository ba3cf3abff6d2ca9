"""Whether the VM template is fit for what is wished."""

from collections.abc import Iterator, Sequence

from gpuvm import selection
from gpuvm.doctor.model import Check, Level, Patient
from gpuvm.inventory import VMTemplate


def templates(patient: Patient) -> Iterator[Check]:
    inventory = patient.inventory
    if not inventory.templates:
        hint = "docs/template.md says how to make one"
        level: Level = "failure" if patient.prospect.makes_vms else "warning"
        yield Check("template", level, "there is no VM template at all", hint)
    for one in _candidates(patient):
        yield _fit(one, patient)
        yield from _inside(one, patient)


def _candidates(patient: Patient) -> Sequence[VMTemplate]:
    wanted, inventory = patient.spec.template, patient.inventory
    if wanted is None:
        return inventory.templates
    return selection.named(wanted, inventory.templates, inventory.cluster)


def _fit(one: VMTemplate, patient: Patient) -> Check:
    why = selection.unfit_for(one, patient.spec, patient.inventory)
    if why is not None:
        hint = "docs/template.md says what a template must have"
        return Check("template", _level(one, patient), f"{_label(one, patient)}: {why}", hint)
    about = (
        f"{_label(one, patient)}: {one.firmware}, hardware version {one.hardware_version}, "
        f"{one.cpus} CPUs, {one.memory_gib:g} GiB, {len(one.snapshots)} snapshots"
    )
    return Check("template", "ok", about)


def _label(one: VMTemplate, patient: Patient) -> str:
    return selection.distinct(one, patient.inventory.templates)


def _inside(one: VMTemplate, patient: Patient) -> Iterator[Check]:
    if one.tools == "guestToolsNotInstalled":
        label = _label(one, patient)
        text = f"{label}: VMware Tools are not installed, so no address is ever reported"
        yield Check("template", _level(one, patient), text, "install open-vm-tools in it")
    if one.secure_boot and patient.spec.has_gpu:
        text = f"{_label(one, patient)}: Secure Boot is on"
        hint = "the NVIDIA kernel module must be signed with an enrolled key, or it will not load"
        yield Check("template", "warning", text, hint)


def _level(one: VMTemplate, patient: Patient) -> Level:
    """A failure for the one that is used, and where there is no other."""
    chosen = patient.prospect.used.template
    needed = chosen == one if chosen else len(_candidates(patient)) == 1
    return "failure" if needed and patient.prospect.makes_vms else "warning"
