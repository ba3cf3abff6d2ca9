"""The report on each VM from its timings: device, steps, rates, losses, last log lines."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Final, TypeVar

from gpuvm.report.model import Curve, GPUReport, LogTail, Outcome, VMReport
from gpuvm.report.records import (
    Checkpoint,
    Compile,
    End,
    Lines,
    Start,
    Step,
    Timing,
)
from gpuvm.results import Manifest, RunVM

TAIL_LINES: Final = 20
_TAIL_BYTES: Final = 16 * 1024

Kind = TypeVar("Kind")


def vm_report(vm: RunVM, lines: Lines[Timing], vm_dir: Path, manifest: Manifest) -> VMReport:
    """The run's error names the VM that failed first."""
    timings = since_last_start(lines.records)
    start, end = _last(timings, Start), _last(timings, End)
    steps = _rate_steps(timings)
    wanted = max((step.steps for step in steps if step.steps is not None), default=None)
    outcome = _outcome(lines, end, manifest)
    return VMReport(
        name=vm.name,
        index=vm.index,
        role=vm.role,
        host=vm.host,
        address=vm.address or "",
        accelerator=vm.accelerator,
        gpus=tuple(GPUReport(gpu.pci_address, gpu.model) for gpu in vm.gpus),
        simulated=bool(vm.simulated),
        cpus=vm.cpus,
        memory_gib=vm.memory_gib,
        outcome=outcome,
        device=start.device if start else None,
        device_name=start.device_name if start else None,
        tensorflow=start.tensorflow if start else None,
        keras=start.keras if start else None,
        starts=len(_all(lines.records, Start)),
        rate_phase=steps[0].phase if steps else None,
        steps=_reached(steps, wanted, end),
        steps_wanted=wanted,
        examples_per_second=_median([step.examples_per_second for step in steps]),
        step_seconds=_median([step.step_seconds for step in steps]),
        compile_seconds=_sum([line.seconds for line in _all(timings, Compile)]),
        seconds=end.seconds if end else None,
        last_checkpoint=max((c.step for c in _all(timings, Checkpoint)), default=None),
        weights_sha256=end.weights_sha256 if end else None,
        died_first=outcome != "finished" and _mentions(manifest.error, vm.name),
        tails=() if outcome == "finished" and not manifest.project else _tails(vm_dir),
    )


def since_last_start(timings: Sequence[Timing]) -> Sequence[Timing]:
    """The records of the last start: a restarted workload appends to the same file."""
    starts = [i for i, line in enumerate(timings) if isinstance(line, Start)]
    return timings[starts[-1] :] if starts else timings


def curves(vm: str, timings: Sequence[Timing]) -> tuple[Curve, ...]:
    """A curve for each phase that logged losses, in their order."""
    return _curves(vm, timings, "loss", lambda step: step.loss)


def rates(vm: str, timings: Sequence[Timing]) -> tuple[Curve, ...]:
    """A curve for each phase that logged examples a second."""
    return _curves(vm, timings, "examples/s", lambda step: step.examples_per_second)


def _curves(
    vm: str, timings: Sequence[Timing], of: str, value: Callable[[Step], float | None]
) -> tuple[Curve, ...]:
    by_phase: dict[str, list[tuple[int, float]]] = {}
    for step in _all(timings, Step):
        logged = value(step)
        if logged is not None:
            by_phase.setdefault(step.phase, []).append((step.step, logged))
    return tuple(
        Curve(
            phase=phase,
            vm=vm,
            points=tuple(point for point in points if math.isfinite(point[1])),
            diverged_at=next((step for step, one in points if not math.isfinite(one)), None),
            of=of,
        )
        for phase, points in by_phase.items()
    )


def _outcome(lines: Lines[Timing], end: End | None, manifest: Manifest) -> Outcome:
    if not lines.records and not manifest.contract and manifest.status == "succeeded":
        return "finished"  # its exit status said so
    if not lines.records:
        return "no records"
    if end is None:
        return "unfinished"
    return "finished" if end.ok else "failed"


