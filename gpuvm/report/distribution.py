"""Whether a distributed run pays: how its workers spent their time, and how long one VM takes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from gpuvm.errors import BadInput
from gpuvm.report.communication import Interval, intervals
from gpuvm.report.comparison import compare
from gpuvm.report.distribution_model import (
    AgainstOneVM,
    Distribution,
    IncidentReport,
    SpeedUp,
    WorkerTimes,
)
from gpuvm.report.model import RunReport
from gpuvm.report.phases import title
from gpuvm.report.records import Average, Step, Timing, read_manifest, read_timings
from gpuvm.results import Incident, Manifest

OPTIONS_OF_DISTRIBUTION: Final = ("--average-every", "--strategy", "--global-batch", "--seed")
"""Those of a workload that change nothing for one VM, and the seed, which changes no time."""


def distribution(
    manifest: Manifest, timings: Mapping[str, Sequence[Timing]], incidents: Sequence[Incident]
) -> Distribution | None:
    """Without a comparison. None for a run that is not distributed."""
    if not manifest.distributed:
        return None
    return Distribution(
        strategy=manifest.strategy,
        workers=tuple(one for phase in _phases(timings) for one in _workers(timings, phase)),
        against=None,
        incidents=tuple(
            IncidentReport(one.at, one.vm, one.what, one.why, one.lost_steps, one.seconds)
            for one in incidents
        ),
    )


def _phases(timings: Mapping[str, Sequence[Timing]]) -> Iterator[str]:
    """Those with steps, in their order."""
    lines = (line for own in timings.values() for line in own)
    yield from dict.fromkeys(line.phase for line in lines if isinstance(line, Step | Average))


def _workers(timings: Mapping[str, Sequence[Timing]], phase: str) -> Iterator[WorkerTimes]:
    """A phase whose steps have no times, such as one of a single step, has none."""
    spent = {vm: intervals(own, phase) for vm, own in timings.items()}
    step = {vm: _step_seconds(timings[vm], phase, own) for vm, own in spent.items()}
    computing = {vm: median(i.computing_seconds for i in own) for vm, own in spent.items() if own}
    known = {vm: seconds for vm, seconds in step.items() if seconds is not None}
    slowest = _slowest(computing if len(computing) == len(known) else known)
    for vm in known:
        own = spent[vm]
        yield WorkerTimes(
            vm=vm,
            phase=phase,
            title=title(phase),
            step_seconds=step[vm],
            computing_seconds=computing.get(vm),
            communicating=_share(own, [one.communicating for one in own]),
            waiting=_share(own, [one.waiting for one in own]),
            slowest=vm == slowest,
        )


def _step_seconds(timings: Sequence[Timing], phase: str, spent: Sequence[Interval]) -> float | None:
    """Of a round of local SGD all steps count: few of those logged have an average in them."""
    if spent:
        return median(one.step_seconds for one in spent)
    logged = [
        line.step_seconds
        for line in timings
        if isinstance(line, Step) and line.phase == phase and line.step_seconds is not None
    ]
    return median(logged) if logged else None


def _slowest(seconds: Mapping[str, float]) -> str | None:
    """None where all are alike."""
    if len(set(seconds.values())) < 2:
        return None
    return max(seconds, key=lambda vm: seconds[vm])


def _share(spent: Sequence[Interval], parts: Sequence[float | None]) -> float | None:
    """In per cent of the time, as far as it is recorded."""
    known = [
        (one.seconds, part) for one, part in zip(spent, parts, strict=True) if part is not None
    ]
    whole = sum(seconds for seconds, _ in known)
    return 100 * sum(part for _, part in known) / whole if 0 < whole < math.inf else None


def one_vm_run(run_dir: Path) -> Path | None:
    """The latest run of the same on one VM, with the same kind of accelerator.

    Among the runs in the same folder, and for one that succeeded; records that cannot be read are
    passed over.
    """
    manifest = read_manifest(run_dir)
    if manifest.status != "succeeded" or len(manifest.vms) < 2:
        return None
    latest: tuple[Manifest, Path] | None = None
    for file in run_dir.absolute().parent.glob("*/manifest.json"):
        try:
            other = read_manifest(file.parent)
        except (BadInput, OSError):
            continue
        if _is_comparable(other, manifest) and (
            latest is None or other.started > latest[0].started
        ):
            latest = other, file.parent
    return latest[1] if latest else None


def _is_comparable(other: Manifest, manifest: Manifest) -> bool:
    return (
        other.status == "succeeded"
        and not other.distributed
        and len(other.vms) == 1
        and other.workload == manifest.workload
        and _what_matters(other) == _what_matters(manifest)
        and _accelerators(other) == _accelerators(manifest)
    )


def _what_matters(manifest: Manifest) -> object:
    return tuple(_arguments(manifest.args)), dict(manifest.project), manifest.gpus_hidden


def _arguments(args: Sequence[str]) -> Iterator[str]:
    """Without the options that only matter to several VMs, and their values."""
    value_follows = False
    for arg in args:
        name, separator, _ = arg.partition("=")
        if name in OPTIONS_OF_DISTRIBUTION:
            value_follows = not separator
        elif arg.startswith("-") or not value_follows:
            value_follows = False
            yield arg
        else:
            value_follows = False


def _accelerators(manifest: Manifest) -> set[tuple[str, ...]]:
    return {(vm.accelerator, *(gpu.model for gpu in vm.gpus)) for vm in manifest.vms}


def against(run: RunReport, one_vm: RunReport) -> AgainstOneVM | None:
    """The distributed run beside that on one VM; None where one of them has no time of its own,
    such as one that was resumed.
    """
    missing = {curve.phase for curve in run.curves} - {curve.phase for curve in one_vm.curves}
    if missing or _is_resumed(run) or _is_resumed(one_vm):
        return None
    try:
        compared = compare((one_vm, run))
    except BadInput:
        return None
    (ratio,) = compared.ratios
    base = next(side for side in compared.sides if side.name == compared.baseline)
    side = next(side for side in compared.sides if side.name == ratio.side)
    times = [("Whole program", base.whole.median, side.whole.median)]
    times += [
        (row.title, alone, row.overall_s)
        for row in run.phases
        if row.group == "workload" and row.overall_s is not None and _has_steps(run, row.name)
        if any(vm.starts == 1 for vm in run.vms)  # else only a part of each phase is known
        if (alone := _phase_seconds(one_vm, row.name)) is not None
    ]
    return AgainstOneVM(
        run_id=one_vm.run_id,
        rows=tuple(
            _speed_up(*row, vms=len(run.vms), refused=ratio.refused is not None) for row in times
        ),
        refused=ratio.refused,
        different=tuple(
            line
            for line in compared.different
            if not line.startswith(("arguments:", "distributed:"))
        ),
    )


def _is_resumed(run: RunReport) -> bool:
    """Whether its first step is further from 0 than from the next one that was logged.

    Of the first start: a worker that was lost begins later when it is started again.
    """
    return not any(_began_at_0(run.dir / vm.name) for vm in run.vms)


def _began_at_0(vm_dir: Path) -> bool:
    """Whether all of its phases did, as far as their steps can say."""
    by_phase: dict[str, list[int]] = {}
    for line in read_timings(vm_dir).records:
        if isinstance(line, Step):
            by_phase.setdefault(line.phase, []).append(line.step)
    began = [own[0] <= own[1] - own[0] for own in by_phase.values() if len(own) > 1]
    return all(began)


def _has_steps(run: RunReport, phase: str) -> bool:
    return run.distribution is not None and any(
        one.phase == phase for one in run.distribution.workers
    )


def _phase_seconds(run: RunReport, phase: str) -> float | None:
    rows = [row for row in run.phases if (row.group, row.name) == ("workload", phase)]
    return rows[0].overall_s if rows else None


def _speed_up(what: str, one_vm_s: float, together_s: float, *, vms: int, refused: bool) -> SpeedUp:
    if refused or not one_vm_s or not together_s:
        return SpeedUp(what, one_vm_s, together_s, None, None)
    speed_up = one_vm_s / together_s
    return SpeedUp(what, one_vm_s, together_s, speed_up, 100 * speed_up / vms)
