"""Runs in rounds of local SGD go on when a worker is lost, and so does the lost worker."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from incidents import ROUNDS, Incident, freeze, happened, incidents, kill, program_of
from run_harness import Runner

from gpuvm import results, runs
from gpuvm.errors import Interrupted, WorkerDied
from gpuvm.events import Events
from gpuvm.runs import Progress, worker_links
from gpuvm.settings import GuestSettings

Guests = Any  # tests/support/ssh_servers.py
Machine = Any
WaitFor = Callable[..., None]

OPTIONS = runs.RunOptions(max_restarts=2, rejoin_s=20)


def chiefs(record: results.Run) -> list[str]:
    return [vm.name for vm in record.manifest.vms if vm.role == "chief"]


def run(runner: Runner, machines: Sequence[Machine], **changes: Any) -> results.Run:
    options = {"options": OPTIONS, **changes}
    return runner(ROUNDS, machines, distributed=True, strategy="local-sgd", **options)


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_killed_worker_is_started_again_and_joins_the_others(
    runner: Runner, guests: Guests, wait_for: WaitFor, lost: int
) -> None:
    machines = [guests.on(name) for name in ("a", "b", "c")]
    name = machines[lost].name
    runner.on_step = Incident(
        machines, machines[lost], kill, lambda: (name, "back") in happened(runner)
    )
    record = run(runner, machines)
    assert happened(runner) == [(name, "lost"), (name, "back")]
    assert record.manifest.status == "succeeded"
    timings = (record.vm_dir(name) / "timings.jsonl").read_text()
    assert timings.count('"start"') == 2, "what it wrote before is kept"
    (chief,) = chiefs(record)
    assert (record.vm_dir(chief) / "results.json").exists()
    wait_for(lambda: not any(one.processes() for one in machines), "nothing of it runs")


def test_a_frozen_worker_is_noticed_and_ended_with_the_run(
    runner: Runner, guests: Guests, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_links, "SILENCE_S", 6.0)
    machines = [guests.on(name) for name in ("a", "b")]
    runner.on_step = Incident(
        machines, machines[0], freeze, lambda: ("a", "lost") in happened(runner)
    )
    record = run(runner, machines)
    (incident,) = incidents(record)
    assert (incident.vm, incident.what, incident.why) == ("a", "lost", "no sign of life for 6 s")
    assert chiefs(record) == ["b"]
    assert (record.vm_dir("b") / "results.json").exists()
    wait_for(lambda: not any(one.processes() for one in machines), "nothing of it runs")


def test_a_frozen_worker_that_thaws_joins_again(
    runner: Runner, guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_links, "SILENCE_S", 6.0)
    machines = [guests.on(name) for name in ("a", "b")]

    def thawed() -> bool:
        if happened(runner) == [("b", "lost")]:
            os.kill(program_of(machines[1]), signal.SIGCONT)
        return ("b", "back") in happened(runner)

    runner.on_step = Incident(machines, machines[1], freeze, thawed)
    record = run(runner, machines)
    assert happened(runner) == [("b", "lost"), ("b", "back")]
    assert (record.vm_dir("b") / "timings.jsonl").read_text().count('"start"') == 1


def test_a_cut_connection_costs_a_round_and_no_restart(runner: Runner, guests: Guests) -> None:
    machines = [guests.on(name) for name in ("a", "b")]
    runner.on_step = Incident(
        machines, machines[1], lambda one: one.cut(), lambda: ("b", "back") in happened(runner)
    )
    record = run(runner, machines)
    assert happened(runner) == [("b", "lost"), ("b", "back")]
    assert (record.vm_dir("b") / "timings.jsonl").read_text().count('"start"') == 1


def test_the_others_end_without_one_that_has_no_restarts_left(
    runner: Runner, guests: Guests
) -> None:
    machines = [guests.on(name) for name in ("a", "b")]
    runner.on_step = Incident(machines, machines[0], kill, lambda: bool(happened(runner)))
    record = run(runner, machines, options=runs.RunOptions(max_restarts=0))
    assert happened(runner) == [("a", "lost")]
    assert record.manifest.status == "succeeded"
    assert chiefs(record) == ["b"]
    assert (record.vm_dir("a") / "timings.jsonl").exists(), "what it left is fetched"
    assert any("without it" in text for text in record.manifest.warnings)


def test_one_that_fails_again_and_again_is_given_up(runner: Runner, guests: Guests) -> None:
    machines = [guests.on(name) for name in ("a", "b")]

    def break_it(machine: Machine) -> None:
        (machine.home / "bad").write_text("1")

    def over() -> bool:
        (log,) = list(Path(machines[1].home).glob("gpuvm-runs/*/out/timings.jsonl"))
        return log.read_text().count('"start"') == OPTIONS.max_restarts + 1

    runner.on_step = Incident(machines, machines[1], break_it, over)
    record = run(runner, machines)
    assert happened(runner).count(("b", "lost")) >= 2
    assert record.manifest.status == "succeeded"


def test_bad_arguments_or_data_end_the_run(
    runner: Runner, guests: Guests, wait_for: WaitFor
) -> None:
    machines = [guests.on(name) for name in ("a", "b")]

    def refuse(machine: Machine) -> None:
        (machine.home / "bad").write_text("2")

    runner.on_step = Incident(machines, machines[1], refuse, lambda: False)
    with pytest.raises(WorkerDied) as died:
        run(runner, machines)
    assert (died.value.vm, died.value.exit_status) == ("b", 2)
    wait_for(lambda: not any(one.processes() for one in machines), "nothing of it runs")


def test_when_all_fail_the_run_has_failed(
    runner: Runner, guests: Guests, wait_for: WaitFor
) -> None:
    machines = [guests.on(name) for name in ("a", "b")]

    def kill_all(_: Machine) -> None:
        for machine in machines:
            kill(machine)

    runner.on_step = Incident(machines, machines[1], kill_all, lambda: False)
    with pytest.raises(WorkerDied):
        run(runner, machines, options=runs.RunOptions(max_restarts=0))
    wait_for(lambda: not any(one.processes() for one in machines), "nothing of it runs")


def test_ctrl_c_ends_it_everywhere(runner: Runner, guests: Guests, wait_for: WaitFor) -> None:
    machines = [guests.on(name) for name in ("a", "b")]
    runner.on_step = Incident(
        machines, machines[1], lambda _: os.kill(os.getpid(), signal.SIGINT), lambda: False
    )
    with pytest.raises(Interrupted):
        run(runner, machines)
    wait_for(lambda: not any(one.processes() for one in machines), "nothing of it runs")
    for machine in machines:
        assert not list(machine.home.rglob("worker.sock"))


def test_one_that_was_left_running_is_averaged_again_when_it_is_attached_to(
    runner: Runner, guests: Guests, wait_for: WaitFor
) -> None:
    machines = [guests.on(name) for name in ("a", "b")]
    runner.watch.interrupts = [True]
    runner.on_step = Incident(
        machines, machines[1], lambda _: os.kill(os.getpid(), signal.SIGINT), lambda: False
    )
    record = run(runner, machines)
    assert any("attached to again" in (event.text or "") for event in runner.event_log.events)

    def end(_: Progress) -> None:
        for machine in machines:
            (machine.home / "enough").touch()

    runner.on_step = end
    ended = runs.attach(
        record,
        [machine.member() for machine in machines],
        guest=GuestSettings(),
        events=Events(record.sink, runner.event_log),
        watch=runner.watch,
    )
    assert ended
    assert record.manifest.status == "succeeded"
    wait_for(lambda: not any(one.processes() for one in machines), "nothing of it runs")
