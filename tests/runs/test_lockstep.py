"""Runs in lockstep (allreduce) go on from the last checkpoint when a worker is lost."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from incidents import Incident, freeze, happened, incidents, kill
from run_harness import BEGIN, Runner, seen

from gpuvm import results, runs
from gpuvm.errors import WorkerDied
from gpuvm.runs import worker_links

Guests = Any  # tests/support/ssh_servers.py
Machine = Any
WaitFor = Callable[..., None]

# Counts on from its checkpoint until there is a file "enough".
COUNTS = (
    BEGIN
    + """
from common.averaging import start_heartbeat
home, kept = pathlib.Path(os.environ["HOME"]), options.out / "checkpoints"
kept.mkdir(exist_ok=True)
begin = max([0, *(int(one.name) for one in kept.iterdir())])
say("start", workload="mine", schema=1, device="/device:CPU:0", worker=me, workers=len(peers))
start_heartbeat(me)
(home / "pid").write_text(str(os.getpid()))
n = begin
while not (home / "enough").exists():
    if (home / "bad").exists():
        sys.exit(int((home / "bad").read_text()))
    time.sleep(0.02)
    n += 1
    step(n, 10000)
    if n % 5 == 0:
        (kept / str(n)).touch()
        say("checkpoint", step=n, path=f"checkpoints/{n}")
(options.out / "seen.json").write_text(json.dumps({"begin": begin, "workers": len(peers)}))
if me == 0:
    (options.out / "results.json").write_text("{}")
say("end", ok=True, steps=n, seconds=0.1)
"""
)
OPTIONS = runs.RunOptions(max_restarts=2, rejoin_s=20)


def run(runner: Runner, machines: Sequence[Machine], **changes: Any) -> results.Run:
    options = {"options": OPTIONS, **changes}
    return runner(COUNTS, machines, distributed=True, strategy="allreduce", **options)


@pytest.mark.parametrize("lost", [0, 1])
def test_all_go_on_from_the_checkpoint_when_a_worker_is_killed(
    runner: Runner, guests: Guests, wait_for: WaitFor, lost: int
) -> None:
    machines = [guests.on(name) for name in ("a", "b")]
    name = machines[lost].name
    runner.on_step = Incident(
        machines, machines[lost], kill, lambda: (name, "back") in happened(runner)
    )
    record = run(runner, machines)
    assert happened(runner) == [(name, "lost"), (name, "back")]
    assert incidents(record)[0].lost_steps is not None
    assert record.manifest.status == "succeeded"
    for machine in machines:
        assert seen(record, machine.name)["workers"] == 2
        timings = (record.vm_dir(machine.name) / "timings.jsonl").read_text()
        assert timings.count('"start"') == 2, "what it wrote before is kept"
    wait_for(lambda: not any(one.processes() for one in machines), "nothing of it runs")


def test_a_frozen_worker_is_noticed(
    runner: Runner, guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_links, "SILENCE_S", 6.0)
    machines = [guests.on(name) for name in ("a", "b")]
    runner.on_step = Incident(
        machines, machines[1], freeze, lambda: ("b", "back") in happened(runner)
    )
    record = run(runner, machines)
    assert [(one.vm, one.what, one.why) for one in incidents(record)] == [
        ("b", "lost", "gave no sign of life for 6 s"),
        ("b", "back", ""),
    ]


def test_the_rest_go_on_without_a_vm_that_does_not_come_back(
    runner: Runner, guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_links, "SILENCE_S", 6.0)
    machines = [guests.on(name) for name in ("a", "b")]
    runner.on_step = Incident(
        machines, machines[0], guests.stop, lambda: ("a", "given up") in happened(runner)
    )
    record = run(runner, machines, options=runs.RunOptions(rejoin_s=1))
    assert happened(runner) == [("a", "lost"), ("a", "given up")]
    assert record.manifest.status == "succeeded"
    assert seen(record, "b")["workers"] == 1
    assert [vm.role for vm in record.manifest.vms] == ["worker", "chief"]
    assert (record.vm_dir("b") / "results.json").exists()


@pytest.mark.parametrize(("status", "restarts"), [(2, 0), (1, 2)])
def test_restarts_are_bounded_and_none_for_bad_data(
    runner: Runner, guests: Guests, status: int, restarts: int
) -> None:
    machines = [guests.on(name) for name in ("a", "b")]

    def break_it(machine: Machine) -> None:
        (machine.home / "bad").write_text(str(status))

    runner.on_step = Incident(machines, machines[1], break_it, lambda: False)
    with pytest.raises(WorkerDied) as died:
        run(runner, machines)
    assert (died.value.vm, died.value.exit_status) == ("b", status)
    assert happened(runner).count(("b", "lost")) == restarts
