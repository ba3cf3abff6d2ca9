"""How a run used its GPUs, from the samples that were taken in its guests.

Energy is the trapezoid rule over the power of consecutive samples. A gap between samples, such as
that of a suspended VM or a clock that was set, is not bridged: nobody knows what was drawn in it.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from gpuvm.report.model import GPUUsage, UsagePoint, VMReport
from gpuvm.report.records import GPUSample, Lines, read_gpu_samples

LATE = 3.0
"""A sample that comes later than so many intervals after the one before it follows a gap."""
MOST_POINTS = 400
"""Of a GPU in a chart; more are averaged."""


def usage(vm: str, vm_dir: Path) -> tuple[tuple[GPUUsage, ...], Lines[GPUSample]]:
    """How each GPU of the VM was used, by its index; nothing where none was sampled.

    Raises BadInput with file and line for a corrupt record.
    """
    lines = read_gpu_samples(vm_dir)
    by_gpu: dict[int, list[GPUSample]] = {}
    for sample in lines.records:
        by_gpu.setdefault(sample.gpu, []).append(sample)
    return tuple(_usage(vm, own) for _, own in sorted(by_gpu.items())), lines


def energy_wh(gpus: Sequence[GPUUsage], vms: Sequence[VMReport]) -> tuple[float | None, str | None]:
    """The energy of all GPUs of a run in watt-hours, or None and why it is not known.

    It is never computed from simulated GPUs, and never from a part of the GPUs.
    """
    with_gpu = {vm.name for vm in vms if vm.gpus}
    if not gpus:
        return None, None
    if any(vm.simulated for vm in vms):
        return None, "the GPUs are simulated: no energy is computed from what they show"
    missing = sorted(with_gpu - {gpu.vm for gpu in gpus})
    if missing:
        return None, f"the GPUs of {', '.join(missing)} were not sampled"
    without = sorted({gpu.vm for gpu in gpus if gpu.energy_wh is None})
    if without:
        return None, f"no power was reported on {', '.join(without)}, as is usual for a vGPU"
    return sum(gpu.energy_wh or 0.0 for gpu in gpus), None


def _usage(vm: str, samples: Sequence[GPUSample]) -> GPUUsage:
    steps = [0.0, *(_step(one, two) for one, two in pairwise(samples))]
    measured_s = sum(step for step in steps if step > 0)
    powered = [
        (step, (one.power_w + two.power_w) / 2)
        for step, (one, two) in zip(steps[1:], pairwise(samples), strict=True)
        if step > 0 and one.power_w is not None and two.power_w is not None
    ]
    joules = sum(step * power for step, power in powered)
    powered_s = sum(step for step, _ in powered)
    return GPUUsage(
        vm=vm,
        gpu=samples[0].gpu,
        uuid=samples[0].uuid,
        samples=len(samples),
        measured_s=measured_s,
        gaps=sum(1 for step in steps[1:] if step == 0),
        utilization=_mean([(one.interval_s, one.utilization) for one in samples]),
        memory_mib=max((o.memory_mib for o in samples if o.memory_mib is not None), default=None),
        power_w=joules / powered_s if powered_s else None,
        energy_wh=joules / 3600 if powered_s else None,
        points=tuple(_points(samples, steps)),
    )


def _step(one: GPUSample, two: GPUSample) -> float:
    """The seconds between two samples; 0 where there is a gap, or the clock was set back."""
    step = two.t - one.t
    return step if 0 < step <= LATE * two.interval_s else 0.0


def _points(samples: Sequence[GPUSample], steps: Sequence[float]) -> Iterator[UsagePoint]:
    """The samples on a time axis, averaged where they are many; ``begins`` a new line after a gap.

    A gap is as long on the axis as the clock says, or one interval where it was set back.
    """
    size = -(-len(samples) // MOST_POINTS)
    at, group, begins = 0.0, list[tuple[float, GPUSample]](), True
    for i, (sample, step) in enumerate(zip(samples, steps, strict=True)):
        if i and not step:
            if group:
                yield _point(group, begins=begins)
            group, begins = [], True
            ahead = sample.t - samples[i - 1].t
            step = ahead if ahead > 0 else sample.interval_s  # noqa: PLW2901 - as drawn
        at += step
        group.append((at, sample))
        if len(group) == size:
            yield _point(group, begins=begins)
            group, begins = [], False
    if group:
        yield _point(group, begins=begins)


def _point(group: Sequence[tuple[float, GPUSample]], *, begins: bool) -> UsagePoint:
    samples = [sample for _, sample in group]
    return UsagePoint(
        at_s=sum(at for at, _ in group) / len(group),
        utilization=_mean([(1.0, one.utilization) for one in samples]),
        memory_mib=_mean([(1.0, one.memory_mib) for one in samples]),
        power_w=_mean([(1.0, one.power_w) for one in samples]),
        begins=begins,
    )


def _mean(values: Sequence[tuple[float, float | None]]) -> float | None:
    """Of those that are known, by weight."""
    known = [(weight, value) for weight, value in values if value is not None]
    weights = sum(weight for weight, _ in known)
    return sum(weight * value for weight, value in known) / weights if weights else None
