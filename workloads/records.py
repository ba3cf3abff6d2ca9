"""timings.jsonl: what every workload writes about itself (workloads/README.md has the schema)."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Log:
    """timings.jsonl: one flushed line per event."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("a", encoding="utf-8")

    def __call__(self, event: str, **fields: Any) -> None:
        record = {"t": round(time.time(), 3), "event": event, **fields}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self("phase", name=name, state="start")
        begun = time.monotonic()
        yield
        self("phase", name=name, state="end", seconds=round(time.monotonic() - begun, 3))
