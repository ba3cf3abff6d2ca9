"""What can go wrong with a run, on guests of the lab with real processes: all of it is survived.

Floods of output, signals, files that are too large or badly named, full disks, networks that are
cut, operators that are killed. A sample here; all moments and sizes in ``make soak``.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import CommandLine, Done
from lab_runs import WAITS, copy_of, detached, state, wait_for, waiting_project
from tcp_proxy import Proxy
from terminal import Terminal

Lab = Any
SUPPORT = Path(__file__).parent.parent / "support"
DRIVER = SUPPORT / "killed_run.py"
SMALL = "name: small\nextra_config: {guestinfo.lab.troubles: home-small}\n"


@pytest.fixture(scope="module", autouse=True)
def guests(lab: Lab) -> None:
    """Two of them, and one whose home is small."""
    plain = ("--accelerator", "none", "--until", "address")
    (lab.home / "small.yaml").write_text(SMALL)
    for which in (("--hosts", "2"), ("--hosts", "1", "--file", "small.yaml")):
        done = lab("provision", *which, *plain)
        assert done.exit_code == 0, done.stderr
    waiting_project(lab)


def program(lab: Lab, name: str, source: str) -> str:
    """A project of one file."""
    folder = lab.home / name
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(source)
    return f"{name}/{name}.py"


def run_id_of(output: str) -> str:
    found = re.search(r"^run ([^:\s]+):", output, re.MULTILINE)
    assert found, output
    return found[1]


def fetched(lab: Lab, run_id: str, vm: str = "gpuvm-01") -> Path:
    return Path(lab.home) / "runs" / run_id / vm


@pytest.fixture
def other(lab: Lab, tmp_path: Path) -> CommandLine:
    """Another operator: the same vCenter account and SSH key, nothing else of the first."""
    home = tmp_path / "other"
    for known in (".config/gpuvm", ".local/state/gpuvm/keys"):
        shutil.copytree(lab.home / known, home / known)
    shutil.copytree(lab.home / "mine", home / "mine")
    return CommandLine(home)


# Output.

PRINTS = """
line = "x" * 99 + "\\n"
for _ in range({megabytes} * 10_000):
    print(line, end="")
"""


def peak_kib(lab: Lab, *arguments: str) -> int:
    with (lab.home / "shown").open("w") as shown:
        done = subprocess.run(
            [sys.executable, str(SUPPORT / "peak_memory.py"), *arguments],
            cwd=lab.home,
            env=lab.environment,
            stdin=subprocess.DEVNULL,
            stdout=shown,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split()[-1])


def test_all_that_a_program_prints_is_in_the_log(lab: Lab) -> None:
    _prints(lab, 20)


@pytest.mark.soak
def test_all_that_a_program_prints_is_in_the_log_if_it_is_200_mb(lab: Lab) -> None:
    _prints(lab, 200)


def _prints(lab: Lab, megabytes: int) -> None:
    """And the operator's memory does not grow with it, neither now nor when it is read again."""
    least = peak_kib(lab, "run", program(lab, "little", PRINTS.format(megabytes=0)))
    flood = program(lab, "flood", PRINTS.format(megabytes=megabytes))
    most = peak_kib(lab, "run", flood)
    shown = (lab.home / "shown").read_text()
    assert shown.count("x" * 99) == megabytes * 10_000
    run_id = run_id_of(shown)
    log = (fetched(lab, run_id) / "stdout.log").read_bytes()
    whole = (b"x" * 99 + b"\n") * 10_000 * megabytes
    assert hashlib.sha256(log).digest() == hashlib.sha256(whole).digest()
    assert most - least < 16 << 10
    assert peak_kib(lab, "logs", run_id) - least < 16 << 10
    assert (lab.home / "shown").read_text().count("x" * 99) == megabytes * 10_000


def test_a_line_without_an_end(lab: Lab) -> None:
    source = 'print("y" * 20_000_000, end="")'
    least = peak_kib(lab, "run", program(lab, "little", ""))
    assert peak_kib(lab, "run", program(lab, "endless", source)) - least < 32 << 10
    shown = (lab.home / "shown").read_text()
    assert shown.count("y") >= 20_000_000
    assert (fetched(lab, run_id_of(shown)) / "stdout.log").stat().st_size == 20_000_000


# Ends.


