"""Runs guests on this machine as ESXi runs them on a host: power on, power off, delete.

    isolation = find_isolation(scratch)
    guest = power_on(folder, boot, isolation)      # returns at once
    for told in guest.messages(): ...              # ready, with its host keys; ends when it dies
    guest.power_off()                              # nothing that ran in it is left

A guest is process 1 of its own PID and mount namespace. It dies with the supervisor, even one that
is killed: its ``unshare`` has a parent-death signal, and it watches a pipe that only the supervisor
holds open.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from gpuvm.lab import processes
from gpuvm.lab.guest.boot import Boot

_POWER_OFF_S = 10.0
_PROBE_S = 30.0
_KEPT_ENVIRONMENT = (
    *("PATH", "HOME", "LANG", "PYTHONPATH", "LD_LIBRARY_PATH"),
    *("GPUVM_CONFIG_DIR", "GPUVM_STATE_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME"),
)


@dataclass(frozen=True)
class Isolation:
    """``reason`` says why guests have no namespaces of their own; None when they have."""

    reason: str | None

    @property
    def isolated(self) -> bool:
        return self.reason is None

    @override
    def __str__(self) -> str:
        if self.reason is None:
            return "own PID and mount namespaces"
        return f"subreaper only, guests see this machine's files ({self.reason})"


@dataclass(frozen=True)
class GuestReady:
    """``pid`` is the number that this machine knows the guest's first process by."""

    pid: int
    host_keys: tuple[str, ...]


@dataclass(frozen=True)
class GuestShutdown:
    """A user of the guest has shut it down."""


@dataclass
class Guest:
    """A guest that has been powered on."""

    folder: Path
    boot: Boot
    process: subprocess.Popen[bytes]
    _ready: int
    _lifeline: int

    def messages(self) -> Generator[GuestReady | GuestShutdown, None, None]:
        """When SSH answers, and when a user shuts it down; ends when the guest is dead.

        For a thread of its own.
        """
        with os.fdopen(self._ready, encoding="utf-8") as lines:
            for line in lines:
                message = json.loads(line)
                if "shutdown" in message:
                    yield GuestShutdown()
                else:
                    yield GuestReady(message["pid"], tuple(message["host_keys"]))

    def power_off(self) -> None:
        """Hard, as a plug is pulled; returns when no process of the guest is left."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        if self.boot.isolated:
            self._kill_namespace()
        else:
            self._kill_tree()

    def last_words(self) -> str:
        """The last line on its console."""
        text = (self.folder / "console.log").read_text(encoding="utf-8", errors="replace")
        return (text.strip().splitlines() or ["nothing"])[-1]

    def _kill_namespace(self) -> None:
        """Until unshare ends: that is after process 1, and that after all in its namespace."""
        while self.process.poll() is None:
            inner = processes.children(self.process.pid)
            kill(inner or [self.process.pid])
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)

    def _kill_tree(self) -> None:
        """The guest kills its own descendants; if it cannot, they are killed from here."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_POWER_OFF_S)
        while self.process.poll() is None:
            kill([*processes.descendants(self.process.pid), self.process.pid])
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)


def find_isolation(scratch: Path) -> Isolation:
    """Tries whether a guest gets namespaces and a root of its own on this machine."""
    for program in ("unshare", "setpriv"):
        if shutil.which(program) is None:
            return Isolation(f"the program {program} of util-linux is missing")
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".probe-") as folder:
        try:
            done = subprocess.run(
                [*_namespaces(), *_python("--probe", folder)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=_PROBE_S,
                env=clean_environment(),
            )
        except subprocess.TimeoutExpired:
            return Isolation(f"a trial guest did not come up in {_PROBE_S:g} s")
    if done.returncode == 0:
        return Isolation(None)
    return Isolation((done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1])


def power_on(folder: Path, boot: Boot, isolation: Isolation) -> Guest:
    """Starts the guest whose disk is in ``folder``; it must be called by the main thread.

    The parent-death signal is tied to the thread that starts a process, see prctl(2).
    """
    folder.mkdir(parents=True, exist_ok=True)
    boot.save(folder / "boot.json")
    ready, ready_inner = os.pipe()
    lifeline_inner, lifeline = os.pipe()
    command = _python(str(folder), str(ready_inner), str(lifeline_inner))
    with (folder / "console.log").open("ab") as console:
        process = subprocess.Popen(
            [*_namespaces(), *command] if isolation.isolated else command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            pass_fds=(ready_inner, lifeline_inner),
            env=clean_environment(),
            cwd="/",
            start_new_session=True,
        )
    os.close(ready_inner)
    os.close(lifeline_inner)
    return Guest(folder, boot, process, ready, lifeline)


def kill(pids: Iterable[int]) -> None:
    """At once; those that are gone already are fine."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def remove_folder(folder: Path) -> None:
    """Deletes the folder even if its permissions were changed; a missing one is fine."""
    for place, folders, _ in os.walk(folder):
        for name in folders:
            inner = Path(place) / name
            if not inner.is_symlink():
                inner.chmod(0o700)
    if folder.exists():
        shutil.rmtree(folder)


def clean_environment() -> dict[str, str]:
    """What the lab's processes get of the operator's environment: no passwords, no proxies."""
    return {key: os.environ[key] for key in _KEPT_ENVIRONMENT if key in os.environ}


def _namespaces() -> list[str]:
    unprivileged = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return [
        *("setpriv", "--pdeathsig", "KILL", "--"),
        *("unshare", *unprivileged, "--pid", "--mount", "--uts", "--ipc"),
        *("--fork", "--kill-child", "--"),
    ]


def _python(*arguments: str) -> list[str]:
    """-P: the working folder is not searched for modules."""
    return [sys.executable, "-P", "-m", "gpuvm.lab.guest", *arguments]
