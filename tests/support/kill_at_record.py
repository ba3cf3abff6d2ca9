"""Kills a workload at a record that it writes, before it can go much further."""

import fcntl
import json
import os
import select
import signal
from pathlib import Path

from programs import TIMEOUT_S, Program


def kill_at(program: Program, out: Path, event: str, *arguments: str) -> None:
    """Its timings.jsonl is a pipe of one page: it cannot end until the rest is read.

    The pipe goes away afterwards, so that the next run writes a file.
    """
    out.mkdir()
    timings = out / "timings.jsonl"
    os.mkfifo(timings)
    # For writing too: else opening it would wait for a program that may end before it comes so far.
    pipe = os.open(timings, os.O_RDWR)
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
    process = program.start(out, *arguments)
    watcher = os.pidfd_open(process.pid)
    try:
        _read_until(event, pipe, watcher)
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=TIMEOUT_S)
    finally:
        os.close(pipe)
        os.close(watcher)
        process.kill()
    assert process.returncode == -signal.SIGKILL, errors
    timings.unlink()


def _read_until(event: str, pipe: int, watcher: int) -> None:
    unread = b""
    while True:
        ready, _, _ = select.select([pipe, watcher], [], [], TIMEOUT_S)
        assert pipe in ready, "it ended before it wrote that"
        *lines, unread = (unread + os.read(pipe, 256)).split(b"\n")
        if any(json.loads(line)["event"] == event for line in lines):
            return
