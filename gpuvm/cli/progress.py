"""Shows events as they come: one moving line per VM on a terminal, plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from gpuvm.cli import output
from gpuvm.cli.state import State
from gpuvm.events import Event, Events, Sink

SAID = {
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
    "passthrough": "switching passthrough",
    "maintenance": "entering maintenance mode",
    "rebooting": "rebooting",
    "leaving": "leaving maintenance mode",
}


@contextmanager
def shown(events: Events, state: State) -> Iterator[None]:
    """While the block runs, events are shown on stderr; with --json nothing is."""
    if state.json:
        yield
    elif output.stderr.is_terminal:
        with _Bars() as bars, _added(events, bars):
            yield
    else:
        with _added(events, _lines()):
            yield


@contextmanager
def _added(events: Events, sink: Sink) -> Iterator[None]:
    """For as long as the block runs: a command that shows two of them tells nothing twice."""
    events.add(sink)
    try:
        yield
    finally:
        events.remove(sink)


class _Bars:
    """A bar per VM; the bar is the present stage's progress as the vCenter reports it."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[stage]}"),
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
            self._progress.console.print(_told(event))
        elif event.vm is not None and event.state != "end":
            self._move(event, event.vm)

    def _move(self, event: Event, vm: str) -> None:
        if vm not in self._tasks:
            self._tasks[vm] = self._progress.add_task(vm, total=1.0, stage="")
        self._progress.update(
            self._tasks[vm],
            completed=event.fraction or 0.0,
            stage=escape(event.text or SAID.get(event.name, event.name)),
        )


def _lines() -> Sink:
    """Plain lines for logs and pipes: a line when a VM's stage begins."""
    last: dict[str, str] = {}

    def sink(event: Event) -> None:
        if event.kind in ("note", "warning"):
            output.stderr.print(_told(event))
        elif event.vm is not None and event.state != "end" and last.get(event.vm) != event.name:
            last[event.vm] = event.name
            output.stderr.print(f"  {event.vm}: {SAID.get(event.name, event.name)}", markup=False)

    return sink


def _told(event: Event) -> str:
    who = f"{escape(event.vm)}: " if event.vm else ""
    colour = "yellow" if event.kind == "warning" else "dim"
    return f"  [{colour}]{who}{escape(event.text or '')}[/]"