def test_one_that_never_ends_is_cancelled(lab: Lab) -> None:
    source = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('on', flush=True)"
    process = lab.start("run", program(lab, "forever", f"{source}\nwhile True: pass"))
    run_id = run_id_of(process.stdout.readline() + process.stdout.readline())
    assert process.stdout.readline() == "on\n"
    done = lab("cancel", run_id, "--yes")
    assert done.exit_code == 0, done.stderr
    _, errors = process.communicate(timeout=60)
    assert "the worker on gpuvm-01 was cancelled" in errors
    assert state(lab, run_id) == "cancelled"
    assert (fetched(lab, run_id) / "stdout.log").read_text() == "on\n"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGSEGV, "was killed by SIGSEGV (status 139)"),
        (signal.SIGKILL, "was killed by SIGKILL (status 137)"),
    ],
)
def test_one_that_a_signal_kills(lab: Lab, number: int, said: str) -> None:
    source = f"import os; print('so far', flush=True); os.kill(os.getpid(), {int(number)})"
    done = lab("run", program(lab, "killed", source))
    assert done.exit_code == 1
    assert f"the worker on gpuvm-01 {said}" in done.stderr
    log = fetched(lab, run_id_of(done.stdout)) / "stdout.log"
    assert log.read_text() == "so far\n"


# Files.


def test_more_than_the_limit_is_named_and_stays(lab: Lab) -> None:
    source = """
import os, pathlib
with open("checkpoint.bin", "wb") as big:
    big.truncate(3 << 30)
pathlib.Path("model.txt").write_text("weights")
"""
    done = lab("run", program(lab, "large", source), "--fetch-limit", "10MB")
    assert done.exit_code == 0, done.stderr
    run_id = run_id_of(done.stdout)
    assert "gpuvm-01: project/checkpoint.bin: 3.22 GB not fetched" in done.stderr
    assert f"'gpuvm fetch {run_id} --fetch-limit none' fetches" in done.stderr
    folder = fetched(lab, run_id) / "project"
    assert [file.name for file in folder.iterdir()] == ["model.txt"]


def test_names_with_a_newline(lab: Lab) -> None:
    source = """
import pathlib
pathlib.Path("a\\nb.txt").write_text("both lines")
with open("big\\nwarning: gone\\x1b[2J", "wb") as big:
    big.truncate(20_000_000)
"""
    done = lab("run", program(lab, "newline", source), "--fetch-limit", "10MB")
    assert done.exit_code == 0, done.stderr
    folder = fetched(lab, run_id_of(done.stdout)) / "project"
    assert (folder / "a\nb.txt").read_text() == "both lines"
    assert "project/big warning: gone: 0.02 GB not fetched" in done.stderr
    assert "\x1b" not in done.stderr


# Answers for what gpuvm reads a run's files with; everything else is the guest's own Python.
MALICIOUS = """#!/bin/sh
case "$2" in
'\"\"\"send'*) exec {python} $HOME/bin/liar.py ;;
*) exec {python} "$@" ;;
esac
"""
LIAR = """
import hashlib, json, sys
names = ["../../../../evil", "/tmp/gpuvm-evil", "a/../../evil", "good"]
print("gpuvm-files")
print(json.dumps({"files": [[name, 4, 7] for name in names]}), flush=True)
for name, offset, _ in json.loads(sys.stdin.readline() or "[]"):
    print(json.dumps({"size": 4, "offset": 0, "time": 7}))
    print("evil", end="")
    print(json.dumps({"sha256": hashlib.sha256(b"evil").hexdigest()}), flush=True)
"""


def test_a_guest_that_answers_with_names_that_lead_elsewhere(lab: Lab) -> None:
    (home,) = (
        boot.parent / "disk/home/gpuvm"
        for boot in lab.home.rglob("guests/*/boot.json")
        if json.loads(boot.read_text())["vm"] == "gpuvm-02"
    )
    path = lab("exec", "--vm", "gpuvm-02", "--", "command -v python3").stdout.strip()
    (home / "bin").mkdir()
    (home / "bin/liar.py").write_text(LIAR)
    (home / "bin/python3").write_text(MALICIOUS.format(python=path))
    (home / "bin/python3").chmod(0o755)
    rc = home / ".bashrc"
    before = rc.read_text() if rc.exists() else ""
    rc.write_text('PATH="$HOME/bin:$PATH"\n')
    try:
        done = lab("run", program(lab, "fine", "print('fine')"), "--vm", "gpuvm-02")
    finally:
        rc.write_text(before)
    assert done.exit_code == 1
    assert "is outside its folder (and 2 more)" in done.stderr
    folder = fetched(lab, run_id_of(done.stdout), "gpuvm-02")
    assert (folder / "good").read_text() == "evil"
    assert not [file for file in lab.home.rglob("*evil*") if file.is_file()]
    assert not Path("/tmp/gpuvm-evil").exists()  # noqa: S108


# A full disk. The guest's home has 4 MiB.

