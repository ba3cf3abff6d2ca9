"""A program in a guest that outlives the SSH connection: launch, follow, end.

    launch(guest, python, process)
    for seen in follow(guest, python, directory, offsets): ...
    end_all(guest, python, mark)

``python`` is the guest's own; what it runs for us is in ``gpuvm.guest.scripts``.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gpuvm.errors import GuestError, GuestUnreachable
from gpuvm.guest import scripts
from gpuvm.guest.ssh import Guest

STDOUT, STDERR = "out/stdout.log", "out/stderr.log"
MARK = "GPUVM_RUN"
"""The environment variable by which the processes of a run are known."""
SILENT_S = 20.0


@dataclass(frozen=True)
class Process:
    """``directory`` is where it runs, below the home unless absolute; ``without`` are names of
    environment variables, in any case, that it must not have; ``anew`` are files to begin anew.
    """

    directory: str
    command: Sequence[str]
    mark: str
    environment: Mapping[str, str]
    without: Sequence[str] = ()
    anew: Sequence[str] = ()


@dataclass(frozen=True)
class Output:
    """New bytes of a followed file; ``offset`` is where they end."""

    file: str
    offset: int
    data: bytes


@dataclass(frozen=True)
class Alive:
    """Nothing new, but the guest answers."""


@dataclass(frozen=True)
class Exited:
    """``age_s`` ago; ``exit_status`` as a shell has it, None when it is gone without one."""

    exit_status: int | None
    age_s: float = 0.0


def launch(guest: Guest, python: str, process: Process) -> None:
    """Returns when it is started; its output goes to ``out/`` in its directory."""
    task = {
        "dir": process.directory,
        "command": list(process.command),
        "env": {**process.environment, MARK: process.mark},
        "without": list(process.without),
        "files": [STDOUT, STDERR, *process.anew],
    }
    command = scripts.command(python, "launch")
    guest.run(command, timeout_s=60, stdin=json.dumps(task).encode(), what="launch")


def follow(
    guest: Guest, python: str, directory: str, offsets: Mapping[str, int]
) -> Iterator[Output | Alive | Exited]:
    """What is new in the files from the offsets on, and last how it ended.

    Raises GuestUnreachable when the connection breaks; the program goes on, and following can go
    on over another connection from the last offsets.
    """
    command = scripts.command(python, "follow", directory, json.dumps(dict(offsets)))
    for line in guest.stream(command, silent_s=SILENT_S):
        said = json.loads(line)
        if "exit" in said:
            yield Exited(said["exit"], said.get("age", 0.0))
            return
        if "file" in said:
            data = said["data"].encode("utf-8", "surrogateescape")
            yield Output(said["file"], said["offset"], data)
        else:
            yield Alive()
    raise GuestUnreachable(f"{guest.name}: the run's files cannot be followed any more")


def end_all(guest: Guest, python: str, mark: str) -> None:
    """Ends every process of the mark, however it moved away from its parent.

    Raises GuestError naming the process ids that survive even SIGKILL.
    """
    command = scripts.command(python, "kill", f"{MARK}={mark}")
    survivors = guest.run(command, timeout_s=60, what="kill").stdout.split()
    if survivors:
        raise GuestError(f"{guest.name}: these processes cannot be ended: {', '.join(survivors)}")
