"""idle COMMAND FOLDER: shut this guest down by itself when nobody has used it for long enough.

    install FOLDER < TASK   put the watcher there, start it, and let every boot start it
    start FOLDER            start the one that is installed there

TASK is JSON: source (this file), limit_s, look_s (how often it looks) and work (the folder of all
runs). In use is a guest with a run that waits or runs, with a login, or with a compute process on
a GPU. ``install`` prints {"problem": why the guest may not shut down, or null}.

FOLDER has this file as ``idle.py``; ``task``, whose change or removal ends a watcher; ``state``,
JSON written at each look: idle_s, limit_s, in_use (null, or what for) and problem. The system runs
``~/.gpuvm/at-boot`` at each boot (gpuvm's user data for cloud-init). Without the two, all is over.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

POWER_OFF = (
    ("sudo", "-n", "shutdown", "-h", "now"),
    ("sudo", "-n", "systemctl", "poweroff"),
    ("systemctl", "poweroff"),
)
SSHD = ("sshd", "sshd-session")
"""sshd-session since OpenSSH 9.8."""


def main() -> None:
    command, folder = sys.argv[1], Path(sys.argv[2]).absolute()
    if command == "install":
        install(folder, json.loads(sys.stdin.read()))
    else:
        start(folder)


def install(folder: Path, task: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state").unlink(missing_ok=True)
    leave(folder / "idle.py", task.pop("source"))
    task["work"] = str(Path(task["work"]).absolute())
    # Written anew even where nothing has changed, so that a watcher of an older gpuvm ends.
    task.update(installed=time.time_ns(), machine=machine())
    leave(folder / "task", json.dumps(task))
    at_boot = Path.home() / ".gpuvm" / "at-boot"
    at_boot.parent.mkdir(exist_ok=True)
    command = [sys.executable, str(folder / "idle.py"), "start", str(folder)]
    leave(at_boot, f"#!/bin/sh\nexec {shlex.join(command)}\n", mode=0o755)
    sys.stdout.write(json.dumps({"problem": why_not_off()}) + "\n")
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606 - so that ps shows a short command line


def start(folder: Path) -> None:
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):  # else the SSH session would wait for their end
        os.dup2(null, number)
    watch(folder)


def watch(folder: Path) -> None:
    """Look now and then, until the task is another one or gone.

    By the monotonic clock: that of the day may be set, or be wrong until the network is there.
    """
    written = read(folder / "task")
    task = json.loads(written or "null")
    if task is None or task["machine"] != machine():
        return
    work, limit_s, problem = Path(task["work"]), task["limit_s"], None
    used_at, traces = time.monotonic(), traces_of_use(work)
    while read(folder / "task") == written:
        used_for, now = in_use(work), traces_of_use(work)
        if used_for is not None or now != traces:
            used_at, traces = time.monotonic(), now
        idle_s = time.monotonic() - used_at
        state = {"idle_s": idle_s, "limit_s": limit_s, "in_use": used_for, "problem": problem}
        with contextlib.suppress(OSError):  # a full disk
            leave(folder / "state", json.dumps(state))
        if idle_s >= limit_s:
            problem, used_at = shut_down(), time.monotonic()
        time.sleep(task["look_s"])


def in_use(work: Path) -> str | None:
    """What the guest is in use for; the quickest look comes first."""
    for lock in work.glob("*/supervisor.lock"):
        if is_locked(lock):
            return f"run {lock.parent.name}"
    if ssh_logins(Path("/proc")) or output_of("who"):
        return "a login"
    if output_of("nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"):
        return "a process on the GPU"
    return None


def traces_of_use(work: Path) -> dict[str, float]:
    """Of runs and logins that began and ended between two looks."""
    files = [*work.glob("*/exit_status"), Path("/var/log/wtmp")]
    found = {}
    for file in files:
        with contextlib.suppress(OSError):
            found[str(file)] = file.stat().st_mtime
    return found


def ssh_logins(proc: Path) -> list[int]:
    """The processes of sshd that serve somebody who has logged in.

    They belong to that user; root's is known by its title, such as ``sshd: root@pts/0``. What
    serves a connection before its login belongs to root or to sshd's own user.
    """
    own = {0, *(user.pw_uid for user in pwd.getpwall() if user.pw_name == "sshd")}
    found = []
    for process in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "comm").read_text(encoding="utf-8").strip() not in SSHD:
                continue
            title = (process / "cmdline").read_bytes().strip(b"\0 ").decode(errors="replace")
            of_user = process.stat().st_uid not in own
            if of_user or re.fullmatch(r"sshd(-session)?: [^\s@]+@\S+", title):
                found.append(int(process.name))
    return found


def output_of(*command: str) -> str:
    """Empty where the program is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def is_locked(file: Path) -> bool:
    try:
        lock = os.open(file, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def why_not_off() -> str | None:
    return None if os.geteuid() == 0 else failure(["sudo", "-n", "true"])


def shut_down() -> str | None:
    """None when the guest is on its way down, else why it is not."""
    problems = []
    for command in POWER_OFF:
        problem = failure(command)
        if problem is None:
            return None
        problems.append(problem)
    return problems[0]


def failure(command: Any) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return None
    return done.stderr.strip() or f"{command[0]}: status {done.returncode}"


def machine() -> str | None:
    """A clone of this guest is another one, and nobody asked for it to shut down."""
    return read(Path("/etc/machine-id"))


def read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return None


def leave(file: Path, text: str, mode: int = 0o600) -> None:
    """Write the file as a whole: a reader sees all of it or none."""
    new = file.with_name(f"{file.name}.new")
    new.write_text(text, encoding="utf-8")
    new.chmod(mode)
    new.replace(file)


if __name__ == "__main__":
    main()