FILLS = """
print("before", flush=True)
with open("big.bin", "wb") as big:
    while True:
        big.write(bytes(1 << 16))
        big.flush()
"""


def small(lab: Lab, *arguments: str) -> Done:
    done: Done = lab(*arguments, "--file", "small.yaml")
    return done


def test_a_disk_that_fills_up_is_said_and_the_log_is_kept(lab: Lab) -> None:
    done = small(lab, "run", program(lab, "fills", FILLS))
    assert done.exit_code == 1, done.stdout
    assert "the worker on small-01 ended with status 1" in done.stderr
    assert "the disk of small-01 is full; 'gpuvm runs prune' removes" in done.stderr
    run_id = run_id_of(done.stdout)
    folder = fetched(lab, run_id, "small-01")
    assert (folder / "stdout.log").read_text() == "before\n"
    listed = small(lab, "runs", "--json").json["data"]["runs"]
    assert next(run["state"] for run in listed if run["run_id"] == run_id) == "failed"
    again = small(lab, "run", program(lab, "fine", "print('fine')"))
    assert again.exit_code != 0
    assert "No space left on device" in again.stderr
    assert small(lab, "runs", "prune", "--older-than", "0m", "--yes").exit_code == 0
    assert small(lab, "run", program(lab, "fine", "print('fine')")).exit_code == 0


def test_a_log_that_fills_the_disk_is_kept_as_far_as_it_came(lab: Lab) -> None:
    source = 'while True: print("line " * 1000, flush=True)'
    done = small(lab, "run", program(lab, "chatty", source), "--quiet")
    assert done.exit_code == 1
    assert "the disk of small-01 is full" in done.stderr
    log = (fetched(lab, run_id_of(done.stdout), "small-01") / "stdout.log").read_bytes()
    assert len(log) > 1 << 20
    assert set(log.split()) <= {b"line", b"lin", b"li", b"l"}
    assert small(lab, "runs", "prune", "--older-than", "0m", "--yes").exit_code == 0


# Operators.


def test_the_second_operator_is_told_who_has_the_gpu(lab: Lab, other: CommandLine) -> None:
    run_id = detached(lab)
    busy = other("run", "mine/wait.py")
    assert busy.exit_code == 3
    assert f"gpuvm-01 is busy with run {run_id} (started by " in busy.stderr
    assert f"@{os.uname().nodename}" in busy.stderr
    for command in (f"gpuvm attach {run_id}", f"gpuvm cancel {run_id}", "--queue", "--share"):
        assert command in busy.stderr
    cancelled = other("cancel", run_id, "--yes")
    assert cancelled.exit_code == 0, cancelled.stderr
    assert state(lab, run_id) == "cancelled"


@dataclass(frozen=True)
class Kill:
    """``there``: the run is in the guest afterwards; ``ends``: its program ends by itself."""

    step: str
    moment: str
    there: bool
    ends: bool = False


KILLS = (
    Kill("launch", "sent", there=True),
    Kill("receive", "after", there=False),
    Kill("gpu_health", "after", there=False),
    Kill("receive", "before", there=False),
    Kill("launch", "before", there=False),
    Kill("launch", "after", there=True),
    Kill("follow", "before", there=True),
    Kill("follow", "after", there=True),
    Kill("kill", "after", there=True, ends=True),
    Kill("send", "after", there=True, ends=True),
)


def _name(kill: Kill) -> str:
    return f"{kill.step}-{kill.moment}"


@pytest.mark.parametrize("kill", KILLS[:2], ids=_name)
def test_an_operator_is_killed(lab: Lab, other: CommandLine, kill: Kill) -> None:
    _killed(lab, other, kill)


@pytest.mark.soak
@pytest.mark.parametrize("kill", KILLS[2:], ids=_name)
def test_an_operator_is_killed_at_any_moment(lab: Lab, other: CommandLine, kill: Kill) -> None:
    _killed(lab, other, kill)


