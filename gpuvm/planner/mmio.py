"""The 64-bit MMIO window: computed from the GPUs' memory, or as wished."""

from collections.abc import Sequence

from gpuvm.accelerators import NoGPU
from gpuvm.errors import BadInput
from gpuvm.inventory import GPU, Device, DynamicDevice
from gpuvm.planner.rooms import device_memory_gib
from gpuvm.spec import ClusterSpec


def mmio_window_gib(memory_gib_of_each: Sequence[int]) -> int:
    """The 64-bit MMIO window for these GPUs: a power of two above their memory, at least 64.

    VMware's rule is the next power of two *above* the sum; a window that is too large does no harm,
    one that is too small keeps the VM from powering on. Of the two published rules for sums that
    are no power of two (48 -> 64 or 128) the larger result is taken.
    """
    total = sum(memory_gib_of_each)
    above = 1 << total.bit_length()
    doubled = above * 2 if total & (total - 1) else above
    return max(64, doubled)


def check(spec: ClusterSpec) -> None:
    """Raises BadInput for a window that is no power of two."""
    given = _given(spec)
    if given is not None and (given & (given - 1) or given <= 0):
        raise BadInput(f"accelerator.mmio_gib: {given} is not a power of two")


def window_gib(
    spec: ClusterSpec, devices: Sequence[Device], gpus: Sequence[GPU], all_gpus: Sequence[GPU]
) -> int | None:
    """Of one VM; None without a GPU.

    A dynamic device may be bound to any GPU of the cluster that it allows: the largest counts.
    """
    if not devices:
        return None
    dynamic = [device for device in devices if isinstance(device, DynamicDevice)]
    largest = [
        max((gpu.memory_gib or 0 for gpu in all_gpus if device.allows(gpu)), default=0)
        for device in dynamic
    ]
    return _given(spec) or mmio_window_gib(largest or device_memory_gib(devices, gpus))


def _given(spec: ClusterSpec) -> int | None:
    return None if isinstance(spec.accelerator, NoGPU) else spec.accelerator.mmio_gib
