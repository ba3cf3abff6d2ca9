"""Shows events and runs: a progress line per VM on a terminal, plain lines otherwise."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from gpuvm import runs
from gpuvm.cli import output
from gpuvm.cli.console import continued, text
from gpuvm.cli.guest_output import show_line
from gpuvm.cli.output import State
from gpuvm.cli.session import interactive
from gpuvm.events import Event, Events, Sink
from gpuvm.runs.scaling import Scaling
from gpuvm.text import one_line, printable

LABELS = {
    "clone": "cloning",
    "configure": "reading back",
    "power_on": "powering on",
    "address": "waiting for its address",
    "ready": "checking the guest",
    "power off": "powering off",
    "destroy": "destroying",
    "build": "building",
    "done": "done",
    "removed": "removed",
    "download": "downloading",
    "move": "moving to another host",
    "shut down": "shutting down",
    "stopped": "stopped",
    "passthrough": "toggling passthrough",
    "maintenance": "entering maintenance mode",
    "rebooting": "rebooting",
    "leaving": "leaving maintenance mode",
}


@contextmanager
def shown(events: Events, state: State) -> Iterator[None]:
    """Show events on stderr during the block; with --json, only warnings."""
    if state.json:
        with _added(events, _warnings):
            yield
    elif output.stderr.is_terminal:
        with _Bars() as bars, _added(events, bars):
            yield
    else:
        with _added(events, _lines()):
            yield


@contextmanager
def _added(events: Events, sink: Sink) -> Iterator[None]:
    """Add the sink only during the block, so that nothing is shown twice."""
    events.add(sink)
    try:
        yield
    finally:
        events.remove(sink)


class _Bars:
    """A bar per VM: the progress of its current stage, as reported by the vCenter."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("  {task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[stage]}", markup=False),
            TimeElapsedColumn(),
            console=output.stderr,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        if event.kind in ("note", "warning"):
            self._progress.console.print(_event_text(event))
        elif event.vm is not None and event.state != "end":
            self._move(event, event.vm)

    def _move(self, event: Event, vm: str) -> None:
        if vm not in self._tasks:
            self._tasks[vm] = self._progress.add_task(one_line(vm, longest=80), total=1.0, stage="")
        self._progress.update(
            self._tasks[vm],
            completed=event.fraction or 0.0,
            stage=one_line(event.text or LABELS.get(event.name, event.name)),
        )


def _lines() -> Sink:
    """Return a sink for logs and pipes, which prints a line when a VM's stage begins."""
    last: dict[str, str] = {}

    def sink(event: Event) -> None:
        if event.kind in ("note", "warning"):
            output.stderr.print(_event_text(event))
        elif event.vm is not None and event.state != "end" and last.get(event.vm) != event.name:
            last[event.vm] = event.name
            output.stderr.print(f"  {event.vm}: {LABELS.get(event.name, event.name)}")

    return sink


def _warnings(event: Event) -> None:
    if event.kind == "warning":
        output.stderr.print(_event_text(event))


def _event_text(event: Event) -> Text:
    colour = "yellow" if event.kind == "warning" else "dim"
    return text("  ", (_note(event), colour))


def _note(event: Event) -> str:
    who = f"{event.vm}: " if event.vm else ""
    return continued(f"{who}{output.completed(event.text or '')}")


EVERY = 10
"""Without a terminal, one line is printed for this many reported steps."""


class RunWatch(runs.Watch):
    """Shows each VM's last step and output, and the run's phases and warnings, live."""

    def __init__(
        self, events: Events, state: State, members: Sequence[runs.Member], *, quiet: bool = False
    ) -> None:
        self._json, self._quiet, self._many = state.json, quiet, len(members) > 1
        self._latest: dict[str, runs.Progress] = {}
        self._seen: dict[str, int] = {}
        self._phases: set[str] = set()
        self._transfers: dict[str, Event] = {}
        self._events, self._scaling = events, Scaling(len(members))
        self._live: Live | None = None
        self._lock = threading.Lock()
        if not self._json:
            events.add(self._event)

    def __enter__(self) -> "RunWatch":
        if not self._json and output.stderr.is_terminal:
            self._live = Live(console=output.stderr, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_live()

    @override
    def step(self, progress: runs.Progress) -> None:
        self._latest[progress.vm] = progress
        if self._live is not None:
            self._live.update(self._table())
        elif not self._json:
            self._line(progress)

    @override
    def record(self, vm: str, record: Mapping[str, Any]) -> None:
        """Warn, in the run's record too, once it is known that one VM would be faster."""
        if warning := self._scaling.seen(vm, record):
            self._events.warning(warning)

    @override
    def output(self, vm: str, stderr: bool, line: str) -> None:
        if self._json or self._quiet:
            return
        name = vm if self._many else None
        with self._lock:
            if self._live is not None and output.stdout.is_terminal:
                shown = printable(line)
                self._live.console.print(f"{name} | {shown}" if name else shown)
            else:
                show_line(f"{name} | " if name else "", line, stderr=stderr)

    @override
    def leave_running(self) -> bool:
        """Ask at a terminal; without one, Ctrl-C cancels the run."""
        self._stop_live()
        if not interactive():
            return False
        while True:
            question = "Cancel the run, or leave it running? (cancel, leave)"
            answer = str(typer.prompt(question, default="cancel", err=True)).strip()
            if answer in ("cancel", "leave"):
                return answer == "leave"

    def _stop_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _line(self, progress: runs.Progress) -> None:
        seen = self._seen[progress.vm] = self._seen.get(progress.vm, -1) + 1
        if seen % EVERY == 0:
            output.stderr.print(f"  {_text(progress)}")

    def _event(self, event: Event) -> None:
        if event.kind in ("note", "warning"):
            output.stderr.print(f"  {_note(event)}")
        elif event.kind == "progress":
            self._transfer(event, event.vm or "")
        elif event.kind == "phase" and event.state == "start" and event.name not in self._phases:
            self._phases.add(event.name)
            output.stderr.print(f"  {event.name.replace('_', ' ')}")

    def _transfer(self, event: Event, vm: str) -> None:
        """Show a transfer's progress; without a terminal, print a line every 10 %."""
        before = self._transfers.pop(vm, None)
        fraction = event.fraction or 0.0
        if fraction < 1:
            self._transfers[vm] = event
        if self._live is not None:
            self._live.update(self._table())
        elif before is not None and int((before.fraction or 0.0) * 10) < int(fraction * 10):
            output.stderr.print(f"  {vm}: {event.text}")

    def _table(self) -> Table:
        drawn = Table(box=None, show_header=False)
        for vm in sorted(self._latest):
            drawn.add_row(_text(self._latest[vm]))
        for vm, event in sorted(self._transfers.items()):
            drawn.add_row(one_line(f"{vm}: {event.text}"))
        return drawn


def _text(p: runs.Progress) -> str:
    parts = [f"{p.vm}: {p.phase}"]
    if p.step is not None:
        parts.append(f"step {p.step}/{p.steps}" if p.steps else f"step {p.step}")
    if p.loss is not None:
        parts.append(f"loss {p.loss:.4f}")
    if p.examples_per_second is not None:
        parts.append(f"{p.examples_per_second:.0f} examples/s")
    if p.text:
        parts.append(p.text)
    return "  ".join(map(one_line, parts))
