"""GPUs of hosts, the VMs that hold them, and the GPU devices of VMs; plain values."""

from dataclasses import dataclass, field

NVIDIA_VENDOR_ID = 0x10DE


@dataclass(frozen=True)
class VGPUProfile:
    """A vGPU type; ``memory_gib`` is its framebuffer, None if unknown."""

    name: str
    memory_gib: int | None


@dataclass(frozen=True)
class Holder:
    """A VM with a GPU in its virtual hardware, or with one bound to it; ``profile`` of its vGPU.

    ``shares`` is its number of vGPUs on this GPU. Names are unique in a folder only, so holders are
    compared by ``moref``. ``ours``: gpuvm created the VM.
    """

    vm: str
    powered_on: bool
    profile: str | None = None
    moref: str = ""
    shares: int = 1
    ours: bool = False
    certain: bool = True
    """False if vCenter does not show enough of the VM to know whether it has this GPU."""

    @property
    def blocks(self) -> bool:
        """Whether no other VM may get the GPU; a powered-off VM of gpuvm does not block it."""
        return self.powered_on or not self.ours


@dataclass(frozen=True)
class GPU:
    """One physical function as the host lists it (HostPciDevice, HostPciPassthruInfo).

    Ids are unsigned 16-bit numbers. ``system_id`` is the host's own, from
    ``QueryConfigTarget(host=…)``: None if the host was not queried, empty if it returned none.
    ``memory_gib`` is None if unknown. ``profiles`` are the vGPU types of a shared GPU, empty for
    others.
    """

    host: str
    pci_address: str
    vendor_id: int
    device_id: int
    name: str
    memory_gib: int | None
    capable: bool
    enabled: bool
    active: bool
    dependent_device: str
    system_id: str | None
    label: str = ""
    holders: tuple[Holder, ...] = ()
    profiles: tuple[VGPUProfile, ...] = ()
    shared_direct: bool = False
    """The graphics type is Shared Direct: a vGPU driver may offer vGPUs of it."""
    possible_holders: tuple[Holder, ...] = ()
    """VMs that may hold it: vCenter does not show whether they do."""
    passthrough_shown: bool = True

    @property
    def state(self) -> str:
        """One phrase for a table: free, held by …, reboot pending, not enabled, incapable."""
        if self.profiles:
            return self._shared()
        blocking = [holder for holder in self.holders if holder.blocks]
        if blocking:
            return "held by " + ", ".join(map(_held, blocking))
        if not self.capable:
            shown = self.passthrough_shown
            return "not capable of passthrough" if shown else "its passthrough state is not shown"
        if self.reboot_pending:
            return self._pending()
        if not self.active:
            return "passthrough not enabled"
        vms = ", ".join(holder.vm for holder in self.holders)
        return (f"free, assigned to {vms} (powered off)" if vms else "free") + self._unless()

    @property
    def reboot_pending(self) -> bool:
        """Whether the next reboot of the host changes passthrough: current users lose the GPU."""
        return self.enabled != self.active

    @property
    def free(self) -> bool:
        """Whether a VM can get the whole GPU: it is neither shared nor held by another VM."""
        blocked = any(holder.blocks for holder in self.holders)
        return self.active and self.enabled and not blocked and not self.profiles

    def vgpus_left(self, profile: str, reserved: int = 0) -> int:
        """Return how many more vGPUs of this profile fit; all on one GPU have the same profile.

        ``reserved`` is the number planned but not created. A profile of unknown size counts as the
        whole GPU. None fits if the next reboot of the host changes passthrough.
        """
        if self.reboot_pending:
            return 0
        offered = next((p for p in self.profiles if p.name == profile), None)
        used = [h for h in self.holders if h.powered_on]
        if offered is None or any(h.profile != profile for h in used):
            return 0
        size = offered.memory_gib or self.memory_gib or 1
        in_use = sum(holder.shares for holder in used) + reserved
        return max(0, (self.memory_gib or size) // size - in_use)

    def _pending(self) -> str:
        switched = "enabled" if self.enabled else "disabled"
        return f"passthrough {switched}, host reboot pending"

    def _shared(self) -> str:
        if self.reboot_pending:
            return f"shared as vGPU, {self._pending()}"
        used = next((h.profile for h in self.holders if h.powered_on and h.profile), None)
        if used is None:
            return "shared as vGPU, unused" + self._unless()
        return f"shared as vGPU, {self.vgpus_left(used)} of {used} left" + self._unless()

    def _unless(self) -> str:
        vms = ", ".join(holder.vm for holder in self.possible_holders)
        return f", unless {vms} has it" if vms else ""


@dataclass(frozen=True)
class PassthroughDevice:
    """A fixed DirectPath I/O device in a VM's virtual hardware.

    ``device_id`` is as in the backing: unsigned hex without ``0x``. Two devices are equal if their
    address and ``system_id`` are; ``key`` is 0 for a device that does not exist yet.
    """

    pci_address: str
    system_id: str
    device_id: str = field(default="", compare=False)
    vendor_id: int = field(default=0, compare=False)
    name: str = field(default="", compare=False)
    key: int = field(default=0, compare=False)


@dataclass(frozen=True)
class DynamicDevice:
    """A Dynamic DirectPath I/O device: any GPU with one of the (vendor, device) ids, and label.

    ``assigned`` is the PCI address that is bound to it while the VM is powered on. ``sequence`` is
    its number in its vendor device group, 0 without a group.
    """

    allowed: tuple[tuple[int, int], ...]
    label: str = ""
    assigned: str = field(default="", compare=False)
    key: int = field(default=0, compare=False)
    sequence: int = 0

    def allows(self, gpu: GPU) -> bool:
        """Return whether the device could be bound to the GPU, which need not be free."""
        return (gpu.vendor_id, gpu.device_id) in self.allowed and self.label in ("", gpu.label)


@dataclass(frozen=True)
class VGPUDevice:
    """``sequence`` as in DynamicDevice."""

    profile: str
    key: int = field(default=0, compare=False)
    sequence: int = 0


Device = PassthroughDevice | DynamicDevice | VGPUDevice


def in_group(device: Device) -> bool:
    """Return whether the device belongs to a vendor device group, and is removed with it only."""
    return not isinstance(device, PassthroughDevice) and device.sequence > 0


@dataclass(frozen=True)
class DeviceGroup:
    """A vendor device group that a host offers: a VM gets all of its devices or none.

    ``others`` are the types of its devices that are not GPUs, such as sriovNic.
    """

    name: str
    devices: tuple[Device, ...]
    others: tuple[str, ...] = ()


def _held(holder: Holder) -> str:
    return f"{holder.vm} ({'powered on' if holder.powered_on else 'powered off'})"
