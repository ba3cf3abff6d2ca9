"""Starts and stops the lab's two daemons: the simulated vCenter and the supervisor.

Each is identified by its pid and start time: see gpuvm.lab.processes.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from gpuvm.errors import LabError
from gpuvm.lab import hypervisor, processes
from gpuvm.lab.processes import ProcessId
from gpuvm.lab.state_folder import LabFolder, VCenterReady

_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 15.0
_POLL_S = 0.02
_RESET_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}

Answer = TypeVar("Answer")


def start_vcsim(folder: LabFolder, binary: Path, reservation: int, lifeline: int | None) -> None:
    """Returns when it answers; it keeps the socket ``reservation`` open while it runs.

    Raises LabError with the last lines of its log.
    """
    command = [
        *(str(binary), "--state-dir", str(folder.path)),
        *("--description", str(folder.description_file)),
        *("--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"),
        *(("--parent-fd", str(lifeline)) if lifeline is not None else ()),
    ]
    process = _spawn(command, folder.path / "vcsim.log", reservation, lifeline)
    _save_process(folder, vcsim=process)

    def read_ready() -> VCenterReady | None:
        ready = folder.ready()
        return ready if ready is not None and ready.pid == process.pid else None

    _wait("the simulated vCenter", read_ready, process, folder, "vcsim.log")


def start_supervisor(folder: LabFolder, lifeline: int | None) -> None:
    """Returns when it is connected to the vCenter; does nothing if it is running."""
    record = folder.record()
    process = record.supervisor if record is not None else None
    if process is None or not process.alive:
        command = [sys.executable, "-P", "-m", "gpuvm.lab.supervisor", str(folder.path)]
        if lifeline is not None:
            command.append(str(lifeline))
        process = _spawn(command, folder.path / "supervisor.log", lifeline)
        _save_process(folder, supervisor=process)
    pid = process.pid

    def connected() -> bool | None:
        found = folder.supervisor()
        return True if found is not None and found.pid == pid and found.connected else None

    _wait("the lab's supervisor", connected, process, folder, "supervisor.log")


def end(process: ProcessId | None, first: signal.Signals = signal.SIGTERM) -> None:
    """Sends ``first``, then SIGKILL after 15 s; returns when the process has ended."""
    if process is None:
        return
    process.send(first)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while process.alive:
        if time.monotonic() > deadline:
            process.send(signal.SIGKILL)
        time.sleep(_POLL_S)
    with suppress(ChildProcessError):  # not a child of this process
        os.waitpid(process.pid, os.WNOHANG)


def _save_process(folder: LabFolder, **process: ProcessId) -> None:
    record = folder.record()
    if record is not None:
        folder.save(record.model_copy(update=process))


def _spawn(command: Sequence[str], log: Path, *inherited: int | None) -> ProcessId:
    """Starts a process in its own session, with / as its working directory."""
    passed = [descriptor for descriptor in inherited if descriptor is not None]
    for descriptor in passed:
        os.set_inheritable(descriptor, True)
    try:
        pid = os.posix_spawn(
            "/bin/sh",
            ["/bin/sh", "-c", 'cd / && exec "$0" "$@"', *command],
            hypervisor.clean_environment(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=_RESET_SIGNALS,
        )
    finally:
        for descriptor in passed:
            os.set_inheritable(descriptor, False)
    return processes.identify(pid) or ProcessId(pid, 0)


def _wait(
    what: str,
    probe: Callable[[], Answer | None],
    process: ProcessId,
    folder: LabFolder,
    log: str,
) -> Answer:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while (answer := probe()) is None:
        if not process.alive:
            raise LabError(f"{what} exited: {folder.log_tail(log)}")
        if time.monotonic() > deadline:
            why = folder.log_tail(log)
            raise LabError(f"{what} did not start within {_START_TIMEOUT_S:g} s: {why}")
        time.sleep(_POLL_S)
    return answer
