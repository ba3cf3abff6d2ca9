"""The contents of a report, as frozen dataclasses that ``build`` fills from records.

ReportData
└── RunReport            one run: what, when, how it ended
    ├── VMReport             one VM: its GPUs, the device TensorFlow used, steps and rates
    ├── PhaseRow, Span       how long each phase took, as a table and as a timeline
    ├── GPUUsage             how busy a GPU was, its memory, its power and its energy
    ├── Curve                a loss over the steps of one phase on one VM, or a TensorBoard scalar
    ├── Score, Sample        the results, beside the scores of shuffled images
    ├── Distribution         whether the VMs were faster together than one, and what was lost
    └── Shards               which VM computed on which examples
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from gpuvm.report.distribution_model import Distribution
from gpuvm.report.format import duration, figure
from gpuvm.text import counted

Status = Literal["running", "succeeded", "failed", "interrupted", "cancelled"]
Group = Literal["provisioning", "run", "workload"]
Outcome = Literal["finished", "failed", "unfinished", "no records"]

SHUFFLED = (
    "Shuffled is the same score with the images shuffled, so that each answer is for another "
    "image: it is what language alone gives, and only what lies above it was seen in the picture."
)


@dataclass(frozen=True)
class GPUReport:
    pci_address: str
    model: str


@dataclass(frozen=True)
class LogTail:
    """The last lines of a log: of a VM that did not finish, or of a program of the user's own."""

    file: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class VMReport:
    """``device`` is the one that TensorFlow used, such as ``/device:GPU:0``, or None.

    Rates and steps are those of the phase ``rate_phase`` after the last start of the workload
    (``starts`` counts them); the rate and ``step_seconds`` are medians of the logged steps.
    """

    name: str
    index: int
    role: str
    host: str
    address: str
    accelerator: str
    gpus: tuple[GPUReport, ...]
    simulated: bool
    cpus: int
    memory_gib: float
    outcome: Outcome
    device: str | None = None
    device_name: str | None = None
    tensorflow: str | None = None
    keras: str | None = None
    starts: int = 0
    rate_phase: str | None = None
    steps: int | None = None
    steps_wanted: int | None = None
    examples_per_second: float | None = None
    step_seconds: float | None = None
    compile_seconds: float | None = None
    seconds: float | None = None
    last_checkpoint: int | None = None
    weights_sha256: str | None = None
    died_first: bool = False
    """The run's error names this VM; others failed as a consequence."""
    tails: tuple[LogTail, ...] = ()

    @property
    def device_kind(self) -> str | None:
        """``GPU``, ``CPU``, or None when it was not recorded."""
        match = re.search(r"device:([A-Za-z]+)", self.device or "")
        return match[1].upper() if match else None


@dataclass(frozen=True)
class Span:
    """A phase on the time axis; ``vm`` is None for a phase of the whole run.

    ``start`` is Unix seconds by the operator's clock, or in the group ``workload`` seconds since
    the workload's start by the guest's clock; ``seconds`` is None without a recorded end, and
    ``until`` is then the time of the last record.
    """

    group: Group
    name: str
    vm: str | None
    start: float
    seconds: float | None
    until: float
    ok: bool | None


@dataclass(frozen=True)
class PhaseRow:
    """``overall_s`` is from the first start to the last end; in the group ``workload`` the time of
    the slowest VM, since guests' clocks differ. None if not finished.

    ``by_vm`` has an entry for each VM that started it, None if it did not finish; ``attempts`` is
    the largest number of starts on one VM.
    """

    group: Group
    name: str
    title: str
    overall_s: float | None
    by_vm: tuple[tuple[str, float | None], ...]
    ok: bool
    attempts: int = 1

    def seconds(self, vm: str) -> float | None:
        return dict(self.by_vm).get(vm)

    def began(self, vm: str) -> bool:
        return vm in dict(self.by_vm)


@dataclass(frozen=True)
class Curve:
    """``points`` are (step, value), finite ones only; ``diverged_at`` is the first step
    whose value was not a number. ``of`` says of what by the contract: the loss, or examples/s.

    Of a program without gpuvm's contract it is a scalar of TensorBoard's event files: ``phase`` is
    its tag, such as ``epoch_loss``, and ``series`` TensorBoard's run, such as ``train``.
    """

    phase: str
    vm: str
    points: tuple[tuple[int, float], ...]
    diverged_at: int | None = None
    series: str | None = None
    of: str = "loss"

    @property
    def label(self) -> str:
        """What tells it apart from the others of its phase."""
        return self.vm if self.series is None else f"{self.vm} {self.series}"

    @property
    def what(self) -> str:
        return self.of if self.series is None else self.phase


@dataclass(frozen=True)
class UsagePoint:
    """``at_s`` is seconds since the first sample; ``begins``: there is a gap before it."""

    at_s: float
    utilization: float | None
    memory_mib: float | None
    power_w: float | None
    begins: bool


@dataclass(frozen=True)
class GPUUsage:
    """How one GPU was used while the program ran; None is what its driver does not report.

    ``utilization`` (%) and ``power_w`` are means, ``memory_mib`` is the most that was in use.
    ``measured_s`` is the time between samples without the ``gaps``, whose energy is not in
    ``energy_wh``. ``points`` are for charts: means of several samples where there are many.
    """

    vm: str
    gpu: int
    uuid: str
    samples: int
    measured_s: float
    gaps: int
    utilization: float | None
    memory_mib: float | None
    power_w: float | None
    energy_wh: float | None
    points: tuple[UsagePoint, ...]


