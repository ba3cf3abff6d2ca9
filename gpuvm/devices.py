"""GPUs of hosts, who holds them, and the devices of VMs that give them one; plain values."""

from dataclasses import dataclass, field

NVIDIA_VENDOR_ID = 0x10DE


@dataclass(frozen=True)
class VGPUProfile:
    """A vGPU type; ``memory_gib`` is its framebuffer, None where its name does not say it."""

    name: str
    memory_gib: int | None


@dataclass(frozen=True)
class Holder:
    """A VM that names a GPU in its virtual hardware, or was given one; ``profile`` of a vGPU.

    ``shares`` is how many vGPUs of this GPU it has. Names are unique in a folder only, so two
    holders are one if their ``moref`` is. ``ours`` says that gpuvm made it.
    """

    vm: str
    powered_on: bool
    profile: str | None = None
    moref: str = ""
    shares: int = 1
    ours: bool = False
    sure: bool = True
    """False where what vCenter shows of the VM leaves open whether it has this GPU."""

    @property
    def keeps(self) -> bool:
        """Nobody else may have the GPU; a VM of ours that is off has lent it."""
        return self.powered_on or not self.ours


@dataclass(frozen=True)
class GPU:
    """One physical function as the host lists it (HostPciDevice, HostPciPassthruInfo).

    Ids are unsigned 16-bit numbers. ``system_id`` is the host's own, from
    ``QueryConfigTarget(host=…)``: None when the host was not asked, empty when it did not tell.
    ``memory_gib`` is None where nobody knows it. ``profiles`` are the vGPU types of a GPU that is
    shared, empty for one that is not.
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
    """The card's graphics type is Shared Direct: a vGPU driver may offer vGPUs of it."""
    suspects: tuple[Holder, ...] = ()
    """VMs that may hold it: of these it is not shown whether they do."""
    passthrough_shown: bool = True

    @property
    def state(self) -> str:
        """One phrase for a table: free, held by …, reboot pending, not enabled, incapable."""
        if self.profiles:
            return self._shared()
        kept = [holder for holder in self.holders if holder.keeps]
        if kept:
            return "held by " + ", ".join(map(_held, kept))
        if not self.capable:
            shown = self.passthrough_shown
            return "not capable of passthrough" if shown else "its passthrough state is not shown"
        if self.reboot_pending:
            return self._pending()
        if not self.active:
            return "passthrough not enabled"
        lent = ", ".join(holder.vm for holder in self.holders)
        return (f"free, lent by {lent} (powered off)" if lent else "free") + self._doubt()

    @property
    def reboot_pending(self) -> bool:
        """Passthrough was switched and is not in force: users of now lose the GPU at a reboot."""
        return self.enabled != self.active

    @property
    def free(self) -> bool:
        """For a whole VM: neither shared nor kept by any other."""
        kept = any(holder.keeps for holder in self.holders)
        return self.active and self.enabled and not kept and not self.profiles

    def vgpus_left(self, profile: str, promised: int = 0) -> int:
        """How many more vGPUs of this profile fit; all on one GPU have the same profile.

        ``promised`` ones are not there yet. A profile whose size is not known counts as the whole
        GPU. None fits where the next reboot makes the GPU one for passthrough.
        """
        if self.reboot_pending:
            return 0
        offered = next((p for p in self.profiles if p.name == profile), None)
        used = [h for h in self.holders if h.powered_on]
        if offered is None or any(h.profile != profile for h in used):
            return 0
        size = offered.memory_gib or self.memory_gib or 1
        taken = sum(holder.shares for holder in used) + promised
        return max(0, (self.memory_gib or size) // size - taken)

    def _pending(self) -> str:
        switched = "enabled" if self.enabled else "disabled"
        return f"passthrough {switched}, host reboot pending"

    def _shared(self) -> str:
        if self.reboot_pending:
            return f"shared as vGPU, {self._pending()}"
        used = next((h.profile for h in self.holders if h.powered_on and h.profile), None)
        if used is None:
            return f"shared as vGPU, unused, {len(self.profiles)} profiles" + self._doubt()
        return f"shared as vGPU, {self.vgpus_left(used)} of {used} left" + self._doubt()

    def _doubt(self) -> str:
        suspects = ", ".join(holder.vm for holder in self.suspects)
        return f", unless {suspects} has it" if suspects else ""


@dataclass(frozen=True)
class PassthroughDevice:
    """A fixed DirectPath I/O device in a VM's virtual hardware.

    ``device_id`` is the backing's own text: unsigned hex without ``0x``. Two devices are the same
    one if address and ``system_id`` are; ``key`` is 0 for one that is only wanted.
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

    ``assigned`` is what the VM was given while it is powered on. ``sequence`` is its number in its
    vendor device group, 0 for a device that is in none.
    """

    allowed: tuple[tuple[int, int], ...]
    label: str = ""
    assigned: str = field(default="", compare=False)
    key: int = field(default=0, compare=False)
    sequence: int = 0

    def allows(self, gpu: GPU) -> bool:
        """Free or not."""
        return (gpu.vendor_id, gpu.device_id) in self.allowed and self.label in ("", gpu.label)


@dataclass(frozen=True)
class VGPUDevice:
    """``sequence`` as in DynamicDevice."""

    profile: str
    key: int = field(default=0, compare=False)
    sequence: int = 0


Device = PassthroughDevice | DynamicDevice | VGPUDevice


def in_group(device: Device) -> bool:
    """It came with a vendor device group, and goes with it only."""
    return not isinstance(device, PassthroughDevice) and device.sequence > 0


@dataclass(frozen=True)
class DeviceGroup:
    """A vendor device group that a host offers: its devices go into one VM, all or none.

    ``others`` are the kinds of those among them that are no GPU, such as sriovNic.
    """

    name: str
    devices: tuple[Device, ...]
    others: tuple[str, ...] = ()


def _held(holder: Holder) -> str:
    return f"{holder.vm} ({'powered on' if holder.powered_on else 'powered off'})"
