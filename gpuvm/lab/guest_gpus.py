"""What the driver in a guest makes of the devices in its VM's virtual hardware."""

import uuid
from collections.abc import Sequence
from dataclasses import replace

from gpuvm.devices import Device, DynamicDevice, PassthroughDevice, VGPUDevice
from gpuvm.lab.description import Description, GPUDescription
from gpuvm.lab.gpu_models import model_of
from gpuvm.lab.guest.boot import SimulatedGPU

# Where ESXi's virtual PCI bridges put the first passthrough devices of a VM, and the ones after.
_SLOTS = (0x0B, 0x13, 0x1B, 0x04, 0x0C, 0x14, 0x1C, 0x05)


def in_guest(
    description: Description, devices: Sequence[Device], vm: str
) -> tuple[SimulatedGPU, ...]:
    """One card for each device, in the order of the virtual hardware; ``vm`` is its instance UUID.

    A dynamic device is nothing until the VM was given one, at power-on.
    """
    cards = []
    for number, device in enumerate(devices):
        if isinstance(device, PassthroughDevice):
            cards.append(_fixed(description, device, number))
        elif isinstance(device, VGPUDevice):
            cards.append(_share(description, device, number, vm))
        elif device.assigned:
            cards.append(_assigned(description, device, number, vm))
    return tuple(cards)


def _fixed(description: Description, device: PassthroughDevice, number: int) -> SimulatedGPU:
    """A GPU keeps its UUID in every VM: the UUID belongs to the host and its slot."""
    device_id = int(device.device_id or "0", 16)
    identity = f"{device.system_id}/{device.pci_address}"
    return _whole(description, (device.vendor_id, device_id), number, identity)


def _assigned(
    description: Description, device: DynamicDevice, number: int, vm: str
) -> SimulatedGPU:
    """The first allowed kind that the site has; the lab's hosts have cards of one kind."""
    kinds = [kind for kind in device.allowed if _listed(description, *kind)]
    return _whole(description, kinds[0], number, f"{vm}/{device.assigned}")


def _whole(
    description: Description, kind: tuple[int, int], number: int, identity: str
) -> SimulatedGPU:
    model, listed = model_of(*kind), _listed(description, *kind)
    name = model.driver_name if model else listed.name if listed else "NVIDIA device"
    memory_gib = listed.memory_gib if listed else model.memory_gib if model else 0
    return SimulatedGPU(
        name=name,
        uuid=f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, identity)}",
        bus_id=_bus_id(number),
        vendor_id=kind[0],
        device_id=kind[1],
        memory_mib=memory_gib * 1024,
        compute_cap=model.compute_cap if model else "0.0",
    )


def _share(description: Description, device: VGPUDevice, number: int, vm: str) -> SimulatedGPU:
    """A vGPU has its card's ids and its profile's name and memory."""
    for host in description.hosts:
        for gpu in host.gpus:
            for profile in gpu.vgpu_profiles or ():
                if profile.name == device.profile:
                    kind = (gpu.vendor_id, gpu.device_id)
                    card = _whole(description, kind, number, f"{vm}/{number}")
                    name = "GRID " + profile.name.partition("_")[2].upper()
                    memory = profile.framebuffer_gib * 1024
                    return replace(card, name=name, memory_mib=memory)
    return _whole(description, (0, 0), number, f"{vm}/{number}")


def _listed(description: Description, vendor_id: int, device_id: int) -> GPUDescription | None:
    for host in description.hosts:
        for gpu in host.gpus:
            if (gpu.vendor_id, gpu.device_id) == (vendor_id, device_id):
                return gpu
    return None


def _bus_id(number: int) -> str:
    bus = _SLOTS[number] if number < len(_SLOTS) else 0x20 + number
    return f"00000000:{bus:02X}:00.0"
