"""build(run_dirs) -> ReportData, from the records of runs alone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from gpuvm.errors import BadInput
from gpuvm.report import gpu_usage, phases, scores, tensorboard
from gpuvm.report.distribution import against, distribution, one_vm_run
from gpuvm.report.model import (
    Curve,
    ReportData,
    RunReport,
    Score,
    VCenterReport,
    VMReport,
    main_scores,
)
from gpuvm.report.own_files import own_files
from gpuvm.report.records import (
    GPUSample,
    Lines,
    PhaseEvent,
    Results,
    Timing,
    WarningEvent,
    read_events,
    read_incidents,
    read_manifest,
    read_results,
    read_scores,
    read_timings,
)
from gpuvm.report.shards import shards
from gpuvm.report.vms import curves as curves_of
from gpuvm.report.vms import device_note, since_last_start, vm_report
from gpuvm.report.vms import rates as rates_of
from gpuvm.results import Manifest
from gpuvm.text import counted, one_line


def build(run_dirs: Sequence[Path]) -> ReportData:
    """Returns a report on these runs, in this order.

    A run that failed or was interrupted is reported as far as it got; a truncated last line is
    skipped, with a warning. Raises BadInput with file and line for a corrupt record, and for a
    folder that is not a run.
    """
    return ReportData(tuple(_beside_one_vm(_run(run_dir)) for run_dir in run_dirs))


def first_score(run_dir: Path, manifest: Manifest) -> Score | None:
    """The score that a report names first, from the lines with scores alone.

    None where there is none, or the records are corrupt.
    """
    found: list[Score] = []
    try:
        for vm in sorted(manifest.vms, key=lambda vm: (vm.index, vm.name)):
            own = run_dir / vm.name
            timings = since_last_start(read_scores(own).records)
            found += scores.scores(vm.name, timings, read_results(own))
    except BadInput:
        return None
    return next(iter(main_scores(found)), None)


def _run(run_dir: Path) -> RunReport:
    manifest, events = read_manifest(run_dir), read_events(run_dir)
    lines = {vm.name: read_timings(run_dir / vm.name) for vm in manifest.vms}
    results = {vm.name: read_results(run_dir / vm.name) for vm in manifest.vms}
    timings = {vm: since_last_start(own.records) for vm, own in lines.items()}
    vms = tuple(
        vm_report(vm, lines[vm.name], run_dir / vm.name, manifest)
        for vm in sorted(manifest.vms, key=lambda vm: (vm.index, vm.name))
    )
    names = [vm.name for vm in vms]
    note, plain = device_note(vms, manifest)
    spans = (
        *phases.run_spans(phases.of_run(events.records, manifest), _time(manifest.ended)),
        *(span for vm in names for span in phases.workload_spans(vm, timings[vm])),
    )
    used = {vm: gpu_usage.usage(vm, run_dir / vm) for vm in names}
    gpus = tuple(gpu for own, _ in used.values() for gpu in own)
    energy_wh, energy_note = gpu_usage.energy_wh(gpus, vms)
    samples = tuple(s for vm in names for s in scores.samples(vm, results[vm], run_dir / vm))
    vcenter = manifest.vcenter
    rates = tuple(curve for vm in names for curve in rates_of(vm, timings[vm]))
    curves = tuple(curve for vm in names for curve in curves_of(vm, timings[vm]))
    unread: tuple[str, ...] = ()
    if not curves:
        curves, unread = _from_tensorboard(run_dir, names)
    incidents = read_incidents(run_dir)
    return RunReport(
        dir=run_dir,
        run_id=manifest.run_id,
        workload=manifest.workload,
        args=manifest.args,
        project=manifest.project,
        gpus_hidden=manifest.gpus_hidden,
        distributed=manifest.distributed,
        distribution=distribution(manifest, timings, incidents.records),
        status=manifest.status,
        status_note=_status_note(manifest, vms),
        error=manifest.error,
        started=manifest.started,
        ended=manifest.ended,
        vcenter=VCenterReport(vcenter.name, vcenter.url, vcenter.version),
        cluster=manifest.cluster,
        deployment=manifest.deployment,
        gpuvm_version=manifest.gpuvm_version,
        vms=vms,
        device_note=note,
        device_plain=plain,
        phases=phases.rows(spans),
        spans=spans,
        gpu_usage=gpus,
        energy_wh=energy_wh,
        energy_note=energy_note,
        curves=curves,
        rates=rates,
        scores=tuple(s for vm in names for s in scores.scores(vm, timings[vm], results[vm])),
        samples=samples,
        own=own_files(names, run_dir, samples) if manifest.project else None,
        shards=shards(timings, run_dir),
        weights_agree=_weights_agree(vms) if manifest.distributed else None,
        warnings=(
            *_logged_warnings(events),
            *_diverged(curves),
            *_record_problems(events, lines, {vm: own for vm, (_, own) in used.items()}),
            *(["The last line of incidents.jsonl is truncated."] if incidents.truncated else []),
            *unread,
        ),
        notes=_notes(results),
    )


def _beside_one_vm(run: RunReport) -> RunReport:
    """With the latest run of the same on one VM, if the folder of this one has any."""
    found = one_vm_run(run.dir) if run.distribution else None
    if found is None or run.distribution is None:
        return run
    compared = against(run, _run(found))
    return replace(run, distribution=replace(run.distribution, against=compared))


def _time(when: datetime | None) -> float | None:
    return when.timestamp() if when else None


def _from_tensorboard(
    run_dir: Path, vms: Sequence[str]
) -> tuple[tuple[Curve, ...], tuple[str, ...]]:
    """Returns the curves of a program that logs no losses by the contract, and warnings."""
    found = [tensorboard.curves(vm, run_dir / vm) for vm in vms]
    shown, others = tensorboard.most_telling([curve for own, _ in found for curve in own])
    left_out = (
        counted(
            len(others),
            "more scalar of TensorBoard's event files is",
            "more scalars of TensorBoard's event files are",
        )
        + " not shown"
    )
    more = (f"{left_out}: {one_line(', '.join(others), longest=200)}.",) if others else ()
    return shown, (*(problem for _, problems in found for problem in problems), *more)


def _status_note(manifest: Manifest, vms: Sequence[VMReport]) -> str:
    """How the run ended, in one sentence."""
    done = sum(1 for vm in vms if vm.outcome == "finished")
    reached = f"{done} of {counted(len(vms), 'VM')} had finished"
    if manifest.status == "succeeded" and done < len(vms):
        return (
            f"Recorded as succeeded, but only {done} of {counted(len(vms), 'VM')} recorded an end."
        )
    if manifest.status == "succeeded":
        return f"The run succeeded on {counted(len(vms), 'VM')}."
    if manifest.status == "failed":
        return f"The run failed; {reached}."
    if manifest.status in ("interrupted", "cancelled"):
        until_then = "The report covers what was recorded until then."
        return f"The run was {manifest.status}; {reached}. {until_then}"
    return (
        "No end is recorded: the run is still active, or gpuvm was stopped before it could "
        f"write how it ended; {reached}."
    )


def _weights_agree(vms: Sequence[VMReport]) -> bool | None:
    digests = [vm.weights_sha256 for vm in vms]
    if len(digests) < 2 or None in digests:
        return None
    return len(set(digests)) == 1


def _logged_warnings(events: Lines[PhaseEvent | WarningEvent]) -> tuple[str, ...]:
    vms_by_text: dict[str, list[str]] = {}
    for event in events.records:
        if isinstance(event, WarningEvent):
            vms_by_text.setdefault(event.text, []).extend([event.vm] if event.vm else [])
    return tuple(f"{', '.join(vms)}: {text}" if vms else text for text, vms in vms_by_text.items())


def _diverged(curves: Sequence[Curve]) -> tuple[str, ...]:
    return tuple(
        f"{curve.vm}: the loss of phase {curve.phase} was not a number at step {curve.diverged_at}"
        if curve.series is None
        else f"{curve.label}: {curve.phase} was not a number at step {curve.diverged_at}"
        for curve in curves
        if curve.diverged_at is not None
    )


def _record_problems(
    events: Lines[PhaseEvent | WarningEvent],
    lines: Mapping[str, Lines[Timing]],
    samples: Mapping[str, Lines[GPUSample]],
) -> tuple[str, ...]:
    """Warnings about incomplete records."""
    truncated = [f"{vm}/timings.jsonl" for vm, own in lines.items() if own.truncated]
    truncated += [f"{vm}/gpu_samples.jsonl" for vm, own in samples.items() if own.truncated]
    if events.truncated:
        truncated.insert(0, "events.jsonl")
    missing = [] if events.exists else ["There is no events.jsonl: gpuvm's own phases are unknown."]
    cut = [f"The last line of {file} is truncated and was skipped." for file in truncated]
    return (*cut, *missing)


def _notes(results: Mapping[str, Results | None]) -> tuple[str, ...]:
    """The notes of the workload."""
    return tuple(dict.fromkeys(n for found in results.values() if found for n in found.notes))
