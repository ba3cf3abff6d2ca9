"""What each host has left while a plan is made: GPUs, vGPUs and memory."""

import copy
from collections import Counter
from collections.abc import Iterable, Sequence

from gpuvm.accelerators import VGPU, DeviceGroup, DynamicPassthrough, NoGPU, Passthrough
from gpuvm.devices import GPU, Device, DynamicDevice, PassthroughDevice, VGPUDevice
from gpuvm.fitting import fits
from gpuvm.inventory import VM, Host
from gpuvm.spec import ClusterSpec
from gpuvm.text import counted


class HostCapacity:
    """Free capacity of one host; each ``allocate`` and ``reserve`` reduces it."""

    def __init__(self, host: Host, spec: ClusterSpec, needed_gib: float) -> None:
        self.host, self.vms = host, 0
        self._accelerator, self._needed_gib = spec.accelerator, needed_gib
        self._left_gib = left_gib(host)
        fitting = [gpu for gpu in host.gpus if gpu.free and fits(spec, gpu)]
        no_system_id = isinstance(spec.accelerator, Passthrough) and any(
            _has_no_system_id(g) for g in fitting
        )
        self.no_system_id = (
            "vCenter does not report the systemId of its GPUs"
            if no_system_id
            else self._hidden_gpus(spec)
        )
        self._free = [] if no_system_id else sorted(fitting, key=_allocation_rank)
        self._reserved: Counter[str] = Counter()

    @property
    def too_small(self) -> str | None:
        if self._left_gib >= self._needed_gib:
            return None
        left = f"{max(self._left_gib, 0):.1f} GiB are unreserved"
        if self.host.hypervisor_gib is None:
            left = f"about {left} (ESXi's own memory is an estimate)"
        return f"the VM would reserve {self._needed_gib:.1f} GiB including overhead, and {left}"

    @property
    def reuses_assigned_gpu(self) -> bool:
        """Whether the next VM would get a GPU that another VM names or may hold."""
        count = getattr(self._accelerator, "count", 0)
        return sum(not _allocation_rank(gpu) for gpu in self._free) < min(count, len(self._free))

    def allocate(self) -> tuple[GPU, ...] | None:
        """Return the GPUs of one more VM, none with accelerator none; None if it does not fit."""
        gpus = None if self.too_small else self._choose()
        if gpus is not None:
            self.reserve(gpus, self._needed_gib)
        return gpus

    def capacity(self, at_most: int) -> int:
        """Return how many more VMs fit."""
        trial = self._copy()
        return sum(1 for _ in range(at_most) if trial.allocate() is not None)

    def reserve(self, gpus: Sequence[GPU], memory_gib: float) -> None:
        """Subtract the GPUs and the memory of another VM of the plan."""
        addresses = [gpu.pci_address for gpu in gpus]
        self._free = [gpu for gpu in self._free if gpu.pci_address not in addresses]
        self._reserved.update(addresses)
        self._left_gib -= memory_gib
        self.vms += 1

    def _choose(self) -> tuple[GPU, ...] | None:
        if isinstance(self._accelerator, NoGPU):
            return ()
        if isinstance(self._accelerator, DeviceGroup):
            return self._device_group_gpus(self._accelerator.group)
        count = self._accelerator.count
        if not isinstance(self._accelerator, VGPU):
            return tuple(self._free[:count]) if len(self._free) >= count else None
        return self._shares(self._accelerator.profile, count)

    def _shares(self, profile: str, count: int) -> tuple[GPU, ...] | None:
        """Return a physical GPU for each vGPU; this only counts, ESXi itself chooses."""
        chosen: list[GPU] = []
        reserved = self._reserved.copy()
        for gpu in self.host.gpus:
            while len(chosen) < count and gpu.vgpus_left(profile, reserved[gpu.pci_address]):
                reserved[gpu.pci_address] += 1
                chosen.append(gpu)
        return tuple(chosen) if len(chosen) == count else None

    def _device_group_gpus(self, name: str) -> tuple[GPU, ...] | None:
        """Return a GPU for each device of the group; only vCenter knows which are connected."""
        group = self.host.device_group(name)
        chosen: list[GPU] = []
        for device in group.devices if group else ():
            left = (gpu for gpu in self.host.gpus if gpu not in chosen and self._has(gpu, device))
            gpu = next(left, None)
            if gpu is None:
                return None
            chosen.append(gpu)
        return tuple(chosen) or None

    def _has(self, gpu: GPU, device: Device) -> bool:
        if isinstance(device, VGPUDevice):
            return gpu.vgpus_left(device.profile, self._reserved[gpu.pci_address]) > 0
        return isinstance(device, DynamicDevice) and gpu in self._free and device.allows(gpu)

    def _hidden_gpus(self, spec: ClusterSpec) -> str | None:
        """Return what vCenter does not show of the GPUs; a vGPU needs no passthrough state."""
        whole = spec.has_gpu and not isinstance(spec.accelerator, VGPU)
        return (self.host.gpus_hidden or None) if whole or not self.host.gpus else None

    def _copy(self) -> "HostCapacity":
        other = copy.copy(self)
        other._reserved = self._reserved.copy()
        return other


