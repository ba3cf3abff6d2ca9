"""What the driver in a guest makes of the devices in its VM's virtual hardware."""

import uuid
from collections.abc import Sequence

from gpuvm.inventory import PassthroughDevice
from gpuvm.lab.catalogue import model_of
from gpuvm.lab.description import Description, GPUDescription
from gpuvm.lab.guest.boot import SimulatedGPU

# Where ESXi's virtual PCI bridges put the first passthrough devices of a VM, and the ones after.
_SLOTS = (0x0B, 0x13, 0x1B, 0x04, 0x0C, 0x14, 0x1C, 0x05)


def in_guest(
    description: Description, devices: Sequence[PassthroughDevice]
) -> tuple[SimulatedGPU, ...]:
    """One card for each device, in the order of the virtual hardware."""
    return tuple(_card(description, device, n) for n, device in enumerate(devices))


def _card(description: Description, device: PassthroughDevice, number: int) -> SimulatedGPU:
    """A card keeps its UUID in whatever VM it is: it belongs to the host and the slot there."""
    device_id = int(device.device_id or "0", 16)
    model = model_of(device.vendor_id, device_id)
    listed = _listed(description, device.vendor_id, device_id)
    name = model.driver_name if model else listed.name if listed else "NVIDIA device"
    memory_gib = listed.memory_gib if listed else model.memory_gib if model else 0
    identity = uuid.uuid5(uuid.NAMESPACE_OID, f"{device.system_id}/{device.pci_address}")
    return SimulatedGPU(
        name=name,
        uuid=f"GPU-{identity}",
        bus_id=_bus_id(number),
        vendor_id=device.vendor_id,
        device_id=device_id,
        memory_mib=memory_gib * 1024,
        compute_cap=model.compute_cap if model else "0.0",
    )


def _listed(description: Description, vendor_id: int, device_id: int) -> GPUDescription | None:
    for host in description.hosts:
        for gpu in host.gpus:
            if (gpu.vendor_id, gpu.device_id) == (vendor_id, device_id):
                return gpu
    return None


def _bus_id(number: int) -> str:
    bus = _SLOTS[number] if number < len(_SLOTS) else 0x20 + number
    return f"00000000:{bus:02X}:00.0"
