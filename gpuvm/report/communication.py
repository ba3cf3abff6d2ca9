"""How the workers of a distributed run spent their time: computing, communicating, waiting.

With local SGD from the ``average`` records: between two of them lies a round. With all-reduce from
the ``step`` records. Seconds are those per step of the whole training, whichever worker does it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gpuvm.report.records import Average, Rejoined, Step, Timing

_MOST_STEPS: Final = 2**53
"""What a float counts exactly; a record of more is none."""


@dataclass(frozen=True)
class Interval:
    """``steps`` of the whole training, and what one worker did in these ``seconds``.

    ``waiting``, for the slowest worker, is a part of ``communicating``; None if not recorded.
    """

    steps: int
    seconds: float
    communicating: float
    waiting: float | None = None

    @property
    def step_seconds(self) -> float:
        return self.seconds / self.steps

    @property
    def computing_seconds(self) -> float:
        """Of a step."""
        return (self.seconds - self.communicating) / self.steps


def intervals(timings: Iterable[Timing], phase: str) -> list[Interval]:
    """Those of one worker in a phase, without the first, in which it compiled."""
    own = [one for one in timings if _is_of(one, phase)]
    rounds = [one for one in own if isinstance(one, Average | Rejoined)]
    steps = [one for one in own if isinstance(one, Step)]
    found = _of_rounds(rounds) if rounds else _of_steps(steps)
    return [one for one in found if _is_plausible(one)]


def _is_of(one: Timing, phase: str) -> bool:
    if isinstance(one, Average | Step):
        return one.phase == phase and 0 <= one.step < _MOST_STEPS
    return isinstance(one, Rejoined) and one.phase == phase


def _of_rounds(records: Sequence[Average | Rejoined]) -> list[Interval]:
    """A lost round is left out: how long it took says how long the worker was away."""
    found, last = [], None
    lost = False
    for one in records:
        if isinstance(one, Rejoined):
            lost = True
            continue
        if last is not None and not lost:
            found.append(
                Interval(one.step - last.step, one.t - last.t, one.seconds, one.waited_seconds)
            )
        last, lost = one, False
    return found


def _of_steps(records: Sequence[Step]) -> list[Interval]:
    """``communication_seconds`` is the mean of the steps since the record before."""
    found, last = [], 0
    for one in records:
        if one.step_seconds is not None and one.communication_seconds is not None:
            steps = one.step - last
            communicating = one.communication_seconds * steps
            found.append(Interval(steps, one.step_seconds * steps, communicating))
        last = one.step
    return found


def _is_plausible(one: Interval) -> bool:
    """Not so where a guest's clock was set, or what is recorded is not a number."""
    times = (one.seconds, one.communicating, one.waiting or 0.0)
    if one.steps <= 0 or not all(map(math.isfinite, times)) or min(times) < 0:
        return False
    return 0 < one.seconds >= one.communicating
