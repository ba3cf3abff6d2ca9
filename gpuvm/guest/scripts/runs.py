"""runs COMMAND [ARGUMENT...]: the runs of one guest; all output is JSON.

    launch < TASK       start a program that outlives the SSH connection
    place WORK RUN      take a provisional place in the queue
    holder WORK         the run that a new one would have to wait for
    list WORK           one line for each run
    prune WORK SECONDS  remove the folders of runs that ended so long ago, and the Python
                        environments that no run uses any more; one line for each
    cancel WORK RUN     note that the run was cancelled, so that a queued one gives up
    hold WORK RUN       keep the guest from shutting down until standard input ends
    follow DIR OFFSETS  print new content of a run's files until its program has ended

WORK is the folder of all runs, WORK/RUN the folder of one:
    run.json            the run as its operator described it; opaque here
    supervisor.lock     locked while the run's supervisor lives: unlike a process id, a lock means
                        nothing after a reboot
    begun               JSON, when the program was started (t) and in which boot of the guest
    exit_status         JSON, the program's status as a shell has it (128 + signal), when (t), and
                        whether the disk was full then; room for it is kept from the start
    cancelled           there when somebody cancelled the run
    watched.lock        locked, shared, by operators who still need the guest
    out/                the program's output
    environment         the key of the Python environment that it uses, if it has one
WORK/envs/KEY are these environments, and KEY.lock beside it is locked while it is made.
WORK/queue/ has the places in the queue, and ``gpu.lock``, locked by the run that has the GPUs.

TASK is JSON: dir (WORK/RUN), cwd (below it), command, env, without (environment variables to drop),
files (stdout, stderr and what else is to be removed first, or with again: to be appended to),
sampler (the text of gpu_samples.py) and samples (the file it writes), gpu (share, exclusive or
queue), place
(in the queue), port (to be kept for it while it is in the queue, or null), then (shutdown, or null)
and unwatched_s: how long nobody may have watched an ended run before its guest shuts down.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CANNOT_START = 127
FULL = 1 << 20
"""A disk with fewer bytes free."""
ROOM = 256
PROVISIONAL_S = 60.0
"""How long a place is held before the run is launched."""
POLL_S = 0.5
EXIT_S = 5.0
SAMPLER_END_S = 5.0
TAIL = 4096
CHUNK = 1 << 16
FOLLOW_S = (0.02, 0.2)
"""How long nothing new is waited for: at first, for a program that ends at once, and later."""
HEARTBEAT_S = 2.0
POWER_OFF = (
    ("sudo", "-n", "shutdown", "-h", "now"),
    ("sudo", "-n", "systemctl", "poweroff"),
    ("systemctl", "poweroff"),
)


def main() -> None:
    command, *arguments = sys.argv[1:]
    commands[command](*arguments)


# Launch. A supervisor in its own session waits for the GPUs and for the program.


def launch() -> None:
    """Print {"started": true}, {"queued": how many are ahead}, {"busy": run} or {"taken": port}."""
    task = json.loads(sys.stdin.read())
    folder = Path(task["dir"]).absolute()
    (folder / "out").mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    supervisor, end = locked("supervisor.lock", fcntl.LOCK_EX), time.monotonic() + EXIT_S
    while supervisor is None and Path("exit_status").exists() and time.monotonic() < end:
        time.sleep(0.02)  # the one before has nothing to do but to exit
        supervisor = locked("supervisor.lock", fcntl.LOCK_EX)
    if supervisor is None:
        print_json({"busy": folder.name})
        return
    for stale in ("exit_status", "begun", "cancelled", *([] if task["again"] else task["files"])):
        with contextlib.suppress(FileNotFoundError):
            Path(stale).unlink()
    for kept in task["files"]:
        end_line(Path(kept))
    Path("exit_status.new").write_bytes(bytes(ROOM))
    try:
        port = reserved(task["port"])
    except OSError:
        print_json({"taken": task["port"]})
        return
    queue = Queue(folder.parent)
    answer, gpus = claim(queue, folder.name, task)
    print_json(answer)
    if "busy" not in answer:
        sys.stdout.flush()
        if os.fork():
            os._exit(0)  # the locks stay: the supervisor has them too
        supervisor_main(folder, queue, task, gpus, port)


def end_line(file: Path) -> None:
    """What a program wrote that was killed in the middle of a line must not begin the next."""
    with contextlib.suppress(FileNotFoundError), file.open("rb+") as written:
        size = written.seek(0, os.SEEK_END)
        written.seek(max(0, size - 1))
        if size and written.read(1) != b"\n":
            written.write(b"\n")


def claim(queue: Queue, run: str, task: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
    """Returns the answer, and the open lock of the GPUs if the run has it."""
    if task["gpu"] == "exclusive":
        gpus, holder = queue.take_gpus(run)
        return ({"busy": holder} if gpus is None else {"started": True}), gpus
    if task["gpu"] == "queue":
        return {"queued": queue.confirm(run, task["place"])}, None
    return {"started": True}, None


def reserved(port: int | None) -> socket.socket | None:
    """The port, bound on every address as TensorFlow binds it. Nobody is let in: those that start
    first are refused, as they are before a program listens.
    """
    if port is None:
        return None
    try:
        held = socket.socket(socket.AF_INET6)
        held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    except OSError:  # a kernel without IPv6
        held = socket.socket(socket.AF_INET)
    held.bind(("", port))
    return held


def supervisor_main(
    folder: Path,
    queue: Queue,
    task: dict[str, Any],
    gpus: int | None,
    port: socket.socket | None,
) -> None:
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):  # else the SSH session would not end
        os.dup2(null, number)
    if task["gpu"] == "queue":
        gpus = queue.wait(folder.name)
        if gpus is None:
            leave_status(128 + signal.SIGTERM)
            return
    try:
        write_json("begun", {"t": time.time(), "boot": boot()})
        if port is not None:
            port.close()
        status = supervise(task, null)
    except OSError:  # neither a record nor a log can be written
        status = CANNOT_START
    leave_status(status)
    if gpus is not None:
        os.close(gpus)
    if task["then"] == "shutdown":
        shut_down(folder, task["unwatched_s"])


def supervise(task: dict[str, Any], null: int) -> int:
    unwanted = {name.lower() for name in task["without"]}
    env = {k: v for k, v in os.environ.items() if k.lower() not in unwanted}
    env.update({"GPUVM_OUT": str(Path("out").absolute()), "GPUVM_RUN_ID": Path.cwd().name})
    env.update(task["env"])
    stdout, stderr = (Path(name) for name in task["files"][:2])
    with stdout.open("ab") as out, stderr.open("ab") as err, gpus_sampled(task, null):
        try:
            status = subprocess.call(
                task["command"], cwd=task["cwd"], env=env, stdin=null, stdout=out, stderr=err
            )
        except OSError as error:
            err.write(f"{error}\n".encode())
            return CANNOT_START
    return status if status >= 0 else 128 - status


@contextlib.contextmanager
def gpus_sampled(task: dict[str, Any], null: int) -> Iterator[None]:
    """Record how the GPUs are used. The sampler ends when its standard input does, at the latest
    with this process; its file is complete before there is an exit status.
    """
    command = [sys.executable, "-I", "-c", task["sampler"], "--out", task["samples"]]
    try:
        sampler = subprocess.Popen(
            [*command, "--while-stdin"], stdin=subprocess.PIPE, stdout=null, stderr=null
        )
    except OSError:  # no memory for it: the program matters more
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            sampler.communicate(timeout=SAMPLER_END_S)
        sampler.kill()


def leave_status(status: int) -> None:
    """Into the room that was kept for it: the disk may be full."""
    disk = os.statvfs(".")
    full = disk.f_bavail * disk.f_frsize < FULL
    text = json.dumps({"status": status, "t": time.time(), "full": full})
    with Path("exit_status.new").open("r+", encoding="ascii") as file:
        file.write(text.ljust(ROOM))
    Path("exit_status.new").replace("exit_status")


def shut_down(folder: Path, unwatched_s: float) -> None:
    """Power off when no other run is alive and no operator needs the guest."""
    work, unwatched_since = folder.parent, time.monotonic()
    while True:
        others = [run for run in runs(work) if run != folder and alive(run)]
        if others or watched(folder):
            unwatched_since = time.monotonic()
        elif time.monotonic() - unwatched_since > unwatched_s:
            break
        time.sleep(POLL_S)
    problems = []
    for command in POWER_OFF:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            problems.append(str(error))
            continue
        if done.returncode == 0:
            return
        problems.append(done.stderr.strip() or f"{command[0]}: status {done.returncode}")
    write_json("shutdown_failed", {"t": time.time(), "problem": problems[0]})


def hold(work: str, run: str) -> None:
    with (Path(work) / run / "watched.lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        print_json({"held": True})
        sys.stdout.flush()
        sys.stdin.read()


def watched(folder: Path) -> bool:
    lock = locked(str(folder / "watched.lock"), fcntl.LOCK_EX)
    if lock is None:
        return True
    os.close(lock)
    return False


# The queue. A run on several guests must be ahead of the same runs in each, or two runs could wait
# for each other forever. A guest first assigns a provisional place; the operator confirms the
# highest of all guests' places in each of them, and a guest starts no run while there is an earlier
# provisional place (Skeen's algorithm for a total order).


class Queue:
    def __init__(self, work: Path) -> None:
        self.work, self.folder = work, work / "queue"
        self.folder.mkdir(parents=True, exist_ok=True)

    def take_gpus(self, run: str) -> tuple[int | None, str]:
        """Returns the open lock of the GPUs, or None and the run that is before this one."""
        with self.exclusive():
            ahead = self.places()
            if ahead:
                return None, ahead[0]["run"]
            return self._lock_gpus(run)

    def holder(self) -> str | None:
        with self.exclusive():
            ahead = self.places()
            if ahead:
                return str(ahead[0]["run"])
            gpus, holder = self._lock_gpus("")
            if gpus is None:
                return holder
            os.close(gpus)
            return None

    def provisional(self, run: str) -> int:
        with self.exclusive():
            number = self._latest() + 1
            self._write(run, number, confirmed=False)
        return number

    def confirm(self, run: str, number: int) -> int:
        """Return how many runs are ahead, including the one that has the GPUs."""
        with self.exclusive():
            self._write(run, number, confirmed=True)
            names = [place["run"] for place in self.places(keep=run)]
            gpus, _ = self._lock_gpus(run)
            if gpus is not None:
                os.close(gpus)
            return names.index(run) + (gpus is None)

    def wait(self, run: str) -> int | None:
        """Wait for the GPUs and return their lock; None when the run was cancelled."""
        while not Path("cancelled").exists():
            with self.exclusive():
                first = self.places()[0]
                if first["run"] == run:
                    gpus, _ = self._lock_gpus(run)
                    if gpus is not None:
                        (self.folder / f"{run}.json").unlink()
                        return gpus
            time.sleep(POLL_S)
        (self.folder / f"{run}.json").unlink()
        return None

    def places(self, keep: str = "") -> list[dict[str, Any]]:
        """In order; removes places of runs that are gone."""
        found = []
        for file in self.folder.glob("*.json"):
            place = read(file)
            if place is None:
                continue
            run = self.work / place["run"]
            young = not place["confirmed"] and time.time() - place["t"] < PROVISIONAL_S
            if young or place["run"] == keep or alive(run):
                found.append(place)
            else:
                file.unlink()
        return sorted(found, key=lambda place: (place["number"], place["run"]))

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        with (self.folder / "changing.lock").open("w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _lock_gpus(self, run: str) -> tuple[int | None, str]:
        file = self.folder / "gpu.lock"
        lock = locked(str(file), fcntl.LOCK_EX)
        if lock is None:
            return None, file.read_text(encoding="utf-8")
        os.ftruncate(lock, 0)
        os.write(lock, run.encode())
        return lock, run

    def _write(self, run: str, number: int, *, confirmed: bool) -> None:
        place = {"run": run, "number": number, "confirmed": confirmed, "t": time.time()}
        write_json(str(self.folder / f"{run}.json"), place)
        write_json(str(self.folder / "latest"), {"number": max(number, self._latest())})

    def _latest(self) -> int:
        return int((read(self.folder / "latest") or {"number": 0})["number"])


def take_place(work: str, run: str) -> None:
    print_json({"place": Queue(Path(work)).provisional(run)})


def holder(work: str) -> None:
    print_json({"holder": Queue(Path(work)).holder()})


def cancel(work: str, run: str) -> None:
    (Path(work) / run / "cancelled").touch()


# Follow.


def follow(directory: str, begin: str) -> None:
    """Print a JSON object a line; ``begin`` is JSON, a byte offset for each file.

        {"file": "out/stdout.log", "offset": 120, "data": "…"}    bytes up to that offset
        {}                                                         running, nothing new
        {"queued": true}                                           not started yet
        {"exit": 0, "age": 0.1}                                    ended, age in seconds
        {"exit": null, "rebooted": true}                           gone without an exit status

    Bytes that are not UTF-8 are lone surrogates (PEP 383).
    """
    folder, offsets = Path(directory).absolute(), json.loads(begin)
    os.chdir(folder)
    last_output = 0.0  # the first time that nothing is new is said at once
    pause = FOLLOW_S[0]
    while True:
        # Checked before the files are read, so that all output is read below.
        end = ending(folder)
        new = [name for name in offsets if print_new(name, offsets)]
        if new:
            last_output = time.monotonic()
        elif end is not None:
            print_json(end)
            return
        else:
            if time.monotonic() - last_output > HEARTBEAT_S:
                last_output = time.monotonic()
                print_json({} if (folder / "begun").exists() else {"queued": True})
            time.sleep(pause)
            pause = min(1.5 * pause, FOLLOW_S[1])
        sys.stdout.flush()


def ending(folder: Path) -> dict[str, Any] | None:
    """How the run's program ended; None while its supervisor is alive."""
    for _ in range(2):  # it may end between the two checks
        left = read(folder / "exit_status")
        if left is not None:
            age = max(0.0, time.time() - left["t"])
            return {
                "exit": left["status"],
                "age": age,
                "cancelled": is_cancelled(folder),
                "full": left["full"],
            }
        if alive(folder):
            return None
    return {"exit": None, "rebooted": rebooted(folder)}