def _killed(lab: Lab, other: CommandLine, kill: Kill) -> None:
    """Nothing is lost: from elsewhere it is found, fetched and cancelled, or the GPU is free."""
    source = "print('hello', flush=True)" if kill.ends else WAITS
    project = program(lab, "ends", source) if kill.ends else "mine/wait.py"
    done = subprocess.run(
        [
            sys.executable,
            str(SUPPORT / "killed_run.py"),
            kill.step,
            kill.moment,
            "--",
            "run",
            project,
        ],
        cwd=lab.home,
        env=lab.environment | {"PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, f"{kill} was not reached: {done.stderr}"
    run_id = run_id_of(done.stdout)

    def seen() -> str | None:
        listed = other("runs", "--json").json["data"]["runs"]
        return next((run["state"] for run in listed if run["run_id"] == run_id), None)

    if kill.there:
        expected = "succeeded" if kill.ends else "running"
        wait_for(lambda: seen() == expected, f"it is {expected}")
        wait_for(lambda: "hello" in other("logs", run_id).stdout, "it prints")
        copied = other("fetch", run_id, "--json")
        assert copied.exit_code == 0, copied.stderr
        log = Path(copied.json["data"]["dir"]) / "gpuvm-01/stdout.log"
        assert log.read_text().startswith("hello")
        cancelled = other("cancel", run_id, "--yes")
        assert cancelled.exit_code == (3 if kill.ends else 0), cancelled.stderr
        assert seen() == ("succeeded" if kill.ends else "cancelled")
    else:
        assert seen() is None
        assert other("attach", run_id).exit_code == 2, "there is nothing to attach to"
    assert lab("run", program(lab, "fine", "print('fine')")).exit_code == 0, "the GPU is free"
    assert other("runs", "prune", "--older-than", "0m", "--yes").exit_code == 0
    assert not list(lab.home.rglob(f"gpuvm-runs/{run_id}/*"))


# The network.

TALKS = """
import pathlib, time
for word in ("first", "second", "third"):
    print(word, flush=True)
    while not pathlib.Path(f"after-{word}").exists():
        time.sleep(0.02)
"""


@contextmanager
def over_a_network(lab: Lab, other: CommandLine) -> Iterator[Proxy]:
    """The other operator's way to the first guest is one that can be cut."""
    vms = lab("status", "--no-guests", "--json").json["data"]["vms"]
    address = next(vm["address"] for vm in vms if vm["vm"] == "gpuvm-01")
    context = other.home / ".config/gpuvm/contexts/lab.yaml"
    text = context.read_text()
    port = int(re.search(r"port: (\d+)", text)[1])  # type: ignore[index]
    proxy = Proxy(address, port)
    context.write_text(text.replace(f"port: {port}", f"port: {proxy.port}"))
    yield proxy
    proxy.thaw()
    proxy.cut()


def test_the_network_is_cut_and_comes_back(lab: Lab, other: CommandLine) -> None:
    with over_a_network(lab, other) as network:
        _goes_on(lab, other, network.cut, network.mend)


@pytest.mark.soak
def test_the_network_is_silent_and_comes_back(lab: Lab, other: CommandLine) -> None:
    """Nobody says that it is gone; it counts as gone after 20 s without a sign of life."""
    with over_a_network(lab, other) as network:
        _goes_on(lab, other, network.freeze, network.thaw)


def _goes_on(lab: Lab, other: CommandLine, cut: Any, mend: Any) -> None:
    program(lab, "talks", TALKS)
    shutil.copytree(lab.home / "talks", other.home / "talks")
    process = other.start("run", "talks/talks.py")
    assert process.stdout is not None
    assert process.stderr is not None
    run_id = run_id_of(process.stdout.readline() + process.stdout.readline())
    assert process.stdout.readline() == "first\n"
    cut()
    assert any("connection lost, reconnecting" in line for line in process.stderr)
    copy = copy_of(lab, run_id)
    (copy / "after-first").touch()
    log = copy.parent / "out/stdout.log"
    wait_for(lambda: log.read_text() == "first\nsecond\n", "it goes on meanwhile")
    mend()
    assert process.stdout.readline() == "second\n"
    for word in ("second", "third"):
        (copy / f"after-{word}").touch()
    shown, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert shown.startswith("third\n")
    assert (fetched(other, run_id) / "stdout.log").read_text() == "first\nsecond\nthird\n"


# Ctrl-C at a terminal.


def test_ctrl_c_at_a_terminal_asks(lab: Lab) -> None:
    with Terminal(lab, "run", "mine/wait.py") as terminal:
        run_id = run_id_of(terminal.read_until("hello").replace("\r", ""))
        terminal.press(b"\x03")
        terminal.read_until("Cancel the run, or leave it running?")
        terminal.press(b"leave\n")
        terminal.read_until(f"run {run_id} continues in its guests")
        terminal.read_until("'gpuvm attach")
        assert terminal.exit_code() == 0
    assert state(lab, run_id) == "running"
    with Terminal(lab, "attach", run_id) as terminal:
        terminal.read_until("train")
        terminal.press(b"\x03")
        terminal.read_until("Cancel the run, or leave it running?")
        terminal.press(b"cancel\n")
        terminal.read_until("the workload was ended in every guest")
        assert terminal.exit_code() == 130
    assert state(lab, run_id) in ("interrupted", "cancelled")
