"""A run as it goes: on a terminal one moving line per VM, elsewhere a line now and then."""

from rich.live import Live
from rich.markup import escape
from rich.table import Table

from gpuvm.cli import output
from gpuvm.cli.state import State
from gpuvm.events import Event, Events
from gpuvm.workload import Progress

EVERY = 10
"""Off a terminal, so many steps of the step counter's log points are skipped between two lines."""


class Follower:
    """Shows each VM's last step, and the run's phases and warnings as they come."""

    def __init__(self, events: Events, state: State) -> None:
        self._quiet = state.json
        self._latest: dict[str, Progress] = {}
        self._seen: dict[str, int] = {}
        self._phases: set[str] = set()
        self._live: Live | None = None
        if not self._quiet:
            events.add(self._event)

    def __enter__(self) -> "Follower":
        if not self._quiet and output.stderr.is_terminal:
            self._live = Live(console=output.stderr, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def step(self, progress: Progress) -> None:
        """Called from the threads that follow the guests."""
        self._latest[progress.vm] = progress
        if self._live is not None:
            self._live.update(self._table())
        elif not self._quiet:
            self._line(progress)

    def _line(self, progress: Progress) -> None:
        seen = self._seen[progress.vm] = self._seen.get(progress.vm, -1) + 1
        if seen % EVERY == 0:
            output.stderr.print(f"  {_text(progress)}", markup=False)

    def _event(self, event: Event) -> None:
        if event.kind in ("note", "warning"):
            who = f"{event.vm}: " if event.vm else ""
            output.stderr.print(f"  {who}{event.text}", markup=False)
        elif event.kind == "phase" and event.state == "start" and event.name not in self._phases:
            self._phases.add(event.name)
            output.stderr.print(f"  {event.name.replace('_', ' ')}", markup=False)

    def _table(self) -> Table:
        drawn = Table(box=None, show_header=False)
        for vm in sorted(self._latest):
            drawn.add_row(escape(_text(self._latest[vm])))
        return drawn


def _text(p: Progress) -> str:
    parts = [f"{p.vm}: {p.phase}"]
    if p.step is not None:
        parts.append(f"step {p.step}/{p.steps}" if p.steps else f"step {p.step}")
    if p.loss is not None:
        parts.append(f"loss {p.loss:.4f}")
    if p.examples_per_second is not None:
        parts.append(f"{p.examples_per_second:.0f} examples/s")
    if p.text:
        parts.append(p.text)
    return "  ".join(parts)
