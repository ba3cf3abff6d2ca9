"""The runs of one guest: which one has the GPUs, which ones wait, and the state of each."""

import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpuvm import guest
from gpuvm.errors import GuestError
from gpuvm.guest import Busy, Exited, Guest, Launched, Process

Machine = Any  # tests/support/ssh_servers.py

# Unique on this machine, on which other tests run programs too: a run is ended by its name.
A, B, C = (f"{letter}-{os.getpid()}" for letter in "abc")
WAITS = """
import os, pathlib, sys, time
name = os.environ["GPUVM_RUN"]
with open("../../order", mode="a+") as order:
    order.write(name + "\\n")
print(name, "runs", flush=True)
while not pathlib.Path("../../end-" + name).exists():
    time.sleep(0.02)
"""


def run(name: str, **changes: Any) -> Process:
    process = Process(f"work/{name}", ["python3", "-c", WAITS], name, {}, gpu="exclusive")
    return replace(process, **changes)


def launch(one: Guest, name: str, **changes: Any) -> Launched | Busy:
    if changes.get("gpu") == "queue" and "place" not in changes:
        changes["place"] = guest.take_place(one, "python3", "work", name)
    return guest.launch(one, "python3", run(name, **changes))


def end(machine: Machine, name: str) -> None:
    (machine.home / f"end-{name}").touch()


def started(machine: Machine) -> list[str]:
    order = machine.home / "order"
    return order.read_text().split() if order.exists() else []


def states(one: Guest) -> dict[str, str]:
    return {run.run: run.state for run in guest.list_processes(one, "python3", "work")}


@pytest.fixture
def one(machine: Machine) -> Any:
    with guest.connect(machine.endpoint) as connection:
        yield connection
    with guest.connect(machine.endpoint) as connection:
        for name in (A, B, C):
            guest.end_all(connection, "python3", name)


def test_a_second_run_is_refused_with_the_name_of_the_first(
    machine: Machine, one: Guest, wait_for: Any
) -> None:
    assert launch(one, A) == Launched()
    assert launch(one, B) == Busy(A)
    assert launch(one, C, gpu="share") == Launched()
    wait_for(lambda: sorted(started(machine)) == [A, C], "a and c run")
    end(machine, A)
    wait_for(lambda: states(one)[A] == "ended", "a has ended")
    assert launch(one, B) == Launched()


def test_runs_in_the_queue_start_in_order_without_their_operator(
    machine: Machine, one: Guest, wait_for: Any
) -> None:
    launch(one, A)
    assert launch(one, B, gpu="queue") == Launched(ahead=1)
    assert launch(one, C, gpu="queue") == Launched(ahead=2)
    assert states(one) == {A: "running", B: "queued", C: "queued"}
    one.close()
    end(machine, A)
    wait_for(lambda: started(machine) == [A, B], "b has started")
    end(machine, B)
    wait_for(lambda: started(machine) == [A, B, C], "c has started")
    end(machine, C)


def test_queue_is_first_come_first_served(machine: Machine, one: Guest) -> None:
    launch(one, A)
    launch(one, B, gpu="queue")
    assert launch(one, C) == Busy(B)


def test_a_cancelled_run_leaves_the_queue(machine: Machine, one: Guest, wait_for: Any) -> None:
    for name in (A, B, C):
        launch(one, name, gpu="queue")
    guest.cancel(one, "python3", "work", B)
    wait_for(lambda: states(one)[B] == "ended", "b gave up")
    end(machine, A)
    wait_for(lambda: started(machine) == [A, C], "c has started")
    found = {run.run: run for run in guest.list_processes(one, "python3", "work")}
    assert found[B].cancelled
    assert found[B].begun_ago_s is None
    end(machine, C)


def test_cancelling_a_running_run_stops_it(machine: Machine, one: Guest, wait_for: Any) -> None:
    launch(one, A)
    wait_for(lambda: started(machine) == [A], "a runs")
    guest.cancel(one, "python3", "work", A)
    (seen,) = guest.list_processes(one, "python3", "work")
    assert (seen.state, seen.exit_status, seen.cancelled) == ("ended", 143, True)


def test_provisional_queue_place_blocks_later_runs(
    machine: Machine, one: Guest, wait_for: Any
) -> None:
    first = guest.take_place(one, "python3", "work", A)
    assert launch(one, B, gpu="queue") == Launched(ahead=1)
    # The operator of A has seen a higher place in another guest.
    assert launch(one, A, gpu="queue", place=first + 7) == Launched(ahead=1)
    wait_for(lambda: started(machine) == [B], "b is first now")
    end(machine, B)
    wait_for(lambda: started(machine) == [B, A], "a is next")
    assert guest.take_place(one, "python3", "work", C) > first + 7
    end(machine, A)


def test_a_port_is_kept_while_its_run_waits(machine: Machine, one: Guest, wait_for: Any) -> None:
    """For hours, perhaps; the program itself can have it then."""
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        port = chosen.getsockname()[1]
        launch(one, A)
        with pytest.raises(GuestError, match=f"one: port {port} was taken before the run"):
            launch(one, B, gpu="queue", port=port)
    listens = f"import socket; socket.create_server(('', {port})); print('mine', flush=True)"
    launch(one, B, gpu="queue", port=port, command=["python3", "-c", listens])
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", port))
    end(machine, A)
    assert _ended(one, B) == 0
    assert (machine.home / f"work/{B}/out/stdout.log").read_text() == "mine\n"


