"""Programs in a guest that outlive the SSH connection: launch, follow, end, list.

    launch(guest, python, process)
    for seen in follow(guest, python, directory, offsets): ...
    end_all(guest, python, mark)
    list_processes(guest, python, work_dir)

``python`` is the guest's interpreter; the scripts it runs are in ``gpuvm.guest.scripts``.
"""

import contextlib
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gpuvm.errors import GuestError, GuestUnreachable
from gpuvm.guest import scripts
from gpuvm.guest.ssh import Guest
from gpuvm.text import ago

STDOUT, STDERR = "out/stdout.log", "out/stderr.log"
GPU_SAMPLES = "out/gpu_samples.jsonl"
MARK = "GPUVM_RUN"
"""The environment variable that identifies the processes of a run."""
WORKER = "GPUVM_WORKER"
"""That of the position of a worker among those of a run."""
IDLE_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Process:
    """A program to launch.

    ``directory`` is the run's folder, relative to the home unless absolute; the folder above it is
    that of all runs. The program runs in ``cwd`` below it. ``without`` are names of environment
    variables, in any case, that it must not have; ``fresh`` are files that are removed first,
    unless it is started ``again``: then these and its output are appended to.
    ``gpu``: ``share`` the GPUs with whatever runs, have them ``exclusive`` or not at all, or wait
    in the ``queue`` at ``place`` (see ``take_place``), where nobody else gets ``port``. ``then`` is
    what the guest does afterwards, once no other run is alive and no operator has watched this one
    for ``unwatched_s``: one whose connection broke comes back in that time.
    """

    directory: str
    command: Sequence[str]
    mark: str
    environment: Mapping[str, str]
    without: Sequence[str] = ()
    fresh: Sequence[str] = ()
    cwd: str = "."
    gpu: Literal["share", "exclusive", "queue"] = "share"
    place: int = 0
    port: int | None = None
    then: Literal["shutdown"] | None = None
    unwatched_s: float = 20.0
    again: bool = False


@dataclass(frozen=True)
class Launched:
    """``ahead`` is the number of runs before it in the queue; 0 when it starts at once."""

    ahead: int = 0


@dataclass(frozen=True)
class Busy:
    """Not launched: ``run`` has the GPUs, or is before this one in the queue."""

    run: str


@dataclass(frozen=True)
class Listed:
    """A run as its guest lists it.

    ``state`` is ``lost`` when it ended without an exit status; ``rebooted`` is whether the guest
    has been rebooted since the start. Times are seconds ago by the guest's clock. ``manifest`` is
    ``run.json``, ``line`` the unchanged last line of its output.
    """

    run: str
    state: Literal["queued", "running", "ended", "lost"]
    manifest: Mapping[str, Any] | None
    ahead: int | None
    begun_ago_s: float | None
    ended_ago_s: float | None
    exit_status: int | None
    rebooted: bool
    cancelled: bool
    problem: str | None
    line: str

    @property
    def about(self) -> str:
        """Who started it and when, such as ``queued, started by ann@ws, 12 min ago``."""
        operator = (self.manifest or {}).get("operator")
        return ", ".join(
            part
            for part in (
                "queued" if self.state == "queued" else "",
                f"started by {operator}" if operator else "",
                "" if self.begun_ago_s is None else ago(self.begun_ago_s),
            )
            if part
        )


@dataclass(frozen=True)
class Output:
    """New bytes of a followed file; ``offset`` is where they end."""

    file: str
    offset: int
    data: bytes


@dataclass(frozen=True)
class Alive:
    """No new output, but the guest answers; ``queued``: the program has not started yet."""

    queued: bool = False


@dataclass(frozen=True)
class Exited:
    """Ended ``age_s`` ago; ``exit_status`` as in a shell, None when it vanished without one.

    ``rebooted``: the guest was rebooted since, which ended it; ``cancelled``: an operator ended it;
    ``disk_full``: so was the guest's disk when it ended.
    """

    exit_status: int | None
    age_s: float = 0.0
    rebooted: bool = False
    cancelled: bool = False
    disk_full: bool = False


def launch(guest: Guest, python: str, process: Process) -> Launched | Busy:
    """Start the program, or put it in the queue; its output goes to ``out/`` in its directory.

    Raises GuestError, also when its port is not free.
    """
    task = {
        "dir": process.directory,
        "cwd": process.cwd,
        "command": list(process.command),
        "env": {**process.environment, MARK: process.mark},
        "without": list(process.without),
        "files": [STDOUT, STDERR, GPU_SAMPLES, *process.fresh],
        "sampler": scripts.source("gpu_samples"),
        "samples": GPU_SAMPLES,
        "again": process.again,
        "gpu": process.gpu,
        "place": process.place,
        "port": process.port,
        "then": process.then,
        "unwatched_s": process.unwatched_s,
    }
    done = guest.script(
        python, "runs", "launch", stdin=json.dumps(task), timeout_s=60, what="launch"
    )
    answer = json.loads(done.stdout)
    if "taken" in answer:
        raise GuestError(
            f"{guest.name}: port {answer['taken']} was taken before the run could have it",
            hint="run it again: other ports are chosen",
        )
    return Busy(answer["busy"]) if "busy" in answer else Launched(answer.get("queued", 0))


