"""One CloneVM_Task that already carries everything, and the one reconfigure that mends the rest.

The GPU's backing is the usual mistake: ``deviceId`` is unsigned hex without ``0x`` (a decimal one
is accepted and the VM then does not power on), ``vendorId`` the signed short, ``systemId`` that of
the very host (API reference of VirtualPCIPassthroughDeviceBackingInfo; govmomi issue 2248).
"""

from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from gpuvm.inventory import GPU, VM, MoRef

USE_64BIT_MMIO = "pciPassthru.use64bitMMIO"
MMIO_SIZE_GB = "pciPassthru.64bitMMIOSizeGB"


@dataclass(frozen=True)
class CloneRequest:
    """A VM as it is wanted. With GPUs it implies all memory reserved and hot-add off.

    ``extra_config`` holds the mark and the guestinfo keys; ``cpus`` and ``memory_gib`` None leave
    the template's.
    """

    name: str
    instance_uuid: str
    template: MoRef
    host: MoRef
    resource_pool: MoRef
    datastore: MoRef
    folder: MoRef
    network: MoRef | None
    cpus: int | None
    memory_gib: float | None
    gpus: tuple[GPU, ...]
    mmio_gib: int | None
    extra_config: dict[str, str]
    annotation: str


def clone_spec(request: CloneRequest, reference: Any) -> Any:
    """``reference(kind, moref)`` makes a managed object of this connection."""
    location = vim.vm.RelocateSpec(
        host=reference(vim.HostSystem, request.host),
        pool=reference(vim.ResourcePool, request.resource_pool),
        datastore=reference(vim.Datastore, request.datastore),
    )
    return vim.vm.CloneSpec(
        location=location, powerOn=False, template=False, config=_config(request)
    )


def repair_spec(vm: VM, request: CloneRequest) -> Any | None:
    """Only what differs between the VM as read back and the wish; None when nothing does."""
    spec = vim.vm.ConfigSpec()
    changes: dict[str, tuple[object, object]] = {
        "numCPUs": (vm.cpus, request.cpus),
        "memoryMB": (vm.memory_gib * 1024, _mib(request.memory_gib)),
        "annotation": (vm.annotation, request.annotation),
    }
    if request.gpus:
        changes["memoryReservationLockedToMax"] = (vm.memory_locked, True)
    differs: dict[str, object] = {
        key: wanted for key, (is_, wanted) in changes.items() if wanted not in (None, is_)
    }
    for key, wanted in differs.items():
        setattr(spec, key, wanted)
    if request.gpus and vm.hot_add:
        spec.cpuHotAddEnabled = spec.memoryHotAddEnabled = False
        differs["hot_add"] = False
    options = {k: v for k, v in _options(request).items() if vm.extra_config.get(k) != v}
    spec.extraConfig = _option_values(_kept(options, vm))
    spec.deviceChange = _missing_devices(vm, request) + _foreign_devices(vm, request)
    return spec if differs or spec.extraConfig or spec.deviceChange else None


def passthrough_backing(gpu: GPU) -> Any:
    """The backing for ``gpu``; raises ValueError when the host did not tell its ``systemId``."""
    if gpu.system_id is None:
        raise ValueError(f"{gpu.host} offers no systemId for {gpu.pci_address}")
    return vim.vm.device.VirtualPCIPassthrough.DeviceBackingInfo(
        id=gpu.pci_address,
        deviceId=format(gpu.device_id & 0xFFFF, "x"),
        systemId=gpu.system_id,
        vendorId=_signed(gpu.vendor_id),
        deviceName=gpu.name,
    )


def _config(request: CloneRequest) -> Any:
    spec = vim.vm.ConfigSpec(
        instanceUuid=request.instance_uuid,
        annotation=request.annotation,
        extraConfig=_option_values(_options(request)),
        deviceChange=[_added(gpu, key) for key, gpu in enumerate(request.gpus, start=100)],
    )
    if request.cpus is not None:
        spec.numCPUs = request.cpus
    if request.memory_gib is not None:
        spec.memoryMB = round(request.memory_gib * 1024)  # type: ignore[assignment]
    if request.gpus:
        spec.memoryReservationLockedToMax = True
        spec.cpuHotAddEnabled = spec.memoryHotAddEnabled = False
    return spec


def _options(request: CloneRequest) -> dict[str, str]:
    mmio = {USE_64BIT_MMIO: "TRUE", MMIO_SIZE_GB: str(request.mmio_gib)} if request.gpus else {}
    return {**mmio, **request.extra_config}


def _kept(options: dict[str, str], vm: VM) -> dict[str, str]:
    """A VM that exists keeps what its guest published and what it first booted with."""
    return {k: v for k, v in options.items() if not (k.startswith("guestinfo.") and vm.generation)}


def _option_values(options: dict[str, str]) -> list[Any]:
    return [vim.option.OptionValue(key=key, value=value) for key, value in options.items()]


def _added(gpu: GPU, key: int) -> Any:
    """Each new device has a negative key of its own; equal ones would be one device."""
    return vim.vm.device.VirtualDeviceSpec(
        operation="add",
        device=vim.vm.device.VirtualPCIPassthrough(key=-key, backing=passthrough_backing(gpu)),
    )


def _missing_devices(vm: VM, request: CloneRequest) -> list[Any]:
    present = {(d.pci_address, d.system_id) for d in vm.devices}
    missing = [g for g in request.gpus if (g.pci_address, g.system_id) not in present]
    return [_added(gpu, key) for key, gpu in enumerate(missing, start=100)]


def _foreign_devices(vm: VM, request: CloneRequest) -> list[Any]:
    """Devices that are not in the wish, or are those of another host."""
    wanted = {(g.pci_address, g.system_id) for g in request.gpus}
    return [
        vim.vm.device.VirtualDeviceSpec(
            operation="remove", device=vim.vm.device.VirtualPCIPassthrough(key=device.key)
        )
        for device in vm.devices
        if (device.pci_address, device.system_id) not in wanted
    ]


def _mib(gib: float | None) -> int | None:
    return None if gib is None else round(gib * 1024)


def _signed(number: int) -> int:
    """An unsigned 16-bit id as the API's signed short."""
    return number - 0x10000 if number >= 0x8000 else number
