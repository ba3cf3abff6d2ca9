"""Hosts, GPUs and vGPUs, whatever the wish makes of them."""

from collections.abc import Iterator

from gpuvm.accelerators import VGPU, DeviceGroup, DynamicPassthrough
from gpuvm.devices import GPU
from gpuvm.doctor.model import Check, Level, Patient
from gpuvm.inventory import Host
from gpuvm.selection import major

_IOMMU = "VT-d or the AMD IOMMU must be on in the host's firmware"


def hosts(patient: Patient) -> Iterator[Check]:
    every = patient.inventory.hosts
    usable = [host for host in every if host.unusable is None]
    level: Level = "ok" if usable else "failure"
    versions = ", ".join(sorted({f"ESXi {host.version}" for host in usable if host.version}))
    yield Check("hosts", level, f"{len(usable)} of {len(every)} can take VMs; {versions}")
    for host in every:
        if host.unusable is not None:
            yield Check("hosts", "warning", f"{host.name} is left out: {host.unusable}")
    yield from _too_old(patient, usable)


def _too_old(patient: Patient, usable: list[Host]) -> Iterator[Check]:
    """A vCenter may be newer than its hosts."""
    since = {DynamicPassthrough: (7, "Dynamic DirectPath I/O"), DeviceGroup: (8, "device groups")}
    needed, what = since.get(type(patient.spec.accelerator), (0, ""))
    for host in usable:
        if host.version and major(host.version) < needed:
            text = f"{host.name}: ESXi {host.version} has no {what}, which came with {needed}.0"
            yield Check("hosts", "warning", text, "upgrade it, or take it out of the cluster")


def gpus(patient: Patient) -> Iterator[Check]:
    found = patient.inventory.gpus
    if not found:
        cluster = patient.inventory.cluster.name
        yield Check(
            "GPUs",
            "warning" if not patient.spec.has_gpu else "failure",
            f"no host of {cluster} has an NVIDIA GPU that this account can see",
            hint="--accelerator none makes VMs without one",
        )
        return
    free = [gpu for gpu in found if gpu.free or _is_shared(gpu)]
    yield Check("GPUs", "ok" if free else "warning", f"{len(free)} of {len(found)} are to be had")
    for gpu in found:
        if (gpu.holders and not gpu.reboot_pending) or gpu.free or _is_shared(gpu):
            continue
        hint = _hint(gpu)
        yield Check("GPUs", "warning", f"{gpu.host} {gpu.pci_address}: {gpu.state}", hint)


def unseen(patient: Patient) -> Iterator[Check]:
    """What stays open, because the vCenter does not show it or this account may not see it."""
    for note in patient.inventory.notes:
        yield Check("not shown", "warning", note, _READ)
    for store in patient.inventory.datastores:
        if store.hidden:
            yield Check("not shown", "warning", f"{store.name}: {store.hidden}", _READ)


_READ = "docs/permissions.md says what an account must be able to read"


def _is_shared(gpu: GPU) -> bool:
    return bool(gpu.profiles) and not gpu.reboot_pending


def _hint(gpu: GPU) -> str:
    """Of a shared GPU both ways are open: what was switched may have been a mistake."""
    if not gpu.capable:
        return _IOMMU
    if gpu.profiles:
        only = f"{gpu.host} --gpu {gpu.pci_address}"
        return f"gpuvm passthrough disable {only} keeps it shared; enable {only} --reboot does not"
    return f"gpuvm passthrough enable {gpu.host} --reboot"


def vgpu(patient: Patient) -> Iterator[Check]:
    """The driver shows itself by the types that a host offers; its version is not in the API."""
    wished = isinstance(patient.spec.accelerator, VGPU)
    for host in patient.inventory.hosts:
        if host.gpus and host.unusable is None and (wished or _sharing(host)):
            yield _driver(host, wished=wished)


def _sharing(host: Host) -> list[GPU]:
    return [gpu for gpu in host.gpus if gpu.shared_direct]


def _driver(host: Host, *, wished: bool) -> Check:
    offered = sorted({p.name for gpu in host.gpus for p in gpu.profiles})
    if offered:
        told = f"{host.name} has NVIDIA's vGPU driver, and offers {', '.join(offered)}"
        return Check("vGPU", "ok", told)
    sharing = _sharing(host)
    if not sharing:
        text = (
            f"no GPU of {host.name} is set to Shared Direct: whether it has a vGPU driver is not "
            "known"
        )
        hint = "the host's graphics devices, 'Shared Direct', if they are to offer vGPUs"
        return Check("vGPU", "warning", text, hint)
    named = f"{', '.join(gpu.pci_address for gpu in sharing)} on {host.name}: Shared Direct"
    if all(gpu.active for gpu in sharing):
        only = "".join(f" --gpu {gpu.pci_address}" for gpu in sharing)
        text = f"{named}, and set aside for passthrough"
        return Check("vGPU", "warning", text, f"gpuvm passthrough disable {host.name}{only}")
    text = f"{named}, and no vGPU type is offered"
    hint = "NVIDIA's vGPU driver (VIB) is missing on the host, or does not know the card"
    return Check("vGPU", "failure" if wished else "warning", text, hint)