def _reached(steps: Sequence[Step], wanted: int | None, end: End | None) -> int | None:
    """The last step; not each is logged, so that the end's record may know of a later one."""
    if end is not None and end.ok and wanted is not None and end.steps == wanted:
        return wanted
    return max((step.step for step in steps), default=None)


def _rate_steps(timings: Sequence[Timing]) -> Sequence[Step]:
    """The steps of ``train``, else of the last phase with steps."""
    steps = _all(timings, Step)
    phases = {step.phase for step in steps}
    chosen = "train" if "train" in phases or not steps else steps[-1].phase
    return [step for step in steps if step.phase == chosen]


def _mentions(error: str | None, vm: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(vm)}(?![\w-])", error or "") is not None


def _tails(vm_dir: Path) -> tuple[LogTail, ...]:
    tails = (LogTail(name, _last_lines(vm_dir / name)) for name in ("stderr.log", "stdout.log"))
    return tuple(tail for tail in tails if tail.lines)


def _last_lines(file: Path) -> tuple[str, ...]:
    """The last lines, without colours and control characters."""
    if not file.is_file():
        return ()
    with file.open("rb") as log:
        size = log.seek(0, 2)
        log.seek(max(0, size - _TAIL_BYTES))
        text = log.read().decode(errors="replace")
    plain = re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]", "", text)
    lines = [re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", line) for line in plain.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(lines[-TAIL_LINES:])


def _all(timings: Sequence[Timing], kind: type[Kind]) -> list[Kind]:
    return [line for line in timings if isinstance(line, kind)]


def _last(timings: Sequence[Timing], kind: type[Kind]) -> Kind | None:
    found = _all(timings, kind)
    return found[-1] if found else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return median(known) if known else None


def _sum(values: Sequence[float]) -> float | None:
    return sum(values) if values else None


def device_note(vms: Sequence[VMReport], manifest: Manifest) -> tuple[str, bool]:
    """Returns a sentence on the device, and whether it is the expected one.

    It is based on the workload's record of its device, not on the VM's devices. A program without
    the contract makes none, and one whose GPU was hidden uses the CPU: both are expected.
    """
    on: dict[str | None, list[VMReport]] = {}
    for vm in vms:
        on.setdefault(vm.device_kind, []).append(vm)
    if set(on) <= {None} and not manifest.contract:
        return "A program of your own: it recorded no device.", True
    if set(on) <= {None}:
        return "The device that TensorFlow used was not recorded.", False
    if manifest.gpus_hidden and set(on) == {"CPU"}:
        return "TensorFlow ran on the CPU: the GPU was hidden from it, to compare.", True
    if len(on) > 1:
        return _mixed(on), False
    if "GPU" in on:
        return _on_gpu(vms)
    return f"TensorFlow ran on the {next(iter(on))}{_aside(vms)}", False


def _mixed(on: dict[str | None, list[VMReport]]) -> str:
    parts = [
        f"on {f'the {kind}' if kind else 'an unrecorded device'} on {_vm_names(vms)}"
        for kind, vms in sorted(on.items(), key=lambda item: item[0] or "")
    ]
    simulated = any(vm.simulated for vms in on.values() for vm in vms)
    aside = "; some of these GPUs are simulated" if simulated else ""
    return f"TensorFlow ran {', '.join(parts)}{aside}."


def _on_gpu(vms: Sequence[VMReport]) -> tuple[str, bool]:
    models = sorted({vm.device_name for vm in vms if vm.device_name})
    which = f": {', '.join(models)}" if models else ""
    if any(vm.simulated for vm in vms):
        return f"TensorFlow ran on the GPU{which}; nvidia-smi says that it is simulated.", False
    return f"TensorFlow ran on the GPU{which}.", True


def _aside(vms: Sequence[VMReport]) -> str:
    with_gpu = [vm for vm in vms if vm.gpus]
    if not with_gpu:
        return "; no GPU was attached."
    if all(vm.simulated for vm in with_gpu):
        return "; the GPU in this lab is simulated."
    return f", although {_vm_names(with_gpu)} had a GPU: these times do not measure it."


def _vm_names(vms: Iterable[VMReport]) -> str:
    return ", ".join(vm.name for vm in vms)