def _allocation_rank(gpu: GPU) -> int:
    """Sort key: free GPUs first, then those that a powered-off VM names, then uncertain ones."""
    return 2 if gpu.possible_holders else 1 if gpu.holders else 0


def _has_no_system_id(gpu: GPU) -> bool:
    """Whether its host was queried and returned no systemId, without which no device works."""
    return gpu.system_id == ""


def too_few_cpus(host: Host, cpus: int | None) -> str | None:
    """ESXi starts no VM that has more virtual CPUs than the host has logical ones."""
    if not host.cpu_threads or (cpus or 0) <= host.cpu_threads:
        return None
    return f"{counted(cpus or 0, 'CPU')} wanted, {counted(host.cpu_threads, 'logical one')} there"


def device_memory_gib(devices: Sequence[Device], gpus: Sequence[GPU]) -> list[int]:
    """Return the memory of each device: a vGPU's framebuffer or a whole GPU's; 0 if unknown."""
    shares = [device.profile for device in devices if isinstance(device, VGPUDevice)]
    if not shares:
        return [gpu.memory_gib or 0 for gpu in gpus]
    known = {p.name: p.memory_gib for gpu in gpus for p in gpu.profiles}
    return [known.get(name) or 0 for name in shares]


def devices(
    spec: ClusterSpec, host: Host, gpus: Sequence[GPU], all_gpus: Iterable[GPU]
) -> tuple[Device, ...]:
    """Return the virtual devices of a VM that is to get these GPUs, or equivalent ones."""
    wanted = spec.accelerator
    if isinstance(wanted, DeviceGroup):
        group = host.device_group(wanted.group)
        return group.devices if group else ()
    if isinstance(wanted, DynamicPassthrough):
        kinds = tuple(sorted({(g.vendor_id, g.device_id) for g in all_gpus if fits(spec, g)}))
        return (DynamicDevice(kinds, wanted.label or ""),) * wanted.count
    if isinstance(wanted, VGPU):
        return (VGPUDevice(wanted.profile),) * wanted.count
    return tuple(map(fixed, gpus))


def fixed(gpu: GPU) -> PassthroughDevice:
    """Return the fixed device for this GPU.

    ``deviceId`` is unsigned hex without 0x: with a decimal one the VM does not power on.
    """
    return PassthroughDevice(
        pci_address=gpu.pci_address,
        system_id=gpu.system_id or "",
        device_id=format(gpu.device_id & 0xFFFF, "x"),
        vendor_id=gpu.vendor_id,
        name=gpu.name,
    )


HYPERVISOR_SHARE = 1 / 64
"""Estimate of the memory that ESXi itself uses, if vCenter does not report it: 4 GiB of 256."""


def needed_gib(memory_gib: float, cpus: int, *, reserved: bool) -> float:
    """Return a VM's overhead, plus all of its memory if that is ``reserved``."""
    return (memory_gib if reserved else 0.0) + overhead_gib(memory_gib, cpus)


def reserves_gib(vm: VM) -> float:
    return needed_gib(vm.memory_gib, vm.cpus, reserved=vm.memory_locked)


def left_gib(host: Host) -> float:
    own = host.hypervisor_gib
    own = host.memory_gib * HYPERVISOR_SHARE if own is None else own
    return host.memory_gib - own - host.reserved_gib


def overhead_gib(memory_gib: float, cpus: int) -> float:
    """Estimate the memory overhead of a VM of this size.

    Close to VMware's table "Overhead Memory on Virtual Machines" (vSphere Resource Management):
    some tens of MiB, about 1/128 of the memory, and about 16 MiB for each virtual CPU.
    """
    return (64 + memory_gib * 1024 / 128 + 16 * cpus) / 1024