def take_place(guest: Guest, python: str, work_dir: str, run: str) -> int:
    """Takes a provisional place in the guest's queue, held for a minute.

    A run on several guests is launched in all of them with the highest of its places, so that all
    guests start the same runs in the same order.
    """
    done = guest.script(python, "runs", "place", work_dir, run, timeout_s=60, what="queue")
    return int(json.loads(done.stdout)["place"])


def gpu_holder(guest: Guest, python: str, work_dir: str) -> str | None:
    """The run that has the guest's GPUs, or is next to have them; None when they are free."""
    done = guest.script(python, "runs", "holder", work_dir, timeout_s=60, what="look for runs")
    answer = json.loads(done.stdout)
    return None if answer["holder"] is None else str(answer["holder"])


def list_processes(guest: Guest, python: str, work_dir: str) -> list[Listed]:
    """All runs whose folders are in the guest, by name."""
    done = guest.script(python, "runs", "list", work_dir, timeout_s=60, what="list runs")
    return [_listed(json.loads(line)) for line in done.stdout.splitlines()]


def _listed(row: dict[str, Any]) -> Listed:
    def ago(when: float | None) -> float | None:
        return None if when is None else max(0.0, row["now"] - when)

    return Listed(
        run=row["run"],
        state=row["state"],
        manifest=row["manifest"],
        ahead=row["ahead"],
        begun_ago_s=ago(row["begun"]),
        ended_ago_s=ago(row["ended"]),
        exit_status=row["status"],
        rebooted=row["rebooted"],
        cancelled=row["cancelled"],
        problem=row["problem"],
        line=row["line"],
    )


def cancel(guest: Guest, python: str, work_dir: str, run: str) -> None:
    """End a run that is queued or running; it counts as cancelled from now on."""
    guest.script(python, "runs", "cancel", work_dir, run, timeout_s=60, what="cancel")
    end_all(guest, python, run)


def follow(
    guest: Guest, python: str, directory: str, offsets: Mapping[str, int]
) -> Generator[Output | Alive | Exited, None, None]:
    """Yield new content of the files from the offsets on, and finally how the program ended.

    Raises GuestUnreachable when the connection is lost; the program keeps running and can be
    followed again from the last offsets.
    """
    command = scripts.command(python, "runs", "follow", directory, json.dumps(dict(offsets)))
    for line in guest.stream(command, idle_timeout_s=IDLE_TIMEOUT_S):
        record = json.loads(line)
        if "exit" in record:
            yield _exited(record)
            return
        if "file" in record:
            data = record["data"].encode("utf-8", "surrogateescape")
            yield Output(record["file"], record["offset"], data)
        else:
            yield Alive(record.get("queued", False))
    raise GuestUnreachable(f"{guest.name}: following the run's output ended unexpectedly")


def mark_project(guest: Guest, python: str, directory: str) -> None:
    """Record the files of the project's copy, for ``collect_project``."""
    _project_files(guest, python, "mark", directory)


def collect_project(guest: Guest, python: str, directory: str) -> None:
    """Link new and changed files of the project's copy below ``out/project``."""
    _project_files(guest, python, "collect", directory)


def _project_files(guest: Guest, python: str, verb: str, directory: str) -> None:
    what = f"{verb} the project's files"
    guest.script(python, "project_files", verb, directory, timeout_s=600, what=what)


@dataclass(frozen=True)
class PrunedRuns:
    """The names of both; an environment goes with the last run that uses it."""

    runs: tuple[str, ...]
    environments: tuple[str, ...]


def prune(guest: Guest, python: str, work_dir: str, *, older_than_s: float) -> PrunedRuns:
    """Remove the folders of runs that ended at least so long ago."""
    done = guest.script(
        python, "runs", "prune", work_dir, str(older_than_s), timeout_s=600, what="prune runs"
    )
    gone = [json.loads(line) for line in done.stdout.splitlines()]
    return PrunedRuns(
        tuple(one["removed"] for one in gone if "removed" in one),
        tuple(one["environment"] for one in gone if "environment" in one),
    )


@contextlib.contextmanager
def hold(guest: Guest, python: str, work_dir: str, run: str) -> Iterator[None]:
    """Keep the guest from shutting down after the run while the block runs."""
    command = scripts.command(python, "runs", "hold", work_dir, run)
    with guest.start(command, idle_timeout_s=IDLE_TIMEOUT_S) as held:
        held.line()
        yield


def _exited(record: dict[str, Any]) -> Exited:
    return Exited(
        record["exit"],
        record.get("age", 0.0),
        rebooted=record.get("rebooted", False),
        cancelled=record.get("cancelled", False),
        disk_full=record.get("full", False),
    )


def end_all(guest: Guest, python: str, mark: str, *, worker: int | None = None) -> None:
    """End every process with the mark in its environment, daemons included.

    With ``worker`` only those of that worker. Raises GuestError naming the process ids that survive
    SIGKILL.
    """
    marks = [f"{MARK}={mark}", *([] if worker is None else [f"{WORKER}={worker}"])]
    done = guest.script(python, "kill", *marks, timeout_s=60, what="kill")
    survivors = done.stdout.split()
    if survivors:
        raise GuestError(f"{guest.name}: could not end these processes: {', '.join(survivors)}")
