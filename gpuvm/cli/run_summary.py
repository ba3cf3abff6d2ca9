"""Prints a report on the terminal: the first tables of the HTML page."""

import dataclasses
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from gpuvm.cli.console import continued, text
from gpuvm.cli.tables import Number, Prose, draw
from gpuvm.report import Distribution, ReportData, RunReport, Score, WorkerTimes
from gpuvm.report.format import energy, figure, milliseconds, percent
from gpuvm.text import counted

SAMPLES = 4


def of(data: ReportData, width: int) -> RenderableType:
    """Return what is printed on a terminal of this width."""
    return Group(*(part for run in data.runs for part in _run(run, width)))


def as_json(data: ReportData) -> dict[str, Any]:
    """Return the whole report for ``--json``."""
    return {"runs": [_plain(run) for run in data.runs]}


def _run(run: RunReport, width: int) -> list[Text]:
    parts = [_head(run)]
    if run.error:
        parts.append(text((continued(f"error: {run.error}"), "red")))
    if not run.device_plain:
        parts.append(text((continued(run.device_note), "yellow")))
    parts += [Text(), *_phases(run, width), Text(), *_vms(run, width)]
    if run.distribution:
        parts += _distribution(run.distribution, width)
    if run.energy_wh is not None:
        parts.append(Text(f"GPU energy: {energy(run.energy_wh)}"))
    if run.scores:
        parts += [Text(), *_scores(run, width)]
    if run.shards:
        parts.append(text((continued(run.shards.sentence), "dim")))
    parts += [_sample_line(sample.caption, sample.references) for sample in run.samples[:SAMPLES]]
    parts += [text((continued(f"warning: {warning}"), "yellow")) for warning in run.warnings]
    return parts


def _head(run: RunReport) -> Text:
    took = f" in {run.seconds:.0f} s" if run.seconds is not None else ""
    vms = (
        counted(len(run.vms), "VM") if len(run.vms) > 1 else run.vms[0].name if run.vms else "no VM"
    )
    vcenter = f"{run.vcenter.name} {run.vcenter.version}".strip()
    place = continued(", ".join(filter(None, (vcenter, run.cluster, vms))))
    return text((f"{run.run_id}: {run.status}{took}", "bold"), "\n", (place, "dim"))


def _phases(run: RunReport, width: int) -> Iterator[Text]:
    columns = ("PHASE", Number("OVERALL"), *(Number(vm.name) for vm in run.vms))
    rows = [
        (
            row.title,
            _seconds(row.overall_s),
            *(_seconds(row.seconds(vm.name)) if row.began(vm.name) else "" for vm in run.vms),
        )
        for row in run.phases
    ]
    failed = {number: "red" for number, row in enumerate(run.phases) if not row.ok}
    return draw(columns, rows, width, failed)


def _vms(run: RunReport, width: int) -> Iterator[Text]:
    busy = "SIMULATED GPU BUSY" if any(vm.simulated for vm in run.vms) else "GPU BUSY"
    columns = (
        "VM",
        "HOST",
        Prose("GPU"),
        Prose("TENSORFLOW USED"),
        *map(Number, ("STEPS", "EXAMPLES/S", "COMPILE")),
        *([Number(busy)] if run.gpu_usage else []),
    )
    rows = [
        (
            vm.name,
            vm.host,
            ", ".join(gpu.pci_address for gpu in vm.gpus) or "-",
            vm.device or "-",
            f"{vm.steps or 0}/{vm.steps_wanted}" if vm.steps_wanted else str(vm.steps or "-"),
            "-" if vm.examples_per_second is None else f"{vm.examples_per_second:.0f}",
            _seconds(vm.compile_seconds),
            *([_busy(run, vm.name)] if run.gpu_usage else []),
        )
        for vm in run.vms
    ]
    return draw(columns, rows, width)


def _distribution(found: Distribution, width: int) -> Iterator[Text]:
    if found.strategy:
        yield Text()
        yield Text(f"strategy: {found.strategy}")
    if found.against:
        yield text(continued(f"distributed: {found.against.sentence}"))
    if found.workers:
        yield Text()
        yield from _workers(found, width)
    if found.incidents:
        yield Text()
        yield from _incidents(found, width)


def _workers(found: Distribution, width: int) -> Iterator[Text]:
    columns: dict[str, Callable[[WorkerTimes], str]] = {
        Number("STEP"): lambda one: milliseconds(one.step_seconds)
    }
    if len(found.phases) > 1:
        columns = {Prose("PHASE"): lambda one: one.title} | columns
    if found.communicates:
        columns[Number("COMPUTING")] = lambda one: milliseconds(one.computing_seconds)
        columns[Number("COMMUNICATING")] = lambda one: percent(one.communicating)
    if found.waits:
        columns[Number("WAITING")] = lambda one: percent(one.waiting)
    rows = [
        (f"{one.vm}, slowest" if one.slowest else one.vm, *(cell(one) for cell in columns.values()))
        for one in found.workers
    ]
    return draw(("WORKER", *columns), rows, width)


def _incidents(found: Distribution, width: int) -> Iterator[Text]:
    rows = [
        (
            one.vm,
            one.what,
            one.why or "-",
            "-" if one.lost_steps is None else str(one.lost_steps),
            _seconds(one.seconds),
        )
        for one in found.incidents
    ]
    columns = ("VM", "INCIDENT", Prose("WHY"), Number("STEPS DONE AGAIN"), Number("AWAY"))
    return draw(columns, rows, width)


def _busy(run: RunReport, vm: str) -> str:
    return ", ".join(percent(gpu.utilization) for gpu in run.gpu_usage if gpu.vm == vm) or "-"


def _scores(run: RunReport, width: int) -> Iterator[Text]:
    """Print the scores, with a row below each for every baseline."""
    columns: dict[str, Callable[[Score], str]] = {Number("VALUE"): lambda s: figure(s.value)}
    if len({score.vm for score in run.scores}) > 1:
        columns["VM"] = lambda s: s.vm
    if any(score.of for score in run.scores):
        columns["OF"] = lambda s: s.of or "-"
    if any(score.shuffled is not None for score in run.scores):
        columns[Number("IMAGES SHUFFLED")] = lambda s: (
            "-" if s.shuffled is None else figure(s.shuffled)
        )
    if any(score.examples for score in run.scores):
        columns[Number("EXAMPLES")] = lambda s: str(s.examples or "-")
    rows: list[tuple[str, ...]] = []
    baselines: dict[int, str] = {}
    for score in run.scores:
        title = f"{score.title} ({score.decoder})" if score.decoder else score.title
        rows.append((title, *(cell(score) for cell in columns.values())))
        for one in score.baselines:
            baselines[len(rows)] = "dim"
            rows.append((f"  {one.means}", figure(one.value), *[""] * (len(columns) - 1)))
    return draw((Prose("SCORE"), *columns), rows, width, baselines)


def _sample_line(caption: str, references: tuple[str, ...]) -> Text:
    shown = f"  “{caption}”"
    if caption not in references and references:
        shown += f"  (one reference: {references[0]})"
    return text(continued(shown))


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Path) else value
