"""The key figures at the top of a report."""

from collections.abc import Sequence
from dataclasses import dataclass

from gpuvm.report.format import duration, energy, figure, number, percent, times
from gpuvm.report.model import RunReport
from gpuvm.text import counted


@dataclass(frozen=True)
class Tile:
    """A figure with what it is, and what has to be said beside it."""

    label: str
    value: str
    aside: str = ""


def tiles(run: RunReport) -> Sequence[Tile]:
    """The main scores, run time, rate and loss, as far as they are recorded."""
    scores = [
        Tile(
            " ".join(filter(None, (s.title, s.decoder))),
            figure(s.value),
            "" if s.shuffled is None else f"images shuffled: {figure(s.shuffled)}",
        )
        for s in run.main_scores
    ]
    return [*scores, *_time(run), *_speed_up(run), *_rate(run), *_loss(run), *_gpus(run)]


def _time(run: RunReport) -> list[Tile]:
    if run.seconds is None:
        return []
    return [Tile("Run time", duration(run.seconds), f"on {counted(len(run.vms), 'VM')}")]


def _speed_up(run: RunReport) -> list[Tile]:
    whole = run.distribution and run.distribution.against and run.distribution.against.rows[0]
    if not whole or whole.speed_up is None:
        return []
    return [
        Tile("Speed-up", times(whole.speed_up), f"of one VM; {percent(whole.efficiency)} per VM")
    ]


def _rate(run: RunReport) -> list[Tile]:
    rates = [r for vm in run.vms if (r := vm.examples_per_second) is not None]
    if not rates:
        return []
    low, high = number(min(rates)), number(max(rates))
    return [Tile("Examples/s", low if low == high else f"{low} to {high}", "median of each VM")]


def _gpus(run: RunReport) -> list[Tile]:
    """Energy as far as it may be computed."""
    if run.energy_wh is None:
        return []
    busy = [gpu.utilization for gpu in run.gpu_usage if gpu.utilization is not None]
    aside = f"utilisation {percent(sum(busy) / len(busy))}" if busy else ""
    return [Tile("GPU energy", energy(run.energy_wh), aside)]


def _loss(run: RunReport) -> list[Tile]:
    """Of the contract's phase ``train``, or the first loss that TensorBoard would show."""
    train = [
        curve
        for curve in run.curves
        if curve.points
        and (curve.phase == "train" if curve.series is None else "loss" in curve.phase)
    ]
    if not train:
        return []
    (first, began), (last, ended) = train[0].points[0], train[0].points[-1]
    label = "Training loss" if train[0].series is None else f"{train[0].phase}, {train[0].series}"
    return [Tile(label, number(ended), f"step {last}; {number(began)} at step {first}")]
