"""The 64-bit MMIO window: computed from the GPUs' memory, or as wished."""

from collections.abc import Sequence

from gpuvm.accelerators import NoGPU
from gpuvm.errors import BadInput
from gpuvm.planner.model import Step
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


def of_plan(spec: ClusterSpec, steps: Sequence[Step]) -> int | None:
    """One window for all new VMs, that of the largest; None without a GPU. Raises BadInput."""
    if isinstance(spec.accelerator, NoGPU):
        return None
    given = spec.accelerator.mmio_gib
    if given is not None:
        if given & (given - 1) or given <= 0:
            raise BadInput(f"accelerator.mmio_gib: {given} is not a power of two")
        return given
    windows = [mmio_window_gib(device_memory_gib(step.devices, step.gpus)) for step in steps]
    return max(windows, default=None)
