"""kill NAME=VALUE: ends every process with that variable; prints the ids of survivors.

Daemons inherit the environment too, whatever their parent and session.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

SIGNALS = ((signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0))


def main() -> None:
    mark = sys.argv[1].encode()
    for number, timeout_s in SIGNALS:
        end = time.monotonic() + timeout_s
        signalled: set[int] = set()
        while (left := alive(mark)) and time.monotonic() < end:
            for pid in left - signalled:  # also processes forked since
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
            signalled |= left
            time.sleep(0.05)
    sys.stdout.write("".join(f"{pid}\n" for pid in alive(mark)))


def alive(mark: bytes) -> set[int]:
    processes = Path("/proc").glob("[0-9]*")
    return {int(process.name) for process in processes if has(process, mark)}


def has(process: Path, mark: bytes) -> bool:
    try:
        return mark in (process / "environ").read_bytes().split(b"\0")  # a zombie's is empty
    except OSError:
        return False  # it has exited, or is another user's


main()
