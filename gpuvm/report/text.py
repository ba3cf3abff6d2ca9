"""The report as Markdown, to paste into an issue, and as CSV, a row for each logged step.

Names and messages are not trusted. In Markdown they are escaped. In CSV a text that a spreadsheet
would take for a formula begins with an apostrophe, as OWASP recommends (CSV Injection).
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence

from gpuvm.report.distribution_model import Distribution
from gpuvm.report.format import (
    duration,
    energy,
    figure,
    milliseconds,
    number,
    percent,
    times,
    when,
)
from gpuvm.report.model import GPUUsage, ReportData, RunReport
from gpuvm.text import visible

STEP_COLUMNS = ("run_id", "vm", "phase", "step", "loss")


def markdown(data: ReportData) -> str:
    """GitHub's Markdown, without pictures."""
    return "\n\n".join(part for run in data.runs for part in _run(run)) + "\n"


def steps_csv(data: ReportData) -> str:
    """Columns are STEP_COLUMNS; a step without a loss has no row."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(STEP_COLUMNS)
    for run in data.runs:
        for curve in run.curves:
            phase = curve.phase if curve.series is None else f"{curve.series}/{curve.phase}"
            for step, loss in curve.points:
                writer.writerow((*map(_cell, (run.run_id, curve.vm, phase)), step, loss))
    return out.getvalue()


def _run(run: RunReport) -> Iterator[str]:
    yield f"## {_escaped(run.workload)}: {run.status}"
    yield _escaped(run.summary)
    yield f"`{run.run_id}`, started {when(run.started)} on {_escaped(run.vcenter.name)}"
    if run.error:
        yield f"**Error:** {_escaped(run.error)}"
    note = _escaped(run.device_note)
    yield note if run.device_plain else f"**{note}**"
    if run.scores:
        rows = [
            (
                " ".join(filter(None, (score.title, score.decoder, score.of))),
                score.vm,
                figure(score.value),
                "; ".join(f"{figure(one.value)} {one.means}" for one in score.baselines)
                or (f"{figure(score.shuffled)} shuffled" if score.shuffled is not None else ""),
            )
            for score in run.scores
        ]
        yield _table(("Score", "VM", "Value", "Compared with"), rows)
    yield _table(
        ("VM", "Host", "GPU", "TensorFlow used", "Steps", "Examples/s"),
        [
            (
                vm.name,
                vm.host,
                ", ".join(gpu.model for gpu in vm.gpus) or "none",
                vm.device or "not recorded",
                "" if vm.steps is None else str(vm.steps),
                number(vm.examples_per_second),
            )
            for vm in run.vms
        ],
    )
    if run.distribution:
        yield from _distribution(run.distribution)
    if run.gpu_usage:
        yield _table(
            ("GPU", "Utilisation", "Most memory", "Power", "Energy"),
            [_gpu_row(run, gpu) for gpu in run.gpu_usage],
        )
    if run.energy_note:
        yield f"No GPU energy: {_escaped(run.energy_note)}."
    if run.phases:
        names = [vm.name for vm in run.vms]
        phases = [
            (row.title, duration(row.overall_s), *(duration(row.seconds(name)) for name in names))
            for row in run.phases
        ]
        yield _table(("Phase", "Overall", *names), phases)
    if run.warnings:
        yield "\n".join(f"- warning: {_escaped(warning)}" for warning in run.warnings)


def _distribution(found: Distribution) -> Iterator[str]:
    if found.strategy_note:
        yield _escaped(found.strategy_note)
    if found.against:
        yield f"**{_escaped(found.against.sentence)}**"
        yield _table(
            ("", "One VM", "Together", "Speed-up", "Efficiency"),
            [
                (
                    row.title,
                    duration(row.one_vm_s),
                    duration(row.together_s),
                    times(row.speed_up),
                    percent(row.efficiency),
                )
                for row in found.against.rows
            ],
        )
    if found.workers:
        yield _table(
            ("Phase", "Worker", "Step", "Computing", "Communicating", "Waiting (part of it)"),
            [
                (
                    one.title,
                    f"{one.vm} (slowest)" if one.slowest else one.vm,
                    milliseconds(one.step_seconds),
                    milliseconds(one.computing_seconds),
                    percent(one.communicating),
                    percent(one.waiting),
                )
                for one in found.workers
            ],
        )
    if found.incidents:
        yield _table(
            ("At", "VM", "Incident", "Why", "Steps done again", "Away"),
            [
                (
                    when(one.at),
                    one.vm,
                    one.what,
                    one.why,
                    "" if one.lost_steps is None else number(one.lost_steps),
                    duration(one.seconds),
                )
                for one in found.incidents
            ],
        )


def _gpu_row(run: RunReport, gpu: GPUUsage) -> Sequence[str]:
    memory = "" if gpu.memory_mib is None else f"{number(gpu.memory_mib / 1024)} GiB"
    power = "" if gpu.power_w is None else f"{number(gpu.power_w)} W"
    used = "" if run.energy_wh is None or gpu.energy_wh is None else energy(gpu.energy_wh)
    return f"{gpu.vm}: GPU {gpu.gpu}", percent(gpu.utilization), memory, power, used


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)


def _escaped(text: str) -> str:
    """Text from a guest as data: no markup, no cell of its own."""
    shown = re.sub(r"[\\`*_\[\]<>|~$]", r"\\\g<0>", visible(text).replace("&", "&amp;"))
    return " ".join(shown.split())


def _cell(text: str) -> str:
    shown = " ".join(visible(text).split())
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown
