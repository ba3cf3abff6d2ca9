"""The lab's two processes in the background: started so that they survive the shell, and ended.

Each is known by its pid and start time, which name one process for good: see gpuvm.lab.processes.
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

_START_S = 120.0
_STOP_S = 15.0
_POLL_S = 0.02
_RESET_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}

Told = TypeVar("Told")


def start_vcsim(folder: LabFolder, binary: Path, reservation: int, lifeline: int | None) -> None:
    """Returns when it answers; it holds ``reservation`` open for as long as it lives.

    Raises LabError with the last words of its log.
    """
    command = [
        *(str(binary), "--state-dir", str(folder.path)),
        *("--description", str(folder.description_file)),
        *("--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"),
        *(("--parent-fd", str(lifeline)) if lifeline is not None else ()),
    ]
    process = _spawn(command, folder.path / "vcsim.log", reservation, lifeline)
    _note_process(folder, vcsim=process)

    def answers() -> VCenterReady | None:
        ready = folder.ready()
        return ready if ready is not None and ready.pid == process.pid else None

    _wait("the simulated vCenter", answers, process, folder, "vcsim.log")


def start_supervisor(folder: LabFolder, lifeline: int | None) -> None:
    """Returns when it is connected to the vCenter; one that runs already is left alone."""
    record = folder.record()
    process = record.supervisor if record is not None else None
    if process is None or not process.alive:
        command = [sys.executable, "-P", "-m", "gpuvm.lab.supervisor", str(folder.path)]
        if lifeline is not None:
            command.append(str(lifeline))
        process = _spawn(command, folder.path / "supervisor.log", lifeline)
        _note_process(folder, supervisor=process)
    pid = process.pid

    def connected() -> bool | None:
        told = folder.supervisor()
        return True if told is not None and told.pid == pid and told.connected else None

    _wait("the lab's supervisor", connected, process, folder, "supervisor.log")


def end(process: ProcessId | None, first: signal.Signals = signal.SIGTERM) -> None:
    """Returns when it is gone, for which it has 15 s before it is killed."""
    if process is None:
        return
    process.send(first)
    deadline = time.monotonic() + _STOP_S
    while process.alive:
        if time.monotonic() > deadline:
            process.send(signal.SIGKILL)
        time.sleep(_POLL_S)
    with suppress(ChildProcessError):  # it is our own child only if this process started it
        os.waitpid(process.pid, os.WNOHANG)


def _note_process(folder: LabFolder, **process: ProcessId) -> None:
    record = folder.record()
    if record is not None:
        folder.save(record.model_copy(update=process))


def _spawn(command: Sequence[str], log: Path, *inherited: int | None) -> ProcessId:
    """A process in a session of its own, which survives the shell and holds no folder busy."""
    kept = [descriptor for descriptor in inherited if descriptor is not None]
    for descriptor in kept:
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
        for descriptor in kept:
            os.set_inheritable(descriptor, False)
    return processes.identify(pid) or ProcessId(pid, 0)


def _wait(
    what: str,
    told: Callable[[], Told | None],
    process: ProcessId,
    folder: LabFolder,
    log: str,
) -> Told:
    end = time.monotonic() + _START_S
    while (answer := told()) is None:
        if not process.alive:
            raise LabError(f"{what} ended: {folder.last_words(log)}")
        if time.monotonic() > end:
            raise LabError(f"{what} is not there after {_START_S:g} s: {folder.last_words(log)}")
        time.sleep(_POLL_S)
    return answer
