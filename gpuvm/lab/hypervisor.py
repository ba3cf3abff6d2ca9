"""Runs guests as processes on this machine: power on, power off, delete.

    isolation = find_isolation(scratch)
    guest = power_on(folder, boot, isolation)      # returns at once
    for message in guest.messages(): ...           # ready, with its host keys; ends when it exits
    guest.power_off()                              # kills everything that ran in it

A guest is process 1 of its own PID and mount namespace. It ends with the supervisor, even if that
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
    """``reason`` says why guests cannot have their own namespaces; None when they can."""

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
    """``pid`` is the guest's first process as this machine numbers it."""

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
        """Yields when SSH answers and when a user shuts the guest down; ends when it exits.

        Blocks: run it in its own thread.
        """
        with os.fdopen(self._ready, encoding="utf-8") as lines:
            for line in lines:
                message = json.loads(line)
                if "shutdown" in message:
                    yield GuestShutdown()
                else:
                    yield GuestReady(message["pid"], tuple(message["host_keys"]))

    def power_off(self) -> None:
        """Kills the guest; returns when none of its processes is left."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        if self.boot.isolated:
            self._kill_namespace()
        else:
            self._kill_tree()

    def last_console_line(self) -> str:
        """The last line on its console."""
        text = (self.folder / "console.log").read_text(encoding="utf-8", errors="replace")
        return (text.strip().splitlines() or ["nothing"])[-1]

    def _kill_namespace(self) -> None:
        """Waits for unshare, which ends after process 1 and all others in its namespace."""
        while self.process.poll() is None:
            inner = processes.children(self.process.pid)
            kill(inner or [self.process.pid])
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)

    def _kill_tree(self) -> None:
        """The guest kills its descendants; those left after a timeout are killed here."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGCONT)  # it may be frozen
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_POWER_OFF_S)
        while self.process.poll() is None:
            kill([*processes.descendants(self.process.pid), self.process.pid])
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)


def find_isolation(scratch: Path) -> Isolation:
    """Tests whether a guest can have its own namespaces and root on this machine."""
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
            return Isolation(f"a test guest did not start within {_PROBE_S:g} s")
    if done.returncode == 0:
        return Isolation(None)
    return Isolation((done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1])


def power_on(folder: Path, boot: Boot, isolation: Isolation, network: Path | None = None) -> Guest:
    """Starts the guest whose disk is in ``folder``; call it in the main thread.

    ``network`` is the namespace that it enters; it must last until the guest is off.
    The parent-death signal is tied to the thread that starts a process, see prctl(2).
    """
    folder.mkdir(parents=True, exist_ok=True)
    boot.save(folder / "boot.json")
    ready, ready_inner = os.pipe()
    lifeline_inner, lifeline = os.pipe()
    command = _python(str(folder), str(ready_inner), str(lifeline_inner))
    with (folder / "console.log").open("ab") as console:
        process = subprocess.Popen(
            [*_namespaces(network), *command] if isolation.isolated else command,
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
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def remove_folder(folder: Path) -> None:
    """Deletes the folder, whatever its permissions; does nothing if it is missing."""
    for place, folders, _ in os.walk(folder):
        for name in folders:
            inner = Path(place) / name
            if not inner.is_symlink():
                inner.chmod(0o700)
    if folder.exists():
        shutil.rmtree(folder)


def clean_environment() -> dict[str, str]:
    """The variables that the lab's processes inherit: no passwords, no proxies."""
    return {key: os.environ[key] for key in _KEPT_ENVIRONMENT if key in os.environ}


def _namespaces(network: Path | None = None) -> list[str]:
    unprivileged = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return [
        *("setpriv", "--pdeathsig", "KILL", "--"),
        *(("nsenter", f"--net={network}", "--") if network is not None else ()),
        *("unshare", *unprivileged, "--pid", "--mount", "--uts", "--ipc"),
        *("--fork", "--kill-child", "--"),
    ]


def _python(*arguments: str) -> list[str]:
    """-P: the working folder is not searched for modules."""
    return [sys.executable, "-P", "-m", "gpuvm.lab.guest", *arguments]
