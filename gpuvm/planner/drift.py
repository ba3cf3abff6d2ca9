"""How a VM differs from its creation spec, which is in its extraConfig."""

from collections import Counter
from collections.abc import Sequence

from gpuvm.accelerators import VGPU, DeviceGroup, DynamicPassthrough, Passthrough
from gpuvm.devices import Device, DynamicDevice, PassthroughDevice, VGPUDevice, in_group
from gpuvm.inventory import VM, Inventory
from gpuvm.planner.sameness import NO_CREATION_SPEC
from gpuvm.spec import ClusterSpec


def drift(vm: VM, inventory: Inventory) -> tuple[str, ...]:
    """Describe each difference from the creation spec; empty when the VM matches it."""
    spec = ClusterSpec.from_creation_spec(vm.creation_spec)
    if vm.hidden:
        return (vm.hidden,)
    if spec is None:
        return (NO_CREATION_SPEC,)
    return tuple(
        filter(
            None,
            (
                _differs("CPUs", spec.cpus, vm.cpus),
                _differs("GiB of memory", spec.memory_gib, vm.memory_gib),
                _devices(spec, vm),
                _memory(vm),
                _other_holders(vm, inventory),
                *_passthrough_off(vm, inventory),
                *_moved(vm, inventory),
                "it is a VM template now" if vm.template else None,
                f"it waits for an answer: {vm.question}" if vm.question else None,
                None if vm.connection_state == "connected" else f"it is {vm.connection_state}",
            ),
        )
    )


def _differs(what: str, wanted: float | None, found: float) -> str | None:
    if wanted is None or wanted == found:
        return None
    return f"{found:g} {what} instead of {wanted:g}"


def _devices(spec: ClusterSpec, vm: VM) -> str | None:
    found, expected = Counter(map(_kind, vm.devices)), _expected(spec)
    if isinstance(spec.accelerator, DeviceGroup):
        whole = vm.devices and all(map(in_group, vm.devices))
        missing = f"the device group {spec.accelerator.group}"
        return None if whole else f"{_listed(found)} instead of {missing}"
    if found == expected:
        return None
    return f"{_listed(found)} instead of {_listed(expected)}"


def _kind(device: Device) -> str:
    if isinstance(device, VGPUDevice):
        return f"vGPU {device.profile}"
    return "fixed GPU" if isinstance(device, PassthroughDevice) else "dynamic GPU"


def _expected(spec: ClusterSpec) -> Counter[str]:
    wanted = spec.accelerator
    if isinstance(wanted, VGPU):
        return Counter({f"vGPU {wanted.profile}": wanted.count})
    if isinstance(wanted, Passthrough):
        return Counter({"fixed GPU": wanted.count})
    if isinstance(wanted, DynamicPassthrough):
        return Counter({"dynamic GPU": wanted.count})
    return Counter()


def _listed(kinds: Counter[str]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())) or "no GPU"


def _memory(vm: VM) -> str | None:
    """With a GPU, ESXi needs all memory reserved and hot-add disabled."""
    if not vm.devices or (vm.memory_locked and not vm.hot_add):
        return None
    return "its memory is not fully reserved" if not vm.memory_locked else "hot-add is enabled"


def _other_holders(vm: VM, inventory: Inventory) -> str | None:
    """Of several VMs that name the same fixed GPU, only one can be powered on."""
    own = {(vm.host, d.pci_address) for d in _fixed(vm.devices)}
    others = {
        holder.vm
        for gpu in inventory.gpus
        if (gpu.host, gpu.pci_address) in own
        for holder in gpu.holders
        if holder.moref != vm.moref
    }
    return f"its GPU is also assigned to {', '.join(sorted(others))}" if others else None


def _passthrough_off(vm: VM, inventory: Inventory) -> list[str]:
    """A host can lose the setting, for instance in an upgrade."""
    own = {(vm.host, d.pci_address) for d in _fixed(vm.devices)}
    return [
        f"passthrough of {gpu.pci_address} is disabled"
        + ("" if gpu.enabled == gpu.active else ", host reboot pending")
        for gpu in inventory.gpus
        if (gpu.host, gpu.pci_address) in own and not gpu.active
    ]


def _moved(vm: VM, inventory: Inventory) -> list[str]:
    """A card that is added to a host, or taken out, can give its GPUs other PCI addresses."""
    host = inventory.host(vm.host)
    if host is None or host.unusable or host.gpus_hidden:
        return []
    there = {gpu.pci_address for gpu in host.gpus}
    return [
        f"{host.name} has no GPU at {device.pci_address}"
        for device in _fixed(vm.devices)
        if device.pci_address not in there
    ]


def _fixed(devices: Sequence[Device]) -> list[PassthroughDevice]:
    return [device for device in devices if isinstance(device, PassthroughDevice)]


def assigned(vm: VM) -> tuple[str, ...]:
    """Return the VM's GPUs according to vCenter: PCI addresses on its host, or vGPU types."""
    shares = [d.profile for d in vm.devices if isinstance(d, VGPUDevice)]
    dynamic = [d.assigned or "unbound" for d in vm.devices if isinstance(d, DynamicDevice)]
    return (*(d.pci_address for d in _fixed(vm.devices)), *dynamic, *shares)
