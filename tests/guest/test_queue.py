"""The runs of one guest: who has its GPUs, who waits for them, and what is known of each."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpuvm import guest
from gpuvm.guest import Busy, Exited, Guest, Launched, Process

Machine = Any  # tests/guest/ssh_servers.py

WAITS = """
import os, pathlib, sys, time
name = os.environ["GPUVM_RUN"]
with open("../../order", "a") as order:
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
        for name in "abc":
            guest.end_all(connection, "python3", name)


def test_a_second_run_is_refused_with_the_name_of_the_first(
    machine: Machine, one: Guest, wait_for: Any
) -> None:
    assert launch(one, "a") == Launched()
    assert launch(one, "b") == Busy("a")
    assert launch(one, "c", gpu="share") == Launched()
    wait_for(lambda: sorted(started(machine)) == ["a", "c"], "a and c run")
    end(machine, "a")
    wait_for(lambda: states(one)["a"] == "ended", "a has ended")
    assert launch(one, "b") == Launched()


def test_runs_in_the_queue_start_in_order_without_their_operator(
    machine: Machine, one: Guest, wait_for: Any
) -> None:
    launch(one, "a")
    assert launch(one, "b", gpu="queue") == Launched(ahead=1)
    assert launch(one, "c", gpu="queue") == Launched(ahead=2)
    assert states(one) == {"a": "running", "b": "queued", "c": "queued"}
    one.close()
    end(machine, "a")
    wait_for(lambda: started(machine) == ["a", "b"], "b has started")
    end(machine, "b")
    wait_for(lambda: started(machine) == ["a", "b", "c"], "c has started")
    end(machine, "c")


def test_nobody_overtakes_the_queue(machine: Machine, one: Guest) -> None:
    launch(one, "a")
    launch(one, "b", gpu="queue")
    assert launch(one, "c") == Busy("b")


def test_a_cancelled_run_leaves_the_queue(machine: Machine, one: Guest, wait_for: Any) -> None:
    for name in "abc":
        launch(one, name, gpu="queue")
    guest.cancel(one, "python3", "work", "b")
    wait_for(lambda: states(one)["b"] == "ended", "b gave up")
    end(machine, "a")
    wait_for(lambda: started(machine) == ["a", "c"], "c has started")
    found = {run.run: run for run in guest.list_processes(one, "python3", "work")}
    assert found["b"].cancelled
    assert found["b"].begun_ago_s is None
    end(machine, "c")


def test_a_cancelled_run_that_runs_is_ended(machine: Machine, one: Guest, wait_for: Any) -> None:
    launch(one, "a")
    wait_for(lambda: started(machine) == ["a"], "a runs")
    guest.cancel(one, "python3", "work", "a")
    (seen,) = guest.list_processes(one, "python3", "work")
    assert (seen.state, seen.exit_status, seen.cancelled) == ("ended", 143, True)


def test_an_open_provisional_place_holds_back_those_behind_it(
    machine: Machine, one: Guest, wait_for: Any
) -> None:
    first = guest.take_place(one, "python3", "work", "a")
    assert launch(one, "b", gpu="queue") == Launched(ahead=1)
    # The operator of "a" has seen a higher place in another guest.
    assert launch(one, "a", gpu="queue", place=first + 7) == Launched(ahead=1)
    wait_for(lambda: started(machine) == ["b"], "b is first now")
    end(machine, "b")
    wait_for(lambda: started(machine) == ["b", "a"], "a is next")
    assert guest.take_place(one, "python3", "work", "c") > first + 7
    end(machine, "a")


def test_a_provisional_place_whose_operator_went_away_is_given_up(
    machine: Machine, one: Guest, wait_for: Any
) -> None:
    guest.take_place(one, "python3", "work", "a")
    launch(one, "b", gpu="queue")
    assert states(one) == {"b": "queued"}
    place = machine.home / "work/queue/a.json"
    old = json.loads(place.read_text())
    place.write_text(json.dumps(old | {"t": old["t"] - 61}))
    wait_for(lambda: started(machine) == ["b"], "b has started")
    end(machine, "b")


