"""Phases as a table and on a time axis, from their start and end events.

gpuvm's own phases come from events.jsonl by the operator's clock; the workload's come from each
VM's timings.jsonl by the guest's clock, and so in seconds since the workload's start.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from gpuvm.report.model import Group, PhaseRow, Span
from gpuvm.report.records import PhaseEvent, Timing, WorkloadPhase
from gpuvm.results import Manifest

PROVISIONING = ("plan", "clone", "move", "configure", "power_on", "address", "ready")
SCALE_DOWN = ("stop", "teardown")
RUN = ("push", "check_network", "train", "fetch")
WORKLOAD = ("data", "encoder", "features", "train", "evaluate")
_ORDER: dict[Group, tuple[str, ...]] = {
    "provisioning": PROVISIONING,
    "run": RUN,
    "workload": WORKLOAD,
}


def of_run(events: Iterable[object], manifest: Manifest) -> list[PhaseEvent]:
    """The phases that belong to a run: its own, and how the VMs that take part came to be.

    VMs may have been provisioned days apart: of each the last time counts that it was cloned or
    powered on, moved to the beginning of the latest, so that times compare and no gap is drawn.
    Phases of other VMs and those of a scale-down are left out.
    """
    names = {vm.name for vm in manifest.vms}
    sessions: list[list[PhaseEvent]] = [[]]
    own = []
    for event in events:
        if not isinstance(event, PhaseEvent) or event.vm not in {None, *names}:
            continue
        if event.name in SCALE_DOWN:
            continue
        if event.name not in PROVISIONING:
            own.append(event)
        elif event.vm is None and event.state == "start":
            sessions.append([event])
        else:
            sessions[-1].append(event)
    of_vm = {name: _provisioning_of(name, sessions) for name in names}
    latest = max(of_vm.values(), default=0)
    zero = [one[0].t if one else 0.0 for one in sessions]
    moved = [
        event.model_copy(update={"t": event.t - zero[number] + zero[latest]})
        for number, one in enumerate(sessions)
        for event in one
        if number == (latest if event.vm is None else of_vm[event.vm])
    ]
    return [*moved, *own]


def _provisioning_of(vm: str, sessions: Sequence[Sequence[PhaseEvent]]) -> int:
    """The last one that made the VM or powered it on, else the last that looked at it."""
    seen = {n: {e.name for e in one if e.vm == vm} for n, one in enumerate(sessions)}
    made = [n for n, names in seen.items() if names & {"clone", "power_on"}]
    return (made or [n for n, names in seen.items() if names] or [0])[-1]


def run_spans(events: Iterable[object], until: float | None = None) -> tuple[Span, ...]:
    """The phases of gpuvm; the start of an end event without one is computed from its duration.

    A phase without an end extends to the last record of its group, in the group ``run`` to
    ``until``, the end of the run.
    """
    phases = [event for event in events if isinstance(event, PhaseEvent)]
    began: dict[tuple[str, str | None], float] = {}
    last: dict[Group, float] = {"provisioning": 0.0, "run": until or 0.0}
    spans = []
    for event in phases:
        last[_group(event.name)] = max(last[_group(event.name)], event.t)
        key = (event.name, event.vm)
        if event.state == "end":
            spans.append(_finished(event, began.pop(key, None)))
        elif key in began:  # started again without an end: the writer was killed
            spans.append(_unfinished(*key, began[key], event.t))
        if event.state == "start":
            began[key] = event.t
    spans += [_unfinished(*key, start, last[_group(key[0])]) for key, start in began.items()]
    return tuple(sorted(spans, key=lambda span: span.start))


def workload_spans(vm: str, timings: Sequence[Timing]) -> tuple[Span, ...]:
    """The workload's phases on one VM, in seconds since its start there."""
    events = [
        PhaseEvent(
            kind="phase", t=line.t, name=line.name, vm=vm, state=line.state, seconds=line.seconds
        )
        for line in timings
        if isinstance(line, WorkloadPhase)
    ]
    if not events:
        return ()
    zero = timings[0].t
    return tuple(
        replace(span, group="workload", start=span.start - zero, until=span.until - zero)
        for span in run_spans(events, until=timings[-1].t)
    )


def rows(spans: Sequence[Span]) -> tuple[PhaseRow, ...]:
    """A row for each phase, in the usual order of each group; unknown phases come last."""
    phases: dict[tuple[Group, str], list[Span]] = {}
    for span in sorted(spans, key=lambda span: span.start):
        phases.setdefault((span.group, span.name), []).append(span)
    return tuple(
        _row(group, name, phases[group, name]) for group, name in sorted(phases, key=_sort_key)
    )


def title(name: str, group: Group = "workload") -> str:
    """``train`` is the program as gpuvm sees it, and one of the phases that it has inside."""
    if (group, name) == ("run", "train"):
        return "Program"
    return name.replace("_", " ").replace("-", " ").capitalize()


def _finished(event: PhaseEvent, start: float | None) -> Span:
    if start is None:
        start = event.t - (event.seconds or 0)
    seconds = event.t - start if event.seconds is None else event.seconds
    seconds = max(0.0, seconds)  # the clock may have been set back
    ok = event.ok is not False
    return Span(_group(event.name), event.name, event.vm, start, seconds, start + seconds, ok)


def _unfinished(name: str, vm: str | None, start: float, until: float) -> Span:
    return Span(_group(name), name, vm, start, None, max(start, until), None)


def _group(name: str) -> Group:
    return "provisioning" if name in PROVISIONING else "run"


def _sort_key(phase: tuple[Group, str]) -> tuple[int, int]:
    group, name = phase
    known = _ORDER[group]
    return list(_ORDER).index(group), known.index(name) if name in known else len(known)


def _row(group: Group, name: str, spans: Sequence[Span]) -> PhaseRow:
    by_vm: dict[str | None, list[Span]] = {}
    for span in spans:
        by_vm.setdefault(span.vm, []).append(span)
    seconds = {vm: _total(own) for vm, own in by_vm.items()}
    finished = None not in seconds.values()
    overall = _slowest(seconds.values()) if group == "workload" else _first_to_last(spans)
    return PhaseRow(
        group=group,
        name=name,
        title=title(name, group),
        overall_s=overall if finished else None,
        by_vm=tuple((vm, took) for vm, took in seconds.items() if vm is not None),
        ok=all(own[-1].ok for own in by_vm.values()),
        attempts=max(len(own) for own in by_vm.values()),
    )


def _total(attempts: Sequence[Span]) -> float | None:
    """The sum of all attempts of one VM; None when the last one did not end."""
    if attempts[-1].seconds is None:
        return None
    return sum(span.seconds for span in attempts if span.seconds is not None)


def _first_to_last(spans: Sequence[Span]) -> float:
    return max(span.until for span in spans) - min(span.start for span in spans)


def _slowest(seconds: Iterable[float | None]) -> float:
    return max((value for value in seconds if value is not None), default=0.0)