def print_new(name: str, offsets: dict[str, int]) -> bool:
    try:
        with Path(name).open("rb") as file:
            # Less than was read before: its end was lost with the power.
            offsets[name] = min(offsets[name], file.seek(0, os.SEEK_END))
            file.seek(offsets[name])
            data = file.read(CHUNK)
    except FileNotFoundError:
        return False
    if data:
        offsets[name] += len(data)
        text = data.decode("utf-8", "surrogateescape")
        print_json({"file": name, "offset": offsets[name], "data": text})
    return bool(data)


# List and prune.


def list_runs(directory: str) -> None:
    work = Path(directory)
    queue = Queue(work)
    with queue.exclusive():
        ahead = [place["run"] for place in queue.places()]
    for folder in runs(work):
        print_json(describe(folder, ahead))


def prune(work: str, older_than_s: str) -> None:
    for folder in sorted(file.parent for file in Path(work).glob("*/run.json")):
        lock = locked(str(folder / "supervisor.lock"), fcntl.LOCK_EX)
        if lock is None:
            continue  # running or queued
        ended = read(folder / "exit_status") or read(folder / "begun")
        ended = ended or {"t": (folder / "run.json").stat().st_mtime}
        if time.time() - ended["t"] >= float(older_than_s):
            shutil.rmtree(folder)
            print_json({"removed": folder.name})
        os.close(lock)
    prune_environments(Path(work))


