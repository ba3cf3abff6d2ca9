"""Whether a distributed run is faster than one of its VMs alone, judged while it trains.

    scaling = Scaling(workers=2)
    scaling.seen("gpuvm-01", record)    # each record of each worker; None or a warning

One VM alone does all steps itself and never communicates, so that it takes as long as a worker
computes for a step, times the workers among whom the step was divided.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from pydantic import ValidationError

from gpuvm.report.communication import Interval, intervals
from gpuvm.report.format import milliseconds, percent
from gpuvm.report.records import Average, Rejoined, Step
from gpuvm.text import counted, one_line

AFTER_STEPS: Final = 100
"""Of all workers together, in one phase."""
_UNTIL_STEPS: Final = 10 * AFTER_STEPS
"""A phase that cannot be judged by then is not judged any more."""

Record = Step | Average | Rejoined
_KINDS: Final[Mapping[str, type[Record]]] = {
    "step": Step,
    "average": Average,
    "rejoined": Rejoined,
}


@dataclass(frozen=True)
class Estimate:
    """Seconds of a step of the whole training: of all ``workers`` ``together``, of which they
    communicate ``communicating`` and wait ``waiting`` for the ``slowest``; and of ``vm``, the
    fastest of them, ``alone``.
    """

    workers: int
    together: float
    communicating: float
    waiting: float | None
    slowest: str
    vm: str
    alone: float

    @property
    def pays(self) -> bool:
        return self.together < self.alone


def estimate(by_vm: Mapping[str, Sequence[Interval]], workers: int) -> Estimate:
    """From the medians of each worker, of which there is at least one with an interval."""
    computing = {vm: median(one.computing_seconds for one in own) for vm, own in by_vm.items()}
    together = median(median(one.step_seconds for one in own) for own in by_vm.values())
    communicating = median(
        median(one.communicating / one.steps for one in own) for own in by_vm.values()
    )
    waits = [
        median(one.waiting / one.steps for one in own if one.waiting is not None)
        for own in by_vm.values()
        if any(one.waiting is not None for one in own)
    ]
    fastest = min(computing, key=lambda vm: computing[vm])
    return Estimate(
        workers=workers,
        together=together,
        communicating=communicating,
        waiting=median(waits) if len(waits) == len(by_vm) else None,
        slowest=max(computing, key=lambda vm: computing[vm]),
        vm=fastest,
        alone=workers * computing[fastest],
    )


class Scaling:
    """Judges each phase of a run once; used by several threads."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._records: dict[str, dict[str, list[Record]]] = {}
        self._judged: set[str] = set()
        self._lock = threading.Lock()

    def seen(self, vm: str, record: Mapping[str, Any]) -> str | None:
        """Returns a warning if the phase of this record is now known not to pay."""
        read = _read(record)
        if read is None or self._workers < 2:
            return None
        with self._lock:
            if read.phase in self._judged:
                return None
            by_vm = self._records.setdefault(read.phase, {})
            by_vm.setdefault(vm, []).append(read)
            return self._judge(read.phase, by_vm)

    def _judge(self, phase: str, by_vm: Mapping[str, Sequence[Record]]) -> str | None:
        """Waits for those who take part: with local SGD they may be fewer than at the start."""
        records = [one for own in by_vm.values() for one in own]
        steps = max((one.step for one in records if not isinstance(one, Rejoined)), default=0)
        if steps < AFTER_STEPS:
            return None
        averages = [one for one in records if isinstance(one, Average)]
        latest = max(averages, key=lambda one: one.step, default=None)
        workers = len(latest.members) if latest and latest.members else self._workers
        measured = {vm: spent for vm, own in by_vm.items() if (spent := intervals(own, phase))}
        if len(measured) < workers and steps < _UNTIL_STEPS:
            return None
        self._judged.add(phase)
        del self._records[phase]
        if len(measured) < workers or workers < 2:
            return None
        found = estimate(measured, workers)
        return None if found.pays else _warning(phase, steps, found, averages=bool(averages))


def _read(record: Mapping[str, Any]) -> Record | None:
    """None for what says nothing of communication, and for what is no record at all.

    Between two averages of local SGD a step has no communication.
    """
    kind = _KINDS.get(str(record.get("event")))
    try:
        read = None if kind is None else kind.model_validate(record, strict=False)
    except ValidationError:
        return None  # the report reports the line
    return None if isinstance(read, Step) and not read.communication_seconds else read


def _warning(phase: str, steps: int, found: Estimate, *, averages: bool) -> str:
    share = percent(100 * found.communicating / found.together)
    waiting = found.waiting is not None and 2 * found.waiting > found.communicating
    wait = f", mostly for {found.slowest}" if waiting else ""
    fewer = f"leave out {found.slowest}" if waiting else "use fewer VMs"
    other = "a larger --average-every" if averages else "--strategy local-sgd"
    return (
        f"{one_line(phase, longest=40)}: distribution does not pay: after {counted(steps, 'step')} "
        f"{counted(found.workers, 'VM')} together take {milliseconds(found.together)} a step "
        f"({share} of it communicating and waiting{wait}), {found.vm} alone would take about "
        f"{milliseconds(found.alone)}; {fewer}, or try {other}"
    )
