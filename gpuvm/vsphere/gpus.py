"""A host's GPUs: its PCI devices, their passthrough state, memory, and who holds them."""

from collections.abc import Mapping, Sequence
from typing import Any

from gpuvm.inventory import GPU, NVIDIA_VENDOR_ID, Holder
from gpuvm.vsphere.properties import Row

HOST_GPU_PATHS = ("hardware.pciDevice", "config.pciPassthruInfo", "config.graphicsInfo")

# GiB by PCI device id (pci.ids), for GPUs that the host no longer reports in graphicsInfo because
# they are set aside for passthrough.
_MEMORY_GIB = {
    0x15F7: 12,
    0x15F8: 16,
    0x15F9: 16,
    0x1B38: 24,
    0x1BB3: 8,
    0x1DB1: 16,
    0x1DB4: 16,
    0x1DB5: 32,
    0x1DB6: 32,
    0x1DF6: 32,
    0x1EB8: 16,
    0x20B0: 40,
    0x20B2: 80,
    0x20B5: 80,
    0x20B7: 24,
    0x20F1: 40,
    0x2235: 48,
    0x2236: 24,
    0x2330: 80,
    0x2331: 80,
    0x2335: 141,
    0x233B: 141,
    0x26B5: 48,
    0x26B9: 48,
    0x27B8: 24,
    0x102D: 12,
    0x13BD: 8,
    0x13F2: 8,
}

Holders = Mapping[tuple[str, str], Sequence[Holder]]


def gpus_of(host: str, row: Row, system_ids: Mapping[str, str], holders: Holders) -> list[GPU]:
    """``system_ids`` is by PCI address, from this host's own QueryConfigTarget."""
    state = {info.id: info for info in row.get("config.pciPassthruInfo", ())}
    graphics = {info.pciId: info for info in row.get("config.graphicsInfo", ())}
    return [
        _gpu(host, device, state.get(device.id), graphics.get(device.id), system_ids, holders)
        for device in row.get("hardware.pciDevice", ())
        if _is_gpu(device)
    ]


def _is_gpu(device: Any) -> bool:
    """NVIDIA display controllers and processing accelerators; ids arrive as signed shorts."""
    base_class = (device.classId & 0xFFFF) >> 8
    return device.vendorId & 0xFFFF == NVIDIA_VENDOR_ID and base_class in (0x03, 0x12)


def _gpu(
    host: str,
    device: Any,
    state: Any | None,
    graphics: Any | None,
    system_ids: Mapping[str, str],
    holders: Holders,
) -> GPU:
    device_id = device.deviceId & 0xFFFF
    kib = getattr(graphics, "memorySizeInKB", None) or 0
    return GPU(
        host=host,
        pci_address=device.id,
        vendor_id=device.vendorId & 0xFFFF,
        device_id=device_id,
        name=device.deviceName,
        memory_gib=round(kib / 1024**2) or _MEMORY_GIB.get(device_id),
        capable=bool(getattr(state, "passthruCapable", False)),
        enabled=bool(getattr(state, "passthruEnabled", False)),
        active=bool(getattr(state, "passthruActive", False)),
        dependent_device=getattr(state, "dependentDevice", None) or device.id,
        system_id=system_ids.get(device.id),
        label=getattr(state, "hardwareLabel", None) or "",
        holders=tuple(holders.get((host, device.id), ())),
    )