def prune_environments(work: Path) -> None:
    for file in sorted(work.glob("envs/*.lock")):
        lock = locked(str(file), fcntl.LOCK_EX)
        if lock is None:
            continue  # it is being made
        folder, used = file.with_suffix(""), set()
        for user in work.glob("*/environment"):
            with contextlib.suppress(FileNotFoundError):  # somebody else prunes, too
                used.add(user.read_text(encoding="ascii"))
        if folder.is_dir() and folder.name not in used:
            shutil.rmtree(folder)
            print_json({"environment": folder.name})
        os.close(lock)


def runs(work: Path) -> list[Path]:
    return sorted(lock.parent for lock in work.glob("*/supervisor.lock"))


def describe(folder: Path, ahead: list[str]) -> dict[str, Any]:
    """``state`` is queued, running, ended, or lost (without an exit status)."""
    is_alive = alive(folder)
    begun, ended = read(folder / "begun"), read(folder / "exit_status")
    state = "ended" if ended else "lost" if not is_alive else "running" if begun else "queued"
    return {
        "run": folder.name,
        "manifest": read(folder / "run.json"),
        "state": state,
        "ahead": ahead.index(folder.name) + 1 if folder.name in ahead else None,
        "begun": begun and begun["t"],
        "ended": ended and ended["t"],
        "status": ended and ended["status"],
        "rebooted": rebooted(folder),
        "cancelled": is_cancelled(folder),
        "problem": (read(folder / "shutdown_failed") or {}).get("problem"),
        "now": time.time(),
        "line": last_line(folder),
    }


