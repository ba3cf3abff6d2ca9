"""timings.jsonl, the records of every workload (workloads/README.md has the schema).

Losses, rates and scores are also written to TensorBoard's event files, if it is installed.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Log:
    """timings.jsonl: one flushed line per event."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("a", encoding="utf-8")
        self._curves = _Curves(file.parent / "tensorboard")

    def __call__(self, event: str, **fields: Any) -> None:
        record = {"t": round(time.time(), 3), "event": event, **fields}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if event == "step":
            for name in sorted(fields.keys() - {"phase", "step", "steps"}):
                self._curves.add(f"{fields['phase']}/{name}", fields[name], fields["step"])
        elif event == "score":
            parts = ("score", fields["name"], fields.get("decoder"))
            self._curves.add("/".join(filter(None, parts)), fields["value"], fields.get("step", 0))
        elif event == "end":
            self._curves.close()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self("phase", name=name, state="start")
        begun = time.monotonic()
        yield
        self("phase", name=name, state="end", seconds=round(time.monotonic() - begun, 3))


class _Curves:
    """TensorBoard's event writer, without TensorFlow; opened at the first value."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._failed = folder, False
        self._writer: Any = None

    def add(self, tag: str, value: Any, step: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        if self._writer is None and not self._failed:
            self._open()
        if self._writer is None:
            return
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=float(value))])
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _open(self) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            self._failed = True
            print("no TensorBoard events: tensorboard is not installed", file=sys.stderr)
            return
        self._writer = EventFileWriter(str(self._folder))
