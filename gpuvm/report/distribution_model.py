"""What a report says of a distributed run: the part ``Distribution`` of its contents.

Distribution
├── WorkerTimes      how one worker spent a phase
├── AgainstOneVM     the same on one VM, with a SpeedUp of the whole and of each phase
└── IncidentReport   what happened to a worker, and what that cost
"""

from dataclasses import dataclass
from datetime import datetime

from gpuvm.report.format import duration, percent
from gpuvm.results import Happening, Strategy

STRATEGIES = {
    "local-sgd": "Local SGD: each worker trains by itself, and now and then all continue with "
    "the average of their weights.",
    "allreduce": "All-reduce: the workers divide each step, and add up their gradients.",
}


@dataclass(frozen=True)
class WorkerTimes:
    """How one worker spent a phase. ``step_seconds`` and ``computing_seconds`` are medians, of a
    step of the whole training; ``communicating`` and ``waiting`` are percentages of the time, and
    ``waiting``, for the slowest worker, is a part of ``communicating``. None if not recorded.

    ``slowest``: it computes longer for a step than the others.
    """

    vm: str
    phase: str
    title: str
    step_seconds: float | None
    computing_seconds: float | None
    communicating: float | None
    waiting: float | None
    slowest: bool


@dataclass(frozen=True)
class SpeedUp:
    """Of the whole program, or of a phase of the workload; ``efficiency`` is a percentage per VM.

    Both are None where the times are of another device than the one asked for.
    """

    title: str
    one_vm_s: float
    together_s: float
    speed_up: float | None
    efficiency: float | None


@dataclass(frozen=True)
class AgainstOneVM:
    """A distributed run beside the latest run of the same on one VM, ``run_id``.

    ``refused`` says why no speed-up is computed, ``different`` which other conditions differ.
    """

    run_id: str
    rows: tuple[SpeedUp, ...]
    refused: str | None
    different: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The whole program, in one sentence."""
        whole = self.rows[0]
        if whole.speed_up is None or whole.efficiency is None:
            why = f" ({self.refused})" if self.refused else ""
            return (
                f"{duration(whole.together_s)} against {duration(whole.one_vm_s)} on one VM "
                f"({self.run_id}); no speed-up is computed{why}."
            )
        return (
            f"{whole.speed_up:.2f} times as fast as one VM ({self.run_id}), "
            f"efficiency {percent(whole.efficiency)} per VM."
        )


@dataclass(frozen=True)
class IncidentReport:
    """``lost_steps`` were done again, ``seconds`` is how long the worker was away."""

    at: datetime
    vm: str
    what: Happening
    why: str
    lost_steps: int | None
    seconds: float | None


@dataclass(frozen=True)
class Distribution:
    """Of a distributed run. ``strategy`` is None in older records, ``against`` without a run to
    compare with.
    """

    strategy: Strategy | None
    workers: tuple[WorkerTimes, ...]
    against: AgainstOneVM | None
    incidents: tuple[IncidentReport, ...]

    @property
    def phases(self) -> tuple[str, ...]:
        """The titles of those that ``workers`` are about."""
        return tuple(dict.fromkeys(one.title for one in self.workers))

    @property
    def communicates(self) -> bool:
        """Whether any worker recorded how long."""
        return any(one.communicating is not None for one in self.workers)

    @property
    def waits(self) -> bool:
        return any(one.waiting is not None for one in self.workers)

    @property
    def strategy_note(self) -> str:
        """What the strategy does, in one sentence; empty if it is not known."""
        return STRATEGIES[self.strategy] if self.strategy else ""