def is_cancelled(folder: Path) -> bool:
    return (folder / "cancelled").exists()


def last_line(folder: Path) -> str:
    files = [file for file in (folder / "out").glob("std*.log") if file.stat().st_size]
    if not files:
        return ""
    with max(files, key=lambda file: file.stat().st_mtime).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        lines = file.read().decode("utf-8", "replace").replace("\r", "\n").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "")[-200:]


def alive(folder: Path) -> bool:
    """Whether the run's supervisor is alive."""
    if not (folder / "supervisor.lock").exists():
        return False
    lock = locked(str(folder / "supervisor.lock"), fcntl.LOCK_SH)
    if lock is None:
        return True
    os.close(lock)
    return False


def rebooted(folder: Path) -> bool:
    """Whether the guest has been rebooted since the program began."""
    begun = read(folder / "begun")
    return begun is not None and begun["boot"] != boot()


def boot() -> str:
    """Identifies the boot; also in a container, whose kernel is not rebooted."""
    kernel = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    first = Path("/proc/1/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    return f"{kernel}-{first}"


def locked(file: str, kind: int) -> int | None:
    """Opens and locks the file; None when another process has locked it."""
    lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def read(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_json(file: str, what: dict[str, Any]) -> None:
    """Write the file atomically."""
    new = Path(f"{file}.new")
    new.write_text(json.dumps(what), encoding="utf-8")
    new.replace(file)


def print_json(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")


commands: dict[str, Callable[..., None]] = {
    "launch": launch,
    "place": take_place,
    "holder": holder,
    "list": list_runs,
    "prune": prune,
    "cancel": cancel,
    "hold": hold,
    "follow": follow,
}
main()
