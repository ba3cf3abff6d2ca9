"""The 64-bit MMIO window: computed from what the GPUs map, unless the spec sets it."""

from collections.abc import Sequence

from gpuvm import fitting
from gpuvm.devices import GPU, Device, VGPUDevice
from gpuvm.errors import BadInput
from gpuvm.spec import ClusterSpec


def mmio_window_gib(memory_gib_of_each: Sequence[int]) -> int:
    """Return the 64-bit MMIO window for these GPUs: a power of two above their memory, at least 64.

    VMware's rule is the next power of two *above* the sum. A window that is too large does no harm,
    with one that is too small the VM does not power on. For sums that are no power of two there are
    two published rules (48 -> 64 or 128); this uses the larger result.
    """
    total = sum(memory_gib_of_each)
    above = 1 << total.bit_length()
    doubled = above * 2 if total & (total - 1) else above
    return max(64, doubled)


def check(spec: ClusterSpec) -> None:
    """Raise BadInput for a window that is not a power of two; 0 means no window."""
    given = fitting.given_gib(spec) or 0
    if given & (given - 1) or given < 0:
        raise BadInput(f"accelerator.mmio_gib: {given} is not a power of two")


def check_size(
    spec: ClusterSpec, devices: Sequence[Device], gpus: Sequence[GPU], all_gpus: Sequence[GPU]
) -> None:
    """Raises BadInput for a window that the whole GPUs of a VM do not fit into."""
    given = fitting.given_gib(spec) or 0
    whole = [device for device in devices if not isinstance(device, VGPUDevice)]
    total = sum(fitting.mapped_gib(whole, gpus, all_gpus)) if whole else 0
    if 0 < given <= total:
        raise BadInput(
            f"accelerator.mmio_gib: {given} GiB is too little for GPUs with {total} GiB of memory",
            hint=f"{1 << total.bit_length()} or more; left out it is computed",
        )


def window_gib(
    spec: ClusterSpec,
    devices: Sequence[Device],
    gpus: Sequence[GPU],
    all_gpus: Sequence[GPU],
    firmware: str,
) -> int | None:
    """Return one VM's window; None if its BARs fit below 4 GiB, or if its firmware is BIOS."""
    given = fitting.given_gib(spec)
    if not devices or given is not None:
        return given if devices and given else None
    mapped = fitting.mapped_gib(devices, gpus, all_gpus)
    return mmio_window_gib(mapped) if mapped and firmware != "bios" else None