def test_provisional_queue_place_of_a_lost_operator_is_released(
    machine: Machine, one: Guest, wait_for: Any
) -> None:
    guest.take_place(one, "python3", "work", A)
    launch(one, B, gpu="queue")
    assert states(one) == {B: "queued"}
    place = machine.home / f"work/queue/{A}.json"
    old = json.loads(place.read_text())
    place.write_text(json.dumps(old | {"t": old["t"] - 61}))
    wait_for(lambda: started(machine) == [B], "b has started")
    end(machine, B)


def test_two_runs_over_two_guests_start_in_one_order(guests: Any, wait_for: Any) -> None:
    """Each operator reaches another guest first; both runs would wait for each other for ever."""
    two = [guests.on("one"), guests.on("two")]
    with guest.connect(two[0].endpoint) as first, guest.connect(two[1].endpoint) as second:
        places = {A: [guest.take_place(first, "python3", "work", A)], B: []}
        places[B] += [guest.take_place(one, "python3", "work", B) for one in (second, first)]
        places[A].append(guest.take_place(second, "python3", "work", A))
        for name in (B, A):
            for one in (first, second):
                launch(one, name, gpu="queue", place=max(places[name]))
        wait_for(lambda: started(two[0]) and started(two[1]), "the first has started")
        assert started(two[0]) == started(two[1])
        for machine in two:
            end(machine, A)
            end(machine, B)
        wait_for(lambda: len(started(two[0]) + started(two[1])) == 4, "both have run in both")
        assert started(two[0]) == started(two[1])


def test_what_is_known_of_each_run(machine: Machine, one: Guest, wait_for: Any) -> None:
    source = "print('one'); print('two \\x1b[2J', flush=True); raise SystemExit(3)"
    launch(one, A, command=["python3", "-c", source])
    (machine.home / f"work/{A}/run.json").write_text('{"run_id": "x"}')
    wait_for(lambda: states(one)[A] == "ended", "a has ended")
    (seen,) = guest.list_processes(one, "python3", "work")
    assert (seen.state, seen.exit_status, seen.rebooted) == ("ended", 3, False)
    assert seen.manifest == {"run_id": "x"}
    assert seen.line == "two \x1b[2J"
    assert seen.ended_ago_s is not None
    assert seen.begun_ago_s is not None
    assert 0 <= seen.ended_ago_s <= seen.begun_ago_s < 60


def test_a_run_that_a_reboot_ended_is_lost(machine: Machine, one: Guest, wait_for: Any) -> None:
    launch(one, A, command=["python3", "-c", "import os; os.kill(os.getppid(), 9)"])
    wait_for(lambda: states(one)[A] == "lost", "its supervisor is gone")
    begun = machine.home / f"work/{A}/begun"
    begun.write_text(json.dumps(json.loads(begun.read_text()) | {"boot": "another"}))
    (seen,) = guest.list_processes(one, "python3", "work")
    assert (seen.state, seen.exit_status, seen.rebooted) == ("lost", None, True)
    assert launch(one, B) == Launched()  # the GPUs are free
    end(machine, B)


def test_the_folder_of_the_program_and_what_it_prints(machine: Machine, one: Guest) -> None:
    (machine.home / f"work/{A}/project/sub").mkdir(parents=True)
    source = "import os; print(os.getcwd())"
    launch(one, A, command=["python3", "-c", source], cwd="project/sub")
    assert _ended(one, A) == 0
    assert (
        (machine.home / f"work/{A}/out/stdout.log").read_text().strip().endswith(f"{A}/project/sub")
    )


# Shut down afterwards.


def test_the_guest_shuts_down_when_its_last_run_has_ended(
    machine: Machine, one: Guest, wait_for: Any
) -> None:
    off = machine.home / "powered-off"
    machine.program("sudo", 'printf "%s " "$@" > "$HOME/powered-off"')
    launch(one, A, then="shutdown", unwatched_s=0)
    launch(one, B, gpu="share")
    with guest.hold(one, "python3", "work", A):
        end(machine, A)
        assert _ended(one, A) == 0
        end(machine, B)
        assert _ended(one, B) == 0
        assert not off.exists()
    wait_for(lambda: off.exists() and off.read_text() == "-n shutdown -h now ", "it shut down")


def test_refused_shutdown_of_a_guest_is_reported(
    machine: Machine, one: Guest, wait_for: Any
) -> None:
    for name in ("sudo", "systemctl"):
        machine.program(name, f"echo {name}: a password is required >&2; exit 1")
    launch(one, A, then="shutdown", unwatched_s=0, command=["true"])

    def problem() -> str | None:
        return guest.list_processes(one, "python3", "work")[0].problem

    wait_for(lambda: problem() is not None, "the problem is reported")
    assert problem() == "sudo: a password is required"


def _ended(one: Guest, name: str) -> int | None:
    for item in guest.follow(one, "python3", f"work/{name}", {}):
        if isinstance(item, Exited):
            return item.exit_status
    raise AssertionError("following ends with how it ended")


def test_secrets_reach_the_program_and_no_file(machine: Machine, one: Guest, wait_for: Any) -> None:
    source = "import os; print(len(os.environ['TOKEN']))"
    launch(one, A, command=["python3", "-c", source], environment={"TOKEN": "hunter2-hunter2"})
    assert _ended(one, A) == 0
    files = [file for file in Path(machine.home).rglob("*") if file.is_file()]
    assert not [file for file in files if b"hunter2" in file.read_bytes()]
