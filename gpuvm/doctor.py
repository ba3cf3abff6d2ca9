"""Whether a vCenter has what gpuvm needs: a list of checks, each ok, a warning or a failure.

    for check in examine(spec, inventory, missing, tls="ca"): ...

Pure, like the planner: what is judged here was read before. A new check is one more function in
``_CHECKS``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gpuvm import permissions, selection
from gpuvm.accelerators import DeviceGroup
from gpuvm.errors import GpuvmError
from gpuvm.inventory import Host, Inventory, MoRef, VMTemplate
from gpuvm.spec import ClusterSpec

Level = Literal["ok", "warning", "failure"]


@dataclass(frozen=True)
class Check:
    """``hint`` says what to do about it, where something is to be done."""

    name: str
    level: Level
    text: str
    hint: str | None = None


@dataclass(frozen=True)
class Patient:
    """``missing`` are the privileges that the account lacks, per object."""

    spec: ClusterSpec
    inventory: Inventory
    missing: Mapping[MoRef, Sequence[str]]
    tls: str


def examine(
    spec: ClusterSpec, inventory: Inventory, missing: Mapping[MoRef, Sequence[str]], tls: str
) -> tuple[Check, ...]:
    """All checks, in the order in which things are needed."""
    patient = Patient(spec, inventory, missing, tls)
    return tuple(check for checks in _CHECKS for check in checks(patient))


def _version(patient: Patient) -> Iterator[Check]:
    about = patient.inventory.vcenter
    text = f"{about.name} {about.version}, API {about.api_version}"
    if _major(about.api_version) >= 7:
        yield Check("vCenter", "ok", text)
    else:
        yield Check(
            "vCenter",
            "warning",
            f"{text}: no Dynamic DirectPath I/O before 7.0",
            hint="accelerator passthrough works; upgrade for dynamic",
        )


def _tls(patient: Patient) -> Iterator[Check]:
    said = {
        "system": "verified by the system's certificate store",
        "ca": "verified by the context's CA file",
        "sha256": "pinned by its SHA-256",
    }
    if patient.tls in said:
        yield Check("TLS", "ok", f"the vCenter's certificate is {said[patient.tls]}")
    else:
        yield Check(
            "TLS",
            "warning",
            "the vCenter's certificate is not verified: anybody between could read the password",
            hint="fetch the CA from https://VCENTER/certs/download.zip, 'gpuvm init --ca-file'",
        )


def _privileges(patient: Patient) -> Iterator[Check]:
    names = permissions.names(patient.inventory)
    wanted = permissions.to_provision(patient.inventory)
    lacking = [
        f"{', '.join(patient.missing[moref])} on {names[moref]}"
        for moref in wanted
        if patient.missing.get(moref)
    ]
    if lacking:
        hint = "docs/permissions.md has the roles, and the govc lines that make them"
        yield Check("privileges", "failure", "missing: " + "; ".join(lacking), hint)
    else:
        yield Check("privileges", "ok", "this account may provision and remove VMs here")
    for host in patient.inventory.hosts:
        missing = patient.missing.get(host.moref)
        if missing:
            text = f"{host.name}: no {', '.join(missing)}"
            hint = "only 'gpuvm passthrough' needs them; another account may have them"
            yield Check("host privileges", "warning", text, hint)


def _templates(patient: Patient) -> Iterator[Check]:
    spec, inventory = patient.spec, patient.inventory
    if not inventory.templates:
        hint = "docs/template.md says how to make one"
        yield Check("template", "failure", "there is no VM template at all", hint)
    for template in inventory.templates:
        if spec.template in (None, template.name):
            yield _template(template, patient)
            yield from _inside(template)


def _template(template: VMTemplate, patient: Patient) -> Check:
    """One that does not fit is a failure where there is no other to use."""
    spec, inventory = patient.spec, patient.inventory
    why = selection.unfit_for(template, spec, inventory.vcenter.api_version)
    if why is not None:
        only = spec.template is not None or len(inventory.templates) == 1
        hint = "docs/template.md says what a template must have"
        level: Level = "failure" if only else "warning"
        return Check("template", level, f"{template.name}: {why}", hint)
    about = (
        f"{template.name}: {template.firmware}, hardware version {template.hardware_version}, "
        f"{template.cpus} CPUs, {template.memory_gib:g} GiB, {len(template.snapshots)} snapshots"
    )
    return Check("template", "ok", about)


def _inside(template: VMTemplate) -> Iterator[Check]:
    if template.tools == "guestToolsNotInstalled":
        text = f"{template.name}: VMware Tools are not installed, so no address is ever reported"
        yield Check("template", "failure", text, "install open-vm-tools in it")
    if template.secure_boot:
        text = f"{template.name}: Secure Boot is on"
        hint = "the NVIDIA kernel module must be signed with an enrolled key, or it will not load"
        yield Check("template", "warning", text, hint)


def _hosts(patient: Patient) -> Iterator[Check]:
    hosts = patient.inventory.hosts
    usable = [host for host in hosts if host.unusable is None]
    level: Level = "ok" if usable else "failure"
    versions = ", ".join(sorted({f"ESXi {host.version}" for host in usable if host.version}))
    yield Check("hosts", level, f"{len(usable)} of {len(hosts)} can take VMs; {versions}")
    for host in hosts:
        if host.unusable is not None:
            yield Check("hosts", "warning", f"{host.name}: {host.unusable}", "it will be left out")


def _gpus(patient: Patient) -> Iterator[Check]:
    gpus = patient.inventory.gpus
    if not gpus:
        yield Check(
            "GPUs",
            "warning" if not patient.spec.has_gpu else "failure",
            "no host has an NVIDIA GPU that this account can see",
            hint="'--accelerator none' makes VMs without one",
        )
        return
    free = [gpu for gpu in gpus if gpu.free or gpu.profiles]
    yield Check("GPUs", "ok" if free else "warning", f"{len(free)} of {len(gpus)} are to be had")
    for gpu in gpus:
        if gpu.holders or gpu.free or gpu.profiles:
            continue
        hint = f"gpuvm passthrough enable {gpu.host} --reboot" if gpu.capable else _IOMMU
        yield Check("GPUs", "warning", f"{gpu.host} {gpu.pci_address}: {gpu.state}", hint)


_IOMMU = "VT-d or the AMD IOMMU must be on in the host's firmware"


def _vgpu(patient: Patient) -> Iterator[Check]:
    for host in patient.inventory.hosts:
        offered = {p.name for gpu in host.gpus for p in gpu.profiles}
        if host.shares_gpus and not offered and not all(gpu.active for gpu in host.gpus):
            text = f"{host.name} is set to Shared Direct and offers no vGPU type"
            hint = "NVIDIA's vGPU driver (VIB) is missing on the host, or does not know the card"
            yield Check("vGPU", "failure", text, hint)


def _placement(patient: Patient) -> Iterator[Check]:
    """Device group, network and datastore as provisioning would choose them."""
    spec, inventory = patient.spec, patient.inventory
    hosts = [host for host in inventory.hosts if host.unusable is None]
    if isinstance(spec.accelerator, DeviceGroup):
        yield _tried("device group", lambda: _device_group(spec, inventory))
    yield _tried("network", lambda: _network(spec, inventory, hosts))
    yield _tried("datastore", lambda: _datastore(spec, inventory, hosts))


def _device_group(spec: ClusterSpec, inventory: Inventory) -> str:
    selection.check_device_group(spec, inventory)
    return "offered"


def _network(spec: ClusterSpec, inventory: Inventory, hosts: Sequence[Host]) -> str:
    chosen = selection.network(spec, inventory, hosts)
    return chosen.name if chosen else "the template's own"


def _datastore(spec: ClusterSpec, inventory: Inventory, hosts: Sequence[Host]) -> str:
    source = selection.template(spec, inventory)
    chosen = selection.datastore(spec, inventory, hosts, source, spec.vms)
    return f"{chosen.name}: {chosen.free_gib:.0f} GiB free, a clone takes {source.disk_gib:g} GiB"


def _tried(name: str, find: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", find())
    except GpuvmError as error:
        return Check(name, "failure", str(error), error.hint)


def _major(version: str) -> int:
    return int(version.split(".", maxsplit=1)[0])


_CHECKS: tuple[Callable[[Patient], Iterator[Check]], ...] = (
    _version,
    _tls,
    _privileges,
    _hosts,
    _gpus,
    _vgpu,
    _templates,
    _placement,
)
