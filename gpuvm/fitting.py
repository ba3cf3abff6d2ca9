"""What a card asks of the VM that it goes into: EFI firmware and room for it above 4 GiB.

A device maps its BARs into the VM's address space. Below 4 GiB there are 3.5 GiB for that, above it
there is room only with EFI firmware and a 64-bit MMIO window (Dell's article 199172: a Tesla P100
asks for 16 GiB and gets 3.5). Cards with small BARs need neither. The API does not tell BARs, so
the cards that are known to have small ones are named here; ``accelerator.mmio_gib: 0`` says it of
any other. Every other card is taken for a large one: what it needs does a small one no harm.

Of vGPUs, those of the C-series have large BARs (NVIDIA's vGPU user guide), and those with 16 GiB of
framebuffer or more are taken to have some. The smaller ones of other series start with BIOS too.
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
    """The GPU is one of those that the accelerator names; free or not."""
    wanted = spec.accelerator
    if isinstance(wanted, NoGPU):
        return False
    if isinstance(wanted, VGPU):
        return any(profile.name == wanted.profile for profile in gpu.profiles)
    if isinstance(wanted, DeviceGroup):
        return True  # the group's own devices say which
    right = (wanted.model or "").lower() in gpu.name.lower()
    right = right and wanted.label in (None, gpu.label)
    if isinstance(wanted, Passthrough):
        return right and (not wanted.addresses or gpu.pci_address in wanted.addresses)
    ids = ((wanted.vendor_id, gpu.vendor_id), (wanted.device_id, gpu.device_id))
    return right and all(named in (None, is_) for named, is_ in ids)


def needs_efi(spec: ClusterSpec, inventory: Inventory) -> str:
    """The first device that a VM might get and that needs EFI; empty if none does."""
    given = given_gib(spec)
    if given is not None:
        return "a 64-bit MMIO window (accelerator.mmio_gib)" if given else ""
    return next((text for host in inventory.hosts for text in _needing(spec, host)), "")


def given_gib(spec: ClusterSpec) -> int | None:
    """The window that ``mmio_gib`` asks for; 0 is for small cards, None leaves it to gpuvm."""
    return None if isinstance(spec.accelerator, NoGPU) else spec.accelerator.mmio_gib


def mapped_gib(
    devices: Sequence[Device], gpus: Sequence[GPU], all_gpus: Iterable[GPU]
) -> list[int]:
    """What a VM's devices map above 4 GiB, of those that do; 0 for a memory that is not known.

    ``gpus`` are those of its fixed devices. A dynamic device may be bound to any GPU of the cluster
    that it allows, and the largest counts. The first vGPU counts as its whole card, which is what
    NVIDIA's table of MMIO space goes by.
    """
    known, mapped = list(all_gpus), []
    if any(isinstance(device, PassthroughDevice) for device in devices):
        mapped += [gpu.memory_gib or 0 for gpu in gpus if has_large_bars(gpu)]
    for device in devices:
        if isinstance(device, DynamicDevice):
            mapped += _largest(gpu for gpu in known if device.allows(gpu))
    shares = [device.profile for device in devices if isinstance(device, VGPUDevice)]
    for number, name in enumerate(shares):
        cards = [gpu for gpu in known if _profile(gpu, name) is not None]
        share = next((_profile(gpu, name) for gpu in cards), None)
        whole = _largest(cards)
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
    """Of a card with large BARs: it has a large one itself."""
    compute = re.search(r"-\d+(-\d+)?c(me)?$", profile.name) is not None
    return compute or (profile.memory_gib or 0) >= LARGE_PROFILE_GIB


def _profile(gpu: GPU, name: str) -> VGPUProfile | None:
    return next((profile for profile in gpu.profiles if profile.name == name), None)


def _largest(gpus: Iterable[GPU]) -> list[int]:
    """The memory of the largest among those with large BARs; nothing without such a one."""
    sizes = [gpu.memory_gib or 0 for gpu in gpus if has_large_bars(gpu)]
    return [max(sizes)] if sizes else []
