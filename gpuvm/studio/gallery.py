"""What was made, and how far what is being made has come, from the records of runs alone."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from gpuvm import results, runs
from gpuvm.errors import BadInput
from gpuvm.report import records
from gpuvm.studio.makers import WORKLOAD

_PICTURE = re.compile(r"content(\d.*)-style(\d.*)\.png")


@dataclass(frozen=True)
class Made:
    """A picture as it is now; ``loss`` is its last, None where it was not recorded."""

    run_id: str
    vm: str
    file: Path
    content: float
    style: float
    loss: float | None
    size: int | None
    rounds: int | None
    trained: bool | None
    """Whether VGG19's features were trained ones; None where it was not recorded."""
    device: str
    started: datetime
    status: results.Status

    @property
    def title(self) -> str:
        """As the workload's records name it."""
        return _title(self.content, self.style)

    @property
    def details(self) -> str:
        parts = [f"{self.size} px" if self.size else "", f"{self.rounds or 0} rounds"]
        parts[1] = "1 round" if self.rounds == 1 else parts[1] if self.rounds else ""
        parts += [f"loss {self.loss:.3g}" if self.loss is not None else "", self.vm]
        if self.status in ("cancelled", "interrupted", "failed"):
            parts.append(f"{self.status} before its end")
        return " · ".join(filter(None, parts))

    @property
    def key(self) -> str:
        return f"{self.run_id}/{self.vm}/{self.file.name}"

    @property
    def download_name(self) -> str:
        return f"{self.run_id}-{self.file.name}"


@dataclass(frozen=True)
class Progress:
    """Of one VM; ``losses`` are those of the picture that it makes now, ``title`` names it."""

    vm: str
    phase: str
    step: int
    steps: int | None
    title: str
    losses: tuple[float, ...]
    device: str


def made(limit: int | None = None) -> list[Made]:
    """The pictures of all runs, the latest run first, those of one run by their weights.

    Runs whose records cannot be read are left out.
    """
    names = {WORKLOAD, *runs.find(WORKLOAD).declaration.aliases}
    found: list[Made] = []
    for run_id in reversed(results.list_runs()):
        with suppress(BadInput):
            record = results.load(run_id)
            if record.manifest.workload in names:
                found += pictures(record)
        if limit is not None and len(found) >= limit:
            break
    return found[:limit]


def pictures(run: results.Run) -> list[Made]:
    """Of this run, by their weights, however far they are. Raises BadInput for broken records."""
    found = [one for vm in run.manifest.vms for one in _of_vm(run, vm.name)]
    return sorted(found, key=lambda one: (one.content, one.style))


def sheet(run: results.Run) -> Path | None:
    """The contact sheet of a grid."""
    file = run.dir / "sheet.png"
    return file if file.is_file() else None


def progress(run: results.Run) -> list[Progress]:
    """Of each VM that has begun. Raises BadInput for broken records."""
    return [one for vm in run.manifest.vms if (one := _progress(run, vm.name)) is not None]


def _of_vm(run: results.Run, vm: str) -> Iterator[Made]:
    lines = records.read_timings(run.vm_dir(vm)).records
    start = _last(lines, records.Start)
    params = start.params if start is not None and isinstance(start.params, dict) else {}
    losses = {str(one.of): one.loss for one in lines if isinstance(one, records.Step)}
    for file in sorted(run.vm_dir(vm).glob("samples/*.png")):
        weights = _weights(file)
        if weights is None:
            continue
        yield Made(
            run_id=run.run_id,
            vm=vm,
            file=file,
            content=weights[0],
            style=weights[1],
            # Older records do not say which picture a step is of; most have but one.
            loss=losses.get(_title(*weights), losses.get("None")),
            size=_number(params.get("size")),
            rounds=_number(params.get("rounds")),
            trained=params.get("weights") is not None if params else None,
            device=(start and start.device) or "",
            started=run.manifest.started,
            status=run.manifest.status,
        )


def _title(content: float, style: float) -> str:
    return f"content {content:g}, style {style:g}"


def _weights(file: Path) -> tuple[float, float] | None:
    found = _PICTURE.fullmatch(file.name)
    try:
        return (float(found[1]), float(found[2])) if found else None
    except ValueError:
        return None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _progress(run: results.Run, vm: str) -> Progress | None:
    lines = records.read_timings(run.vm_dir(vm)).records
    if not lines:
        return None
    start, step = _last(lines, records.Start), _last(lines, records.Step)
    phase = _last(lines, records.WorkloadPhase)
    device = "" if start is None else (start.device or "")
    name = "" if phase is None else phase.name
    if step is None:
        return Progress(vm, name, 0, None, "", (), device)
    losses = tuple(
        one.loss
        for one in lines
        if isinstance(one, records.Step) and one.of == step.of and one.loss is not None
    )
    return Progress(vm, name, step.step, step.steps, str(step.of or ""), losses, device)


def _last(lines: Sequence[Any], kind: type[records.Record]) -> records.Record | None:
    return next((one for one in reversed(lines) if isinstance(one, kind)), None)
