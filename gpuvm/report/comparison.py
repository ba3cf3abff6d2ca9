"""Runs of one workload side by side: what is faster, by how much, and whether that can be said.

A speed-up is computed from runs on the device that was asked for, and from no others.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from gpuvm.errors import BadInput
from gpuvm.report.model import RunReport, VMReport
from gpuvm.text import counted

_LONGEST = 60
"""A longer value is not repeated among what was equal."""

SIMULATED = (
    "The GPUs are simulated and TensorFlow used the CPU on every side: "
    "these times are no GPU's, and no speed-up is computed from them."
)

UNRECORDED = (
    "The program does not record which device it used: its times are compared as they are, and "
    "whether a GPU made the difference is not known."
)


@dataclass(frozen=True)
class Spread:
    """Of repeated measurements, one of each run."""

    low: float
    median: float
    high: float
    count: int

    def shown(self, text: Callable[[float], str]) -> str:
        """The median, and the range of several runs."""
        if self.count == 1:
            return text(self.median)
        return f"{text(self.median)} ({text(self.low)} to {text(self.high)})"


@dataclass(frozen=True)
class Side:
    """Runs that were made alike. ``whole`` is seconds of the program from its start to its end,
    ``step`` seconds of a step in the steady state (start-up and compilation left out).

    ``energy_wh`` is that of all GPUs of a run while the program ran, None unless each of its runs
    has it; ``energy_note`` may say why.

    ``without_gpu``: it was not to use one. ``other_device`` says which device its times are of,
    where that is not the one asked for.
    """

    name: str
    runs: tuple[str, ...]
    vms: int
    without_gpu: bool
    whole: Spread
    step: Spread | None
    examples_per_second: Spread | None
    energy_wh: Spread | None
    energy_note: str | None
    scores: tuple[tuple[str, Spread], ...]
    other_device: str | None


@dataclass(frozen=True)
class Ratio:
    """``side`` against the baseline; times of more than 1 are faster, ``saved`` is a percentage.

    All are None where ``refused`` says why. ``efficiency`` is the speed-up per VM, where the
    number of VMs differs. ``beyond_spread``: no run of one side is within the range of the other;
    None where a side has only one run.
    """

    side: str
    speed_up: float | None = None
    saved: float | None = None
    step_speed_up: float | None = None
    efficiency: float | None = None
    beyond_spread: bool | None = None
    refused: str | None = None

    @property
    def remarks(self) -> tuple[str, ...]:
        """What has to be said of the numbers, or why there are none."""
        if self.refused:
            return (f"no speed-up: {self.refused}",)
        lines = []
        if self.step_speed_up is not None:
            lines.append(f"in the steady state {self.step_speed_up:.2f}x (without start-up)")
        if self.efficiency is not None:
            lines.append(f"efficiency {100 * self.efficiency:.0f} % per VM")
        if self.beyond_spread is None:
            lines.append("only one run on a side: the difference may be chance")
        elif not self.beyond_spread:
            lines.append("the ranges of both sides overlap: the difference may be chance")
        return tuple(lines)


@dataclass(frozen=True)
class Comparison:
    """``ratios`` are those of each other side against ``baseline``, the name of one."""

    workload: str
    sides: tuple[Side, ...]
    baseline: str
    ratios: tuple[Ratio, ...]
    equal: tuple[str, ...]
    different: tuple[str, ...]
    note: str | None
    """What has to be known before any number is read."""

    @property
    def energy(self) -> bool:
        """Whether that of any side is known."""
        return any(side.energy_wh is not None for side in self.sides)


def compare(runs: Sequence[RunReport]) -> Comparison:
    """Compare two runs or more of one workload; those that were made alike are repeats.

    Raises BadInput for runs that cannot be compared, with the reason.
    """
    _check(runs)
    groups = _grouped(runs)
    names = _names(groups)
    sides = tuple(_side(name, group) for name, group in zip(names, groups, strict=True))
    base = _baseline(sides)
    equal, different = _conditions(sides, groups)
    simulated = any(_asked(run) != {"CPU"} and _simulated(run) for run in runs)
    unrecorded = any(vm.device_kind is None for run in runs for vm in run.vms)
    return Comparison(
        workload=runs[0].workload,
        sides=sides,
        baseline=base.name,
        ratios=tuple(_ratio(side, base) for side in sides if side is not base),
        equal=equal,
        different=different,
        note=SIMULATED if simulated else UNRECORDED if unrecorded else None,
    )


def _check(runs: Sequence[RunReport]) -> None:
    if len({run.run_id for run in runs}) < 2:
        raise BadInput("a comparison needs two runs or more")
    workloads = sorted({run.workload for run in runs})
    if len(workloads) > 1:
        raise BadInput(
            f"runs of different programs cannot be compared: {', '.join(workloads)}",
            hint="name runs of one workload; 'gpuvm runs' lists them",
        )
    for run in runs:
        if run.status != "succeeded":
            raise BadInput(f"{run.run_id} cannot be compared: it is recorded as {run.status}")
        if _whole_seconds(run) is None:
            raise BadInput(f"{run.run_id} cannot be compared: its times are not recorded")


def _grouped(runs: Sequence[RunReport]) -> list[list[RunReport]]:
    """In the order in which they were named; each its own where all were made alike."""
    alike: dict[tuple[object, ...], list[RunReport]] = {}
    for run in runs:
        alike.setdefault(_made_like(run), []).append(run)
    return list(alike.values()) if len(alike) > 1 else [[run] for run in runs]


def _made_like(run: RunReport) -> tuple[object, ...]:
    conditions = (read(run) for _, read in _CONDITIONS)
    return (accelerator(run), len(run.vms), *conditions)


def _names(groups: Sequence[Sequence[RunReport]]) -> list[str]:
    """What tells the sides apart, in a few words: accelerators, else VMs, else run ids."""
    for name in (accelerator, _vm_count, _together, _each):
        names = [name(group[0]) for group in groups]
        if len(set(names)) == len(names):
            return names
    return [group[0].run_id for group in groups]


def _vm_count(run: RunReport) -> str:
    return counted(len(run.vms), "VM")


def _together(run: RunReport) -> str:
    strategy = _strategy(run)
    return f"{_vm_count(run)}, {strategy}" if strategy else _vm_count(run)


def _each(run: RunReport) -> str:
    return f"{accelerator(run)}, {_together(run)}"


def _strategy(run: RunReport) -> str | None:
    return run.distribution.strategy if run.distribution else None


def accelerator(run: RunReport) -> str:
    """What its programs were to compute on, in words."""
    if run.gpus_hidden:
        return "no GPU (hidden)"
    kinds = sorted({_accelerator_of(vm) for vm in run.vms})
    return ", ".join(kinds)


def _accelerator_of(vm: VMReport) -> str:
    if vm.accelerator in ("", "none"):
        return "no GPU"
    models = sorted({gpu.model for gpu in vm.gpus})
    return f"{vm.accelerator}: {', '.join(models)}" if models else vm.accelerator


def _side(name: str, runs: Sequence[RunReport]) -> Side:
    scores: dict[str, list[float]] = {}
    for run in runs:
        for score in run.scores:
            decoder = f" ({score.decoder})" if score.decoder else ""
            scores.setdefault(f"{score.title}{decoder}", []).append(score.value)
    first, whole = runs[0], _of(_whole_seconds(run) for run in runs)
    without = [run for run in runs if run.energy_wh is None]
    assert whole is not None  # noqa: S101 - _check has refused runs without times
    return Side(
        name=name,
        runs=tuple(run.run_id for run in runs),
        vms=len(first.vms),
        without_gpu=_asked(first) == {"CPU"},
        whole=whole,
        step=_of(_slowest(run) for run in runs),
        examples_per_second=_of(_throughput(run) for run in runs),
        energy_wh=None if without else _of(run.energy_wh for run in runs),
        energy_note=without[0].energy_note if without else None,
        scores=tuple((title, found) for title, of in scores.items() if (found := _of(of))),
        other_device=next(filter(None, map(_other_device, runs)), None),
    )


def _of(values: Iterable[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(min(known), median(known), max(known), len(known))


def _whole_seconds(run: RunReport) -> float | None:
    program = next((p for p in run.phases if (p.group, p.name) == ("run", "train")), None)
    return program.overall_s if program and program.overall_s else run.seconds


def _slowest(run: RunReport) -> float | None:
    """All workers wait for the slowest."""
    return max((vm.step_seconds for vm in run.vms if vm.step_seconds is not None), default=None)


def _throughput(run: RunReport) -> float | None:
    rates = [vm.examples_per_second for vm in run.vms if vm.examples_per_second is not None]
    return sum(rates) if rates else None


def _other_device(run: RunReport) -> str | None:
    """What to say of a run that did not compute on the device it was meant to."""
    kinds, asked = {vm.device_kind for vm in run.vms}, _asked(run)
    if kinds == {None}:
        return None if run.project else "which device it used is not recorded"
    if _simulated(run) and "GPU" in asked:
        return "its GPU is simulated: TensorFlow used the CPU"
    if kinds != asked:
        used = ", ".join(sorted(kind or "an unrecorded device" for kind in kinds))
        return f"it was to use the {', '.join(sorted(asked))}, and used the {used}"
    return None


def _asked(run: RunReport) -> set[str]:
    """The devices that its VMs were to compute on: ``GPU``, ``CPU`` or both."""
    return {"CPU" if run.gpus_hidden or vm.accelerator in ("", "none") else "GPU" for vm in run.vms}


def _simulated(run: RunReport) -> bool:
    return any(vm.simulated for vm in run.vms)


def _baseline(sides: Sequence[Side]) -> Side:
    """The side without a GPU if one is, else the one with the fewest VMs, else the first named."""
    without = [side for side in sides if side.without_gpu]
    if without and len(without) < len(sides):
        return without[0]
    return min(sides, key=lambda side: side.vms)


def _ratio(side: Side, base: Side) -> Ratio:
    if side.other_device:
        return Ratio(side.name, refused=side.other_device)
    if base.other_device:
        return Ratio(side.name, refused=f"{base.name}: {base.other_device}")
    speed_up = _quotient(base.whole, side.whole)
    step = _quotient(base.step, side.step)
    apart = side.whole.high < base.whole.low or side.whole.low > base.whole.high
    return Ratio(
        side=side.name,
        speed_up=speed_up,
        saved=None if speed_up is None else 100 * (1 - 1 / speed_up),
        step_speed_up=step,
        efficiency=None
        if speed_up is None or side.vms == base.vms
        else speed_up / (side.vms / base.vms),
        beyond_spread=apart if min(side.whole.count, base.whole.count) > 1 else None,
    )


def _quotient(base: Spread | None, side: Spread | None) -> float | None:
    """None where one is not known or took no time."""
    if base is None or side is None or not base.median or not side.median:
        return None
    return base.median / side.median


def _versions(read: Callable[[VMReport], str | None]) -> Callable[[RunReport], str]:
    return lambda run: ", ".join(sorted({read(vm) or "not recorded" for vm in run.vms}))


def _digest_of(run: RunReport) -> str:
    return " ".join(f"{name}:{digest[:8]}" for name, digest in sorted(run.project.items())) or "-"


_CONDITIONS: tuple[tuple[str, Callable[[RunReport], str]], ...] = (
    ("arguments", lambda run: " ".join(run.args) or "none"),
    ("files of the project", _digest_of),
    ("distributed", lambda run: (_strategy(run) or "yes") if run.distributed else "no"),
    ("CPUs", _versions(lambda vm: str(vm.cpus) if vm.cpus else None)),
    ("memory", _versions(lambda vm: f"{vm.memory_gib:g} GiB" if vm.memory_gib else None)),
    ("TensorFlow", _versions(lambda vm: vm.tensorflow)),
    ("Keras", _versions(lambda vm: vm.keras)),
    ("gpuvm", lambda run: run.gpuvm_version or "not recorded"),
    ("vCenter", lambda run: run.vcenter.name),
)


def _conditions(
    sides: Sequence[Side], groups: Sequence[Sequence[RunReport]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What was equal, and what was not, each as a line."""
    equal, different = [], []
    for name, read in _CONDITIONS:
        by_side = {side.name: read(group[0]) for side, group in zip(sides, groups, strict=True)}
        values = set(by_side.values())
        if len(values) == 1:
            only = values.pop()
            if only not in ("-", "not recorded"):
                equal.append(name if len(only) > _LONGEST else f"{name}: {only}")
        elif name == "files of the project":
            different.append("files of the project: " + _changed(groups))
        else:
            different.append(f"{name}: " + "; ".join(f"{s} {v}" for s, v in by_side.items()))
    return tuple(equal), tuple(different)


def _changed(groups: Sequence[Sequence[RunReport]]) -> str:
    files = [group[0].project for group in groups]
    names = sorted({name for one in files for name in one})
    return ", ".join(n for n in names if len({one.get(n) for one in files}) > 1)
