"""Events: phases and progress, for the progress bar, the log and the report.

    with events.phase("clone", vm="gpuvm-01"):
        ...
    events.progress("gpuvm-01", "clone", 0.4)

Sinks get every :class:`Event`; one that raises is a bug and is not hidden.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["phase", "progress", "note", "warning"]


@dataclass(frozen=True)
class Event:
    """``t`` is Unix seconds; ``seconds`` is set when a phase ends; ``fraction`` is 0 to 1."""

    t: float
    kind: Kind
    name: str
    vm: str | None = None
    state: Literal["start", "end"] | None = None
    seconds: float | None = None
    ok: bool | None = None
    fraction: float | None = None
    text: str | None = None

    def record(self) -> dict[str, object]:
        """The event as in events.jsonl (docs/results-format.md), without empty fields."""
        return {key: value for key, value in asdict(self).items() if value is not None}


Sink = Callable[[Event], None]


class Events:
    """Passes events to its sinks; thread-safe."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = list(sinks)
        self._lock = threading.Lock()

    def add(self, sink: Sink) -> None:
        self._sinks.append(sink)

    def remove(self, sink: Sink) -> None:
        self._sinks.remove(sink)

    def emit(self, event: Event) -> None:
        with self._lock:
            for sink in self._sinks:
                sink(event)

    @contextmanager
    def phase(self, name: str, vm: str | None = None) -> Iterator[None]:
        """Times a block; ``ok`` is False when it raises."""
        self.start(name, vm)
        begun, ok = time.monotonic(), False
        try:
            yield
            ok = True
        finally:
            self.end(name, time.monotonic() - begun, vm, ok=ok)

    def start(self, name: str, vm: str | None = None) -> None:
        self.emit(Event(time.time(), "phase", name, vm, "start"))

    def end(self, name: str, seconds: float, vm: str | None = None, *, ok: bool = True) -> None:
        """Ends a phase that cannot be a ``with`` block, such as overlapping phases in one loop."""
        rounded = round(seconds, 6)
        self.emit(Event(time.time(), "phase", name, vm, "end", seconds=rounded, ok=ok))

    def progress(self, vm: str, name: str, fraction: float, text: str | None = None) -> None:
        self.emit(Event(time.time(), "progress", name, vm, fraction=fraction, text=text))

    def note(self, text: str, vm: str | None = None) -> None:
        self.emit(Event(time.time(), "note", "note", vm, text=text))

    def warning(self, text: str, vm: str | None = None) -> None:
        self.emit(Event(time.time(), "warning", "warning", vm, text=text))


class JsonlSink:
    """Appends phases, notes and warnings to a file, one flushed line each."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def __call__(self, event: Event) -> None:
        if event.kind != "progress":
            self._file.write(json.dumps(event.record()) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()
