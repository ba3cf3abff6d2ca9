"""kill NAME=VALUE...: ends every process with these variables; prints the ids of survivors.

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
    marks = {argument.encode() for argument in sys.argv[1:]}
    for number, timeout_s in SIGNALS:
        end = time.monotonic() + timeout_s
        signalled: set[int] = set()
        while (left := alive(marks)) and time.monotonic() < end:
            for pid in left - signalled:  # also processes forked since
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
            signalled |= left
            time.sleep(0.05)
    sys.stdout.write("".join(f"{pid}\n" for pid in alive(marks)))


def alive(marks: set[bytes]) -> set[int]:
    processes = Path("/proc").glob("[0-9]*")
    return {int(process.name) for process in processes if has(process, marks)}


def has(process: Path, marks: set[bytes]) -> bool:
    try:
        return marks <= {*(process / "environ").read_bytes().split(b"\0")}  # a zombie's is empty
    except OSError:
        return False  # it has exited, or is another user's


main()