def test_two_runs_over_two_guests_start_in_one_order(guests: Any, wait_for: Any) -> None:
    """Each operator reaches another guest first; both runs would wait for each other for ever."""
    two = [guests.on("one"), guests.on("two")]
    with guest.connect(two[0].endpoint) as first, guest.connect(two[1].endpoint) as second:
        places = {"a": [guest.take_place(first, "python3", "work", "a")], "b": []}
        places["b"] += [guest.take_place(one, "python3", "work", "b") for one in (second, first)]
        places["a"].append(guest.take_place(second, "python3", "work", "a"))
        for name in "ba":
            for one in (first, second):
                launch(one, name, gpu="queue", place=max(places[name]))
        wait_for(lambda: started(two[0]) and started(two[1]), "the first has started")
        assert started(two[0]) == started(two[1])
        for machine in two:
            end(machine, "a")
            end(machine, "b")
        wait_for(lambda: len(started(two[0]) + started(two[1])) == 4, "both have run in both")
        assert started(two[0]) == started(two[1])


def test_what_is_known_of_each_run(machine: Machine, one: Guest, wait_for: Any) -> None:
    source = "print('one'); print('two \\x1b[2J', flush=True); raise SystemExit(3)"
    launch(one, "a", command=["python3", "-c", source])
    (machine.home / "work/a/run.json").write_text('{"run_id": "a"}')
    wait_for(lambda: states(one)["a"] == "ended", "a has ended")
    (seen,) = guest.list_processes(one, "python3", "work")
    assert (seen.state, seen.exit_status, seen.rebooted) == ("ended", 3, False)
    assert seen.manifest == {"run_id": "a"}
    assert seen.line == "two \x1b[2J"
    assert seen.ended_ago_s is not None
    assert seen.begun_ago_s is not None
    assert 0 <= seen.ended_ago_s <= seen.begun_ago_s < 60


def test_a_run_that_a_reboot_ended_is_lost(machine: Machine, one: Guest, wait_for: Any) -> None:
    launch(one, "a", command=["python3", "-c", "import os; os.kill(os.getppid(), 9)"])
    wait_for(lambda: states(one)["a"] == "lost", "its supervisor is gone")
    begun = machine.home / "work/a/begun"
    begun.write_text(json.dumps(json.loads(begun.read_text()) | {"boot": "another"}))
    (seen,) = guest.list_processes(one, "python3", "work")
    assert (seen.state, seen.exit_status, seen.rebooted) == ("lost", None, True)
    assert launch(one, "b") == Launched()  # the GPUs are free
    end(machine, "b")


def test_the_folder_of_the_program_and_what_it_prints(machine: Machine, one: Guest) -> None:
    (machine.home / "work/a/project/sub").mkdir(parents=True)
    source = "import os; print(os.getcwd())"
    launch(one, "a", command=["python3", "-c", source], cwd="project/sub")
    assert _ended(one, "a") == 0
    assert (machine.home / "work/a/out/stdout.log").read_text().strip().endswith("a/project/sub")


# Shut down afterwards.


def test_the_guest_shuts_down_when_its_last_run_has_ended(
    machine: Machine, one: Guest, wait_for: Any
) -> None:
    machine.program("sudo", 'printf "%s " "$@" > "$HOME/powered-off"')
    launch(one, "a", then="shutdown", unwatched_s=0)
    launch(one, "b", gpu="share")
    with guest.hold(one, "python3", "work", "a"):
        end(machine, "a")
        assert _ended(one, "a") == 0
        end(machine, "b")
        assert _ended(one, "b") == 0
        assert not (machine.home / "powered-off").exists()
    wait_for((machine.home / "powered-off").exists, "it shut down")
    assert (machine.home / "powered-off").read_text() == "-n shutdown -h now "


def test_a_guest_that_may_not_shut_down_says_so(
    machine: Machine, one: Guest, wait_for: Any
) -> None:
    for name in ("sudo", "systemctl"):
        machine.program(name, f"echo {name}: a password is required >&2; exit 1")
    launch(one, "a", then="shutdown", unwatched_s=0, command=["true"])

    def problem() -> str | None:
        return guest.list_processes(one, "python3", "work")[0].problem

    wait_for(lambda: problem() is not None, "it was said")
    assert problem() == "sudo: a password is required"


def _ended(one: Guest, name: str) -> int | None:
    for item in guest.follow(one, "python3", f"work/{name}", {}):
        if isinstance(item, Exited):
            return item.exit_status
    raise AssertionError("following ends with how it ended")


def test_secrets_reach_the_program_and_no_file(machine: Machine, one: Guest, wait_for: Any) -> None:
    source = "import os; print(len(os.environ['TOKEN']))"
    launch(one, "a", command=["python3", "-c", source], environment={"TOKEN": "hunter2-hunter2"})
    assert _ended(one, "a") == 0
    files = [file for file in Path(machine.home).rglob("*") if file.is_file()]
    assert not [file for file in files if b"hunter2" in file.read_bytes()]
