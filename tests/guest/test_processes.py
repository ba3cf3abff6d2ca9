"""Programs that outlive the connection: launched, followed, ended; and what carries their files."""

import json
import os
import signal
from dataclasses import replace
from typing import Any

import pytest
from ssh_servers import new_mark

from gpuvm import guest
from gpuvm.errors import CommandFailed, GuestError, GuestUnreachable
from gpuvm.guest import Exited, Output, Process
from gpuvm.guest.processes import STDERR, STDOUT

Machine = Any  # tests/support/ssh_servers.py

MARK, OTHER_MARK = new_mark(), new_mark()

SAYS_AND_WAITS = """
import os, pathlib, sys, time
print("begun", os.getsid(0) == os.getppid(), flush=True)
while not pathlib.Path("go on").exists():
    time.sleep(0.02)
print("done \\u00e9", flush=True)
print("oops", file=sys.stderr, flush=True)
sys.exit(7)
"""
# A program that detaches: another fork, its own session and folder, SIGTERM ignored.
HIDES = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    subprocess.call(["sleep", "1000"])
print("hidden", flush=True)
time.sleep(1000)
"""


def program(source: str, **changes: Any) -> Process:
    process = Process("runs/one", ["python3", "-c", source], MARK, {"GREETING": "it's 1"})
    return replace(process, **changes)


def until(one: Any, text: bytes, offsets: dict[str, int] | None = None) -> dict[str, int]:
    """Follows until the text has come; where the files were read to."""
    offsets = offsets or {STDOUT: 0, STDERR: 0}
    seen = b""
    news = guest.follow(one, "python3", "runs/one", offsets)
    while text not in seen:
        item = next(news)
        assert not isinstance(item, Exited), seen
        if isinstance(item, Output):
            offsets[item.file] = item.offset
            seen += item.data
    news.close()
    return offsets


def rest(one: Any, offsets: dict[str, int] | None = None) -> tuple[dict[str, bytes], Exited]:
    """What comes from the offsets on, and how it ended."""
    seen = {STDOUT: b"", STDERR: b""}
    for item in guest.follow(one, "python3", "runs/one", offsets or {STDOUT: 0, STDERR: 0}):
        if isinstance(item, Exited):
            return seen, item
        if isinstance(item, Output):
            seen[item.file] += item.data
    raise AssertionError("following ends with how it ended")


def test_it_survives_a_broken_connection_and_following_continues(
    machine: Machine,
) -> None:
    with guest.connect(machine.endpoint) as one:
        guest.launch(one, "python3", program(SAYS_AND_WAITS))
        offsets = until(one, b"begun True\n")
        machine.cut()
        with pytest.raises(GuestUnreachable):
            rest(one, offsets)
    (machine.home / "runs/one/go on").touch()
    with guest.connect(machine.endpoint) as one:
        seen, ended = rest(one, offsets)
        assert seen == {STDOUT: "done é\n".encode(), STDERR: b"oops\n"}
        assert ended.exit_status == 7
        assert rest(one)[0][STDOUT] == "begun True\ndone é\n".encode()


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("import sys; sys.exit(0)", 0),
        ("import sys; sys.exit(3)", 3),
        ("raise SystemExit('no luck')", 1),
        ("import os; os.kill(os.getpid(), 9)", 137),
        ("import os; os.abort()", 134),
    ],
)
def test_exit_status_is_correct(machine: Machine, source: str, status: int) -> None:
    with guest.connect(machine.endpoint) as one:
        guest.launch(one, "python3", program(source))
        assert rest(one)[1].exit_status == status


def test_a_program_that_cannot_be_started(machine: Machine) -> None:
    with guest.connect(machine.endpoint) as one:
        guest.launch(one, "python3", program("", command=["no-such-program"]))
        seen, ended = rest(one)
    assert ended.exit_status == 127
    assert b"no-such-program" in seen[STDERR]


def test_one_that_is_started_again_adds_to_its_output(machine: Machine) -> None:
    with guest.connect(machine.endpoint) as one:
        guest.launch(one, "python3", program("print('whole'); print('broken off', end='')"))
        rest(one)
        guest.launch(one, "python3", program("print('again')", again=True))
        assert rest(one)[0][STDOUT] == b"whole\nbroken off\nagain\n"
        guest.launch(one, "python3", program("print('anew')"))
        assert rest(one)[0][STDOUT] == b"anew\n"


def test_its_environment(machine: Machine) -> None:
    machine.environment |= {"http_proxy": "http://127.0.0.1:1", "No_Proxy": "x", "KEPT": "yes"}
    source = "import os, json; print(json.dumps(dict(os.environ)))"
    with guest.connect(machine.endpoint) as one:
        process = program(source, without=("http_proxy", "no_proxy"))
        guest.launch(one, "python3", process)
        environment = json.loads(rest(one)[0][STDOUT])
    assert environment["GREETING"] == "it's 1"
    assert environment["KEPT"] == "yes"
    assert not {"http_proxy", "no_proxy"} & {name.lower() for name in environment}


def test_bytes_come_as_they_are(machine: Machine) -> None:
    source = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 1024)"
    with guest.connect(machine.endpoint) as one:
        guest.launch(one, "python3", program(source))
        assert rest(one)[0][STDOUT] == bytes(range(256)) * 1024


def test_stopping_it_stops_the_whole_process_tree(machine: Machine, wait_for: Any) -> None:
    with guest.connect(machine.endpoint) as one:
        guest.launch(one, "python3", program(HIDES))
        other = program("import time; time.sleep(1000)", directory="runs/two", mark=OTHER_MARK)
        guest.launch(one, "python3", other)
        until(one, b"hidden")
        wait_for(lambda: len(machine.processes()) >= 6, "all of them are there")
        guest.end_all(one, "python3", MARK)
        assert rest(one)[1].exit_status == 137
        # What is left: the other's supervisor, the other, and what serves our connection.
        wait_for(lambda: len(machine.processes()) == 3, "only the other run is there")
        guest.end_all(one, "python3", MARK)
        guest.end_all(one, "python3", OTHER_MARK)
    wait_for(lambda: not machine.processes(), "nothing is left")


def test_one_interpreter_serves_a_connection(machine: Machine) -> None:
    starts = machine.home / "starts"
    machine.program("counted", f'echo >> {starts}; exec python3 "$@"')
    with guest.connect(machine.endpoint) as one:
        guest.launch(one, "counted", program("import time; time.sleep(1000)"))
        for _ in range(3):
            assert [seen.run for seen in guest.list_processes(one, "counted", "runs")] == ["one"]
        guest.end_all(one, "counted", MARK)
    assert starts.read_text().count("\n") == 1


def test_a_script_that_takes_too_long_is_ended_and_others_go_on(machine: Machine) -> None:
    with guest.connect(machine.endpoint) as one:
        guest.launch(one, "python3", program("import time; time.sleep(1000)"))
        with pytest.raises(GuestError, match="'wait' timed out after 1 s"):
            one.script("python3", "runs", "follow", "runs/one", "{}", timeout_s=1, what="wait")
        guest.end_all(one, "python3", MARK)
        with pytest.raises(CommandFailed, match="No such file"):
            one.script("python3", "runs", "follow", "runs/no", "{}", timeout_s=9, what="follow")


def test_an_interpreter_that_was_killed_is_started_again(machine: Machine) -> None:
    with guest.connect(machine.endpoint) as one:
        assert guest.list_processes(one, "python3", "runs") == []
        (serving,) = machine.processes()
        os.kill(serving, signal.SIGKILL)
        with pytest.raises(CommandFailed, match="list runs"):
            guest.list_processes(one, "python3", "runs")
        assert guest.list_processes(one, "python3", "runs") == []


def test_program_that_ends_without_status_is_reported(machine: Machine) -> None:
    """As after a reset of the VM: no process was left to write one."""
    with guest.connect(machine.endpoint) as one:
        guest.launch(one, "python3", program("import os, time; os.kill(os.getppid(), 9)"))
        assert rest(one)[1].exit_status is None


def test_program_without_output_is_still_followed(machine: Machine) -> None:
    with guest.connect(machine.endpoint) as one:
        guest.launch(one, "python3", program(SAYS_AND_WAITS))
        offsets = until(one, b"begun")
        following = guest.follow(one, "python3", "runs/one", offsets)
        assert isinstance(next(following), guest.Alive)
        (machine.home / "runs/one/go on").touch()
        assert next(item for item in following if isinstance(item, Exited)).exit_status == 7


def test_unlaunched_process_cannot_be_followed(machine: Machine) -> None:
    """It is no broken connection, which would be tried again."""
    with guest.connect(machine.endpoint) as one, pytest.raises(CommandFailed, match="runs/one"):
        rest(one)
