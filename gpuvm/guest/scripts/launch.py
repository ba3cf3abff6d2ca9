"""launch < TASK: starts a program that outlives the SSH connection, and returns at once.

TASK is JSON: dir, command, env, without (names of environment variables to drop), files (stdout,
stderr and whatever else begins anew). A supervisor in a session of its own waits for the program
and leaves ``exit_status``: JSON, the status as a shell has it (128 + signal) and when it was. It
holds a lock on ``supervisor.lock`` while it lives: a reboot cannot fake that, as it can a process
id.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CANNOT_START = 127


def main() -> None:
    task = json.loads(sys.stdin.read())
    (Path(task["dir"]) / "out").mkdir(parents=True, exist_ok=True)
    os.chdir(task["dir"])
    for stale in ("exit_status", *task["files"]):
        with contextlib.suppress(FileNotFoundError):
            Path(stale).unlink()
    lock = os.open("supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if os.fork():
        os._exit(0)  # the lock stays: the supervisor has it too
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):  # else the SSH session would wait for their end
        os.dup2(null, number)
    leave_status(supervise(task, null))


def supervise(task: dict[str, Any], null: int) -> int:
    unwanted = {name.lower() for name in task["without"]}
    env = {k: v for k, v in os.environ.items() if k.lower() not in unwanted}
    env.update(task["env"])
    stdout, stderr = (Path(name) for name in task["files"][:2])
    with stdout.open("wb") as out, stderr.open("wb") as err:
        try:
            status = subprocess.call(task["command"], env=env, stdin=null, stdout=out, stderr=err)
        except OSError as error:
            err.write(f"{error}\n".encode())
            return CANNOT_START
    return status if status >= 0 else 128 - status


def leave_status(status: int) -> None:
    new = Path("exit_status.new")
    new.write_text(json.dumps({"status": status, "t": time.time()}), encoding="ascii")
    new.replace("exit_status")


main()
