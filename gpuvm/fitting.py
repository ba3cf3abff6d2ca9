"""What a GPU needs from its VM: EFI firmware and a 64-bit MMIO window; and which GPUs fit a spec.

A device maps its BARs into the VM's address space. Below 4 GiB there are 3.5 GiB for that; above
it, EFI firmware and a 64-bit MMIO window are needed (Dell's article 199172: a Tesla P100 needs
16 GiB and gets 3.5). GPUs with small BARs need neither. The API does not report BARs, so the models
with small ones are listed here; for others there is ``accelerator.mmio_gib: 0``. Every other GPU
counts as one with large BARs, which also works for small ones.

vGPUs of the C-series have large BARs (NVIDIA's vGPU user guide); so, by assumption, do those with
16 GiB of framebuffer or more. Smaller vGPUs of other series also start with BIOS.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from gpuvm.accelerators import VGPU, DeviceGroup, NoGPU, Passthrough
from gpuvm.devices import GPU, Device, DynamicDevice, PassthroughDevice, VGPUDevice, VGPUProfile
from gpuvm.inventory import Host, Inventory
from gpuvm.spec import ClusterSpec

SMALL_BARS = {0x13BD: "Tesla M10", 0x13F2: "Tesla M60", 0x1BB3: "Tesla P4", 0x1EB8: "Tesla T4"}
"""By PCI device id: their largest BAR has 256 MiB."""

LARGE_PROFILE_GIB = 16


def has_large_bars(gpu: GPU) -> bool:
    return gpu.device_id not in SMALL_BARS


def fits(spec: ClusterSpec, gpu: GPU) -> bool:
    """Return whether the spec's accelerator matches the GPU, which need not be free."""
    wanted = spec.accelerator
    if isinstance(wanted, NoGPU):
        return False
    if isinstance(wanted, VGPU):
        return any(profile.name == wanted.profile for profile in gpu.profiles)
    if isinstance(wanted, DeviceGroup):
        return True  # the devices of the group decide
    right = (wanted.model or "").lower() in gpu.name.lower()
    right = right and wanted.label in (None, gpu.label)
    if isinstance(wanted, Passthrough):
        return right and (not wanted.addresses or gpu.pci_address in wanted.addresses)
    ids = ((wanted.vendor_id, gpu.vendor_id), (wanted.device_id, gpu.device_id))
    return right and all(named in (None, is_) for named, is_ in ids)


def needs_efi(spec: ClusterSpec, inventory: Inventory) -> str:
    """Return the first device that a VM might get and that needs EFI; empty if none does."""
    given = given_gib(spec)
    if given is not None:
        return "a 64-bit MMIO window (accelerator.mmio_gib)" if given else ""
    return next((text for host in inventory.hosts for text in _needing(spec, host)), "")


def given_gib(spec: ClusterSpec) -> int | None:
    """Return the window that ``mmio_gib`` sets; 0 for none, None if it is to be computed."""
    return None if isinstance(spec.accelerator, NoGPU) else spec.accelerator.mmio_gib


def mapped_gib(
    devices: Sequence[Device], gpus: Sequence[GPU], all_gpus: Iterable[GPU]
) -> list[int]:
    """Return what each device with large BARs maps above 4 GiB; 0 if its memory is unknown.

    ``gpus`` are those of the fixed devices. A dynamic device may be bound to any GPU of the cluster
    that it allows, so the largest counts. The first vGPU counts as its whole GPU, as in NVIDIA's
    table of MMIO space.
    """
    known, mapped = list(all_gpus), []
    if any(isinstance(device, PassthroughDevice) for device in devices):
        mapped += [gpu.memory_gib or 0 for gpu in gpus if has_large_bars(gpu)]
    for device in devices:
        if isinstance(device, DynamicDevice):
            mapped += _largest(gpu for gpu in known if device.allows(gpu))
    shares = [device.profile for device in devices if isinstance(device, VGPUDevice)]
    for number, name in enumerate(shares):
        offering = [gpu for gpu in known if _profile(gpu, name) is not None]
        share = next((_profile(gpu, name) for gpu in offering), None)
        whole = _largest(offering)
        mapped += whole if number == 0 or share is None else [share.memory_gib or 0] * len(whole)
    return mapped


def _needing(spec: ClusterSpec, host: Host) -> Iterator[str]:
    wanted = spec.accelerator
    if isinstance(wanted, DeviceGroup):
        group = host.device_group(wanted.group)
        for device in group.devices if group else ():
            yield from _member(device, host.gpus)
        return
    for gpu in host.gpus:
        if isinstance(wanted, VGPU):
            yield from _share(gpu, wanted.profile)
        elif fits(spec, gpu) and not gpu.profiles and has_large_bars(gpu):
            yield f"{gpu.name} in passthrough"


def _member(device: Device, gpus: Sequence[GPU]) -> Iterator[str]:
    for gpu in gpus:
        if isinstance(device, VGPUDevice):
            yield from _share(gpu, device.profile)
        elif isinstance(device, DynamicDevice) and device.allows(gpu) and has_large_bars(gpu):
            yield f"{gpu.name} in passthrough"


def _share(gpu: GPU, name: str) -> Iterator[str]:
    profile = _profile(gpu, name)
    if profile is not None and has_large_bars(gpu) and is_large(profile):
        yield f"vGPU {name}"


def is_large(profile: VGPUProfile) -> bool:
    """Return whether this vGPU of a GPU with large BARs has a large BAR too."""
    compute = re.search(r"-\d+(-\d+)?c(me)?$", profile.name) is not None
    return compute or (profile.memory_gib or 0) >= LARGE_PROFILE_GIB


def _profile(gpu: GPU, name: str) -> VGPUProfile | None:
    return next((profile for profile in gpu.profiles if profile.name == name), None)


def _largest(gpus: Iterable[GPU]) -> list[int]:
    """Return the memory of the largest GPU with large BARs; an empty list if none has."""
    sizes = [gpu.memory_gib or 0 for gpu in gpus if has_large_bars(gpu)]
    return [max(sizes)] if sizes else []
