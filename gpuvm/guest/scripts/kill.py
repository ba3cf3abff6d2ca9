"""kill NAME=VALUE: ends every process with that in its environment; prints the ids of survivors.

The environment is inherited however a process moves away from its parent: a second fork and a
session of its own change nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

PATIENCE = ((signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0))


def main() -> None:
    mark = sys.argv[1].encode()
    for number, patience_s in PATIENCE:
        end = time.monotonic() + patience_s
        told: set[int] = set()
        while (left := alive(mark)) and time.monotonic() < end:
            for pid in left - told:  # also those that were forked since the last look
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
            told |= left
            time.sleep(0.05)
    sys.stdout.write("".join(f"{pid}\n" for pid in alive(mark)))


def alive(mark: bytes) -> set[int]:
    processes = Path("/proc").glob("[0-9]*")
    return {int(process.name) for process in processes if has(process, mark)}


def has(process: Path, mark: bytes) -> bool:
    try:
        return mark in (process / "environ").read_bytes().split(b"\0")  # a zombie's is empty
    except OSError:
        return False  # gone meanwhile, or another user's


main()
