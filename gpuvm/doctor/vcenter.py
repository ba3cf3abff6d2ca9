"""The vCenter itself: its version, how its certificate is verified, what is licensed."""

from collections import Counter
from collections.abc import Iterator, Mapping

from gpuvm.accelerators import VGPU, DeviceGroup, DynamicPassthrough
from gpuvm.doctor.model import Check, Patient
from gpuvm.licences import Licence
from gpuvm.selection import major

_WITHOUT_VGPU = ("standard", "essentials")
"""Editions of vSphere; vGPUs need Enterprise Plus, vSphere Foundation or Cloud Foundation."""


def version(patient: Patient) -> Iterator[Check]:
    about = patient.inventory.vcenter
    api = about.api_version
    text = f"{about.name} {about.version}, API {api}"
    if isinstance(patient.spec.accelerator, DynamicPassthrough) and major(api) < 7:
        told = f"Dynamic DirectPath I/O needs vSphere 7.0, this vCenter's API is {api}"
        yield Check("vCenter", "failure", told, hint="--accelerator passthrough works here")
    elif major(api) < 7:
        hint = "accelerator passthrough works; upgrade for dynamic"
        yield Check("vCenter", "warning", f"{text}: no Dynamic DirectPath I/O before 7.0", hint)
    else:
        yield Check("vCenter", "ok", text + ("" if major(api) >= 8 else _NO_GROUPS))


_NO_GROUPS = ": Dynamic DirectPath I/O, but no device groups before 8.0"


def tls(patient: Patient) -> Iterator[Check]:
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


def licences(patient: Patient) -> Iterator[Check]:
    """What can be known of them; a licence that cannot be read stands in nobody's way."""
    if patient.licences is None:
        yield Check("licences", "ok", "not known: the vCenter does not tell this account")
    else:
        yield Check("licences", "ok", _licensed(patient, patient.licences))
        yield from _trouble(patient, patient.licences)
    if isinstance(patient.spec.accelerator, (VGPU, DeviceGroup)):
        told = "NVIDIA's vGPU licence is between guest and licence server: it cannot be known here"
        hint = "in a guest: nvidia-smi -q | grep -A2 License"
        yield Check("vGPU licence", "ok", told, hint)


def _licensed(patient: Patient, known: Mapping[str, Licence]) -> str:
    own = known.get(patient.inventory.vcenter.instance_uuid)
    hosts = Counter(
        _called(known.get(host.moref)) for host in patient.inventory.hosts if not host.unusable
    )
    told = ", ".join(f"{count} with {name}" for name, count in sorted(hosts.items()))
    return f"vCenter: {_called(own)}; hosts: {told or 'none'}"


def _called(licence: Licence | None) -> str:
    if licence is None:
        return "a licence that is not known"
    ends = f" (until {licence.expires})" if licence.expires else ""
    return licence.name + ends


def _trouble(patient: Patient, known: Mapping[str, Licence]) -> Iterator[Check]:
    inventory = patient.inventory
    owners = {host.moref: host.name for host in inventory.hosts}
    owners[inventory.vcenter.instance_uuid] = "the vCenter"
    for key, name in owners.items():
        licence = known.get(key)
        if licence is not None and licence.expired:
            text = f"{name}: {licence.name} expired on {licence.expires}"
            hint = "no VM is powered on without a licence: assign another one"
            yield Check("licences", "warning", text, hint)
    if isinstance(patient.spec.accelerator, VGPU):
        for host in inventory.hosts:
            licence = known.get(host.moref)
            if licence is not None and any(e in licence.name.lower() for e in _WITHOUT_VGPU):
                text = f"{host.name}: {licence.name} has no vGPUs"
                yield Check("licences", "warning", text, "Enterprise Plus or a Foundation has")
