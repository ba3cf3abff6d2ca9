"""The GPUs that a guest sees, from the devices in its VM's virtual hardware."""

import uuid
from collections.abc import Sequence
from dataclasses import replace

from gpuvm.devices import Device, DynamicDevice, PassthroughDevice, VGPUDevice
from gpuvm.lab.description import Description, GPUDescription
from gpuvm.lab.gpu_models import model_of
from gpuvm.lab.guest.boot import SimulatedGPU

# Buses where ESXi's virtual PCI bridges put the passthrough devices of a VM, in order.
_SLOTS = (0x0B, 0x13, 0x1B, 0x04, 0x0C, 0x14, 0x1C, 0x05)


def in_guest(
    description: Description, devices: Sequence[Device], vm: str
) -> tuple[SimulatedGPU, ...]:
    """Returns a GPU for each device, in the order of the virtual hardware.

    ``vm`` is the instance UUID. A dynamic device has no GPU until power-on assigns one.
    """
    gpus = []
    for number, device in enumerate(devices):
        if isinstance(device, PassthroughDevice):
            gpus.append(_passthrough_gpu(description, device, number))
        elif isinstance(device, VGPUDevice):
            gpus.append(_vgpu(description, device, number, vm))
        elif device.assigned:
            gpus.append(_assigned_gpu(description, device, number, vm))
    return tuple(gpus)


def _passthrough_gpu(
    description: Description, device: PassthroughDevice, number: int
) -> SimulatedGPU:
    """A GPU has the same UUID in every VM: it is derived from the host and the PCI address."""
    device_id = int(device.device_id or "0", 16)
    identity = f"{device.system_id}/{device.pci_address}"
    return _gpu(description, (device.vendor_id, device_id), number, identity)


def _assigned_gpu(
    description: Description, device: DynamicDevice, number: int, vm: str
) -> SimulatedGPU:
    """The first allowed model that the lab has; its hosts have GPUs of one model."""
    kinds = [kind for kind in device.allowed if _listed(description, *kind)]
    return _gpu(description, kinds[0], number, f"{vm}/{device.assigned}")


def _gpu(
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


def _vgpu(description: Description, device: VGPUDevice, number: int, vm: str) -> SimulatedGPU:
    """A vGPU has the ids of its GPU, and the name and memory of its profile."""
    for host in description.hosts:
        for gpu in host.gpus:
            for profile in gpu.vgpu_profiles or ():
                if profile.name == device.profile:
                    kind = (gpu.vendor_id, gpu.device_id)
                    whole = _gpu(description, kind, number, f"{vm}/{number}")
                    name = "GRID " + profile.name.partition("_")[2].upper()
                    memory = profile.framebuffer_gib * 1024
                    return replace(whole, name=name, memory_mib=memory)
    return _gpu(description, (0, 0), number, f"{vm}/{number}")


def _listed(description: Description, vendor_id: int, device_id: int) -> GPUDescription | None:
    for host in description.hosts:
        for gpu in host.gpus:
            if (gpu.vendor_id, gpu.device_id) == (vendor_id, device_id):
                return gpu
    return None


def _bus_id(number: int) -> str:
    bus = _SLOTS[number] if number < len(_SLOTS) else 0x20 + number
    return f"00000000:{bus:02X}:00.0"
