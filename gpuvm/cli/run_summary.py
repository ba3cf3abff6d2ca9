"""Prints a report on the terminal: the first tables of the HTML page."""

import dataclasses
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gpuvm.cli.console import cell, continued, text
from gpuvm.report import ReportData, RunReport, Score
from gpuvm.report.format import figure

SAMPLES = 4


def of(data: ReportData) -> RenderableType:
    return Group(*(part for run in data.runs for part in _run(run)))


def as_json(data: ReportData) -> dict[str, Any]:
    """Return the whole report for ``--json``."""
    return {"runs": [_plain(run) for run in data.runs]}


def _run(run: RunReport) -> list[RenderableType]:
    parts: list[RenderableType] = [_head(run)]
    if run.error:
        parts.append(text((continued(f"error: {run.error}"), "red")))
    if not run.device_plain:
        parts.append(text((continued(run.device_note), "yellow")))
    parts += [Text(), _phases(run), Text(), _vms(run)]
    if run.scores:
        parts += [Text(), _scores(run)]
    if run.shards:
        parts.append(text((continued(run.shards.sentence), "dim")))
    parts += [_sample_line(sample.caption, sample.references) for sample in run.samples[:SAMPLES]]
    parts += [text((continued(f"warning: {warning}"), "yellow")) for warning in run.warnings]
    return parts


def _head(run: RunReport) -> Text:
    took = f" in {run.seconds:.0f} s" if run.seconds is not None else ""
    vms = f"{len(run.vms)} VMs" if len(run.vms) > 1 else run.vms[0].name if run.vms else "no VM"
    place = continued(f"{run.vcenter.name} {run.vcenter.version}, {run.cluster}, {vms}")
    return text((f"{run.run_id}: {run.status}{took}", "bold"), "\n", (place, "dim"))


def _phases(run: RunReport) -> Table:
    table = _table("PHASE", "OVERALL", *(vm.name for vm in run.vms))
    for row in run.phases:
        by_vm = [_seconds(row.seconds(vm.name)) if row.began(vm.name) else "" for vm in run.vms]
        style = None if row.ok else "red"
        table.add_row(cell(row.title), _seconds(row.overall_s), *by_vm, style=style)
    return table


def _vms(run: RunReport) -> Table:
    table = _table("VM", "HOST", "GPU", "TENSORFLOW USED", "STEPS", "EXAMPLES/S", "COMPILE")
    for vm in run.vms:
        table.add_row(
            cell(vm.name),
            cell(vm.host),
            cell(", ".join(gpu.pci_address for gpu in vm.gpus) or "-"),
            cell(vm.device or "-"),
            f"{vm.steps or 0}/{vm.steps_wanted}" if vm.steps_wanted else str(vm.steps or "-"),
            "-" if vm.examples_per_second is None else f"{vm.examples_per_second:.0f}",
            _seconds(vm.compile_seconds),
        )
    return table


def _scores(run: RunReport) -> Table:
    """Print the scores, with a row below each for every baseline."""
    columns: dict[str, Callable[[Score], str]] = {"VALUE": lambda s: figure(s.value)}
    if len({score.vm for score in run.scores}) > 1:
        columns["VM"] = lambda s: s.vm
    if any(score.of for score in run.scores):
        columns["OF"] = lambda s: s.of or "-"
    if any(score.shuffled is not None for score in run.scores):
        columns["IMAGES SHUFFLED"] = lambda s: "-" if s.shuffled is None else figure(s.shuffled)
    if any(score.examples for score in run.scores):
        columns["EXAMPLES"] = lambda s: str(s.examples or "-")
    table = _table("SCORE", *columns)
    for score in run.scores:
        title = f"{score.title} ({score.decoder})" if score.decoder else score.title
        table.add_row(cell(title), *(cell(column(score)) for column in columns.values()))
        for one in score.baselines:
            table.add_row(cell(f"  {one.means}"), figure(one.value), style="dim")
    return table


def _sample_line(caption: str, references: tuple[str, ...]) -> Text:
    shown = f"  “{caption}”"
    if caption not in references and references:
        shown += f"  (one reference: {references[0]})"
    return text(continued(shown))


def _table(*columns: str) -> Table:
    table = Table(box=None)
    for number, column in enumerate(columns):
        table.add_column(
            cell(column), header_style="bold dim", justify="left" if not number else "right"
        )
    return table


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