@dataclass(frozen=True)
class Baseline:
    """What comes out without what was trained; ``means`` says how, such as by the commonest."""

    means: str
    value: float


@dataclass(frozen=True)
class Score:
    """``shuffled`` is the same score with the images shuffled; see SHUFFLED.

    ``of`` names what was scored where there are several things, such as a picture.
    """

    vm: str
    name: str
    title: str
    value: float
    shuffled: float | None
    split: str | None
    decoder: str | None
    examples: int | None
    of: str | None = None
    baselines: tuple[Baseline, ...] = ()

    @property
    def explanation(self) -> str | None:
        """Compares the score with its shuffled counterpart, in one sentence."""
        if self.shuffled is None:
            return None
        return (
            f"{self.shuffled:.3f} comes from language alone (images shuffled); "
            f"the {self.value - self.shuffled:+.3f} on top was seen in the pictures."
            if self.value > self.shuffled
            else f"With the images shuffled it is {self.shuffled:.3f}, no worse: "
            "this score shows nothing that was seen in the pictures."
        )


def main_scores(scores: Iterable[Score]) -> tuple[Score, ...]:
    """Those that a reader should see first: the first of each of at most two names."""
    first: dict[str, Score] = {}
    for score in scores:
        first.setdefault(score.name, score)
    known = [first[name] for name in ("bleu4", "exact_match") if name in first]
    return tuple(known or first.values())[:2]


@dataclass(frozen=True)
class Sample:
    """``image`` is an existing file inside the run, or None with ``no_image`` saying why.

    ``at`` is what it was made with, such as two weights, by which several are shown as a grid;
    ``sheet``: it shows the others, and is left out where they are shown.
    """

    vm: str
    caption: str
    references: tuple[str, ...]
    exact: bool | None
    image: Path | None
    no_image: str | None = None
    at: tuple[tuple[str, float], ...] = ()
    sheet: bool = False


@dataclass(frozen=True)
class OwnFile:
    """``size`` is in bytes."""

    vm: str
    name: str
    size: int


@dataclass(frozen=True)
class OwnFiles:
    """What a user's own program left: the first ``files`` of ``count``, ``size`` bytes together,
    and those ``pictures`` that the page has room for.
    """

    files: tuple[OwnFile, ...]
    count: int
    size: int
    pictures: tuple[Sample, ...]


@dataclass(frozen=True)
class Shard:
    vm: str
    worker: int
    examples: int
    listed: int | None
    """The number of distinct ids in shard_ids.txt; None without the file."""


@dataclass(frozen=True)
class Shards:
    """``disjoint`` and ``complete`` are computed from shard_ids.txt; None if that is not possible.

    ``sentence`` describes the result, or why it could not be verified.
    """

    by_vm: tuple[Shard, ...]
    total: int
    disjoint: bool | None
    complete: bool | None
    sentence: str

    @property
    def verified(self) -> bool:
        return bool(self.disjoint and self.complete)


@dataclass(frozen=True)
class VCenterReport:
    """``name`` is the product name that the vCenter reports."""

    name: str
    url: str
    version: str


@dataclass(frozen=True)
class RunReport:
    """``device_note`` is a sentence on the device that TensorFlow used; ``device_plain`` is False
    unless all VMs used real GPUs, and the note must then be prominent.
    """

    dir: Path
    run_id: str
    workload: str
    args: tuple[str, ...]
    project: Mapping[str, str]
    distributed: bool
    distribution: Distribution | None
    """None for a run that is not distributed."""
    gpus_hidden: bool
    status: Status
    status_note: str
    error: str | None
    started: datetime
    ended: datetime | None
    vcenter: VCenterReport
    cluster: str
    deployment: str
    gpuvm_version: str
    vms: tuple[VMReport, ...]
    device_note: str
    device_plain: bool
    phases: tuple[PhaseRow, ...]
    spans: tuple[Span, ...]
    gpu_usage: tuple[GPUUsage, ...]
    energy_wh: float | None
    """Of all its GPUs while the program ran; ``energy_note`` says why it is not known."""
    energy_note: str | None
    curves: tuple[Curve, ...]
    rates: tuple[Curve, ...]
    """Examples a second, of the logged steps."""
    scores: tuple[Score, ...]
    samples: tuple[Sample, ...]
    own: OwnFiles | None
    """None for a shipped workload."""
    shards: Shards | None
    weights_agree: bool | None
    """Whether all workers ended with the same weights; None if not recorded by all."""
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One sentence: what ran where, how it ended, how long it took, what came out."""
        took = f" in {duration(self.seconds)}" if self.seconds is not None else ""
        where = self.vms[0].name if len(self.vms) == 1 else counted(len(self.vms), "VM")
        how = {"running": "has no recorded end"}.get(self.status, self.status)
        best = [f"{s.title} {figure(s.value)}" for s in self.main_scores[:1]]
        together = " together" if self.distributed else ""
        return f"{self.workload} on {where}{together} {how}{took}{', '.join(['', *best])}."

    @property
    def main_scores(self) -> tuple[Score, ...]:
        return main_scores(self.scores)

    @property
    def seconds(self) -> float | None:
        """None without a recorded end, and where the clock was set back meanwhile."""
        took = (self.ended - self.started).total_seconds() if self.ended else -1.0
        return took if took >= 0 else None

    @property
    def lost(self) -> tuple[VMReport, ...]:
        """The VMs that did not finish; the one in the run's error comes first."""
        lost = [vm for vm in self.vms if vm.outcome != "finished"]
        return tuple(sorted(lost, key=lambda vm: not vm.died_first))


@dataclass(frozen=True)
class ReportData:
    runs: tuple[RunReport, ...]
