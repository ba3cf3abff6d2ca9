"""Runs over real guests: how they start and end, and how failures are reported."""

import json
import os
import signal
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from run_harness import BEGIN, START, TRAINS, Runner, seen

from gpuvm import guest, runs
from gpuvm.errors import (
    BadInput,
    Interrupted,
    NotFound,
    PartlyDone,
    PortsBlocked,
    PreflightRefused,
    RunError,
    WorkerDied,
)
from gpuvm.runs import Progress, tf_config
from gpuvm.settings import GuestSettings
from gpuvm.spec import Distributed

Guests = Any  # tests/support/ssh_servers.py
Machine = Any

# Meets the others over the ports that it was given, as TensorFlow's servers do.
MEETS = (
    BEGIN
    + """
here = ("::", int(peers[me].rpartition(":")[2]))
server = socket.create_server(here, family=socket.AF_INET6, dualstack_ipv6=True)
deadline = time.monotonic() + 60
for peer in peers:
    while True:
        try:
            host, _, port = peer.rpartition(":")
            socket.create_connection((host, int(port)), timeout=5).close()
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
for _ in peers:
    server.accept()
"""
    + TRAINS.removeprefix(BEGIN)
)


def nothing_runs(machines: Sequence[Machine]) -> bool:
    return not any(machine.processes() for machine in machines)


def test_one_vm(runner: Runner, machine: Machine, event_log: Any, wait_for: Any) -> None:
    machine.environment["http_proxy"] = "http://127.0.0.1:1"
    record = runner(TRAINS, [machine], "--word", "it's; $HOME")
    assert runner.manifest["status"] == "succeeded"
    assert runner.manifest["ended"] is not None
    assert (record.vm_dir("one") / "stdout.log").read_text() == "word it's; $HOME worker 0\n"
    assert [p.step for p in runner.progress if p.step] == [1, 2, 3]
    assert runner.progress[-1] == Progress("one", "train", 3, 3, 1 / 3, 10.0)
    assert seen(record, "one")["proxies"] == ["http_proxy"], "needed to download, perhaps"
    assert seen(record, "one")["start_deadline_s"] is None
    lines = [json.loads(line) for line in (record.dir / "events.jsonl").read_text().splitlines()]
    ended = [(e["name"], e["vm"], e["ok"]) for e in lines if e.get("state") == "end"]
    assert [name for name, _, _ in ended] == ["push", "train", "fetch"]
    assert {(vm, ok) for _, vm, ok in ended} == {("one", True)}
    assert machine.logins == 1, "one connection for all of it"
    wait_for(lambda: nothing_runs([machine]), "nothing is left")


def test_distributed(runner: Runner, three: list[Machine], wait_for: Any) -> None:
    for machine in three:
        machine.environment |= {"http_proxy": "http://127.0.0.1:1", "NO_PROXY": "x"}
    record = runner(MEETS, three, distributed=True, distribution=Distributed(start_s=33))
    found = [seen(record, machine.name) for machine in three]
    workers = found[0]["config"]["cluster"]["worker"]
    assert [worker.rpartition(":")[0] for worker in workers] == [m.address for m in three]
    assert len({worker.rpartition(":")[2] for worker in workers}) == 3
    assert [f["config"]["task"] for f in found] == [
        {"type": "worker", "index": i} for i in range(3)
    ]
    assert all(f["config"]["cluster"] == found[0]["config"]["cluster"] for f in found)
    assert all(f["proxies"] == [] for f in found)
    assert all(f["start_deadline_s"] == 33 for f in found)
    assert runner.manifest["status"] == "succeeded"
    wait_for(lambda: nothing_runs(three), "nothing is left")


def test_connection_may_break_in_the_middle(runner: Runner, machine: Machine) -> None:
    source = (
        BEGIN + START + 'step(1, 2)\nwhile not pathlib.Path("go on").exists(): time.sleep(0.02)'
    )

    def cut(progress: Progress) -> None:
        if progress.step == 1:
            machine.cut()
            assert runner.record is not None
            (machine.home / "gpuvm-runs" / runner.record.run_id / "project/go on").touch()

    runner.on_step = cut
    record = runner(source + "\nstep(2, 2)", [machine])
    assert [p.step for p in runner.progress] == [1, 2]
    lines = (record.vm_dir("one") / "timings.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["start", "step", "step"]


def test_a_worker_that_dies_ends_the_others_and_is_named(
    runner: Runner, three: list[Machine], wait_for: Any
) -> None:
    source = (
        BEGIN
        + START
        + """
if me == 1:
    print("line before", file=sys.stderr)
    sys.exit("out of luck")
os.fork()
time.sleep(1000)
"""
    )
    with pytest.raises(WorkerDied) as e:
        runner(source, three, distributed=True)
    assert (e.value.vm, e.value.exit_status) == ("vm-02", 1)
    assert e.value.tail == ("line before", "out of luck")
    assert runner.manifest["status"] == "failed"
    assert "vm-02" in runner.manifest["error"]
    assert runner.record is not None
    for machine in three:
        assert (runner.record.vm_dir(machine.name) / "timings.jsonl").exists(), "fetched"
    wait_for(lambda: nothing_runs(three), "nothing is left")


def test_first_failed_worker_is_named_not_the_later_ones(
    runner: Runner, three: list[Machine]
) -> None:
    """The second dies; the first sees that at once, by its connection, and says so."""
    source = (
        BEGIN
        + START
        + """
if me == 1:
    os.kill(os.getpid(), 9)
dead = "**/vm-02/gpuvm-runs/*/exit_status"
while not list(pathlib.Path(options.word).glob(dead)):
    time.sleep(0.01)
sys.exit(3 if me == 0 else 1)
"""
    )
    with pytest.raises(WorkerDied) as e:
        runner(source, three, "--word", str(runner.folder), distributed=True)
    assert (e.value.vm, e.value.exit_status) == ("vm-02", 137)


def test_lost_guest_is_named_not_the_workers_that_failed_after_it(
    runner: Runner, three: list[Machine], guests: Guests
) -> None:
    """Its sshd is gone for good while it is followed; the others notice and end."""
    waits = 'step(1, 2)\nwhile not pathlib.Path("bye").exists(): time.sleep(0.02)'
    source = BEGIN + START + waits
    gone = threading.Event()

    def power_off(progress: Progress) -> None:
        if progress.vm == "vm-03" and not gone.is_set():
            gone.set()
            guests.stop(three[2])
            assert runner.record is not None
            for machine in three[:2]:
                (machine.home / "gpuvm-runs" / runner.record.run_id / "project/bye").touch()

    runner.on_step = power_off
    with pytest.raises(WorkerDied) as e:
        runner(source + "\nsys.exit(1)", three, distributed=True)
    assert (e.value.vm, e.value.exit_status) == ("vm-03", None)
    assert str(e.value) == "the worker on vm-03 vanished"
    assert runner.manifest["status"] == "failed"


def test_side_by_side_each_runs_to_its_end(runner: Runner, three: list[Machine]) -> None:
    (three[1].home / "unlucky").touch()
    source = BEGIN + 'if pathlib.Path.home().joinpath("unlucky").exists(): sys.exit("no luck")\n'
    with pytest.raises(PartlyDone, match="1 of 3 failed: the worker on vm-02 ended with status 1"):
        runner(source + TRAINS.removeprefix(BEGIN), three)
    assert runner.record is not None
    assert seen(runner.record, "vm-01")["config"]["task"]["index"] == 0
    assert seen(runner.record, "vm-03")["proxies"] == []
    assert runner.manifest["status"] == "failed"


def test_a_missing_module_is_named_before_anything_is_pushed(
    runner: Runner, three: list[Machine]
) -> None:
    source = "import json\nimport no_such_module.part\nfrom neither_this import x\n" + TRAINS
    with pytest.raises(PreflightRefused) as e:
        runner(source, three)
    assert "vm-01: python3 has no module neither_this, no_such_module" in str(e.value)
    assert "guest.python" in str(e.value.hint)
    assert not any((machine.home / "gpuvm-runs").exists() for machine in three)
    assert runner.record is not None
    assert not runner.record.dir.exists()


def test_an_interpreter_that_is_not_there_is_named(runner: Runner, machine: Machine) -> None:
    with pytest.raises(PreflightRefused, match="one: /opt/none/python does not work"):
        runner(TRAINS, [machine], settings=GuestSettings(python="/opt/none/python"))


def test_ctrl_c_ends_the_programs_and_keeps_the_logs(
    runner: Runner, three: list[Machine], wait_for: Any
) -> None:
    source = BEGIN + START + 'print("so far", flush=True)\nstep(1, 9)\nos.fork()\ntime.sleep(1000)'
    reached = threading.Barrier(3, action=lambda: os.kill(os.getpid(), signal.SIGINT))

    def arrive(_: Progress) -> None:
        reached.wait()

    runner.on_step = arrive
    with pytest.raises(Interrupted) as e:
        runner(source, three, distributed=True)
    assert runner.record is not None
    assert "there is no checkpoint to resume from yet" in str(e.value.hint)
    assert "--resume" not in str(e.value.hint), "only what works is promised"
    assert runner.manifest["status"] == "interrupted"
    for machine in three:
        assert (runner.record.vm_dir(machine.name) / "stdout.log").read_text().endswith("so far\n")
    wait_for(lambda: nothing_runs(three), "nothing is left")


def test_start_timeout_is_reported(runner: Runner, three: list[Machine], wait_for: Any) -> None:
    source = BEGIN + 'if me != 1: say("start")\nprint("waiting", flush=True)\ntime.sleep(1000)'
    with pytest.raises(RunError, match=r"not started within 3 s: .*vm-02.*: waiting"):
        runner(source, three, distributed=True, distribution=Distributed(start_s=2))
    wait_for(lambda: nothing_runs(three), "nothing is left")


PORT_LOST = (
    BEGIN
    + """
tries = pathlib.Path(options.word)
with tries.open("a") as file:
    file.write(json.dumps([me, peers]) + "\\n")
if me == 1 and len(tries.read_text().splitlines()) <= LOST * len(peers):
    sys.exit("UnknownError: Could not start gRPC server")
"""
)


def test_lost_port_is_chosen_again(runner: Runner, three: list[Machine], event_log: Any) -> None:
    tries = runner.folder / "tries"
    waits = (
        f"while len(pathlib.Path({str(tries)!r}).read_text().splitlines()) < 6: time.sleep(0.02)"
    )
    source = PORT_LOST.replace("LOST", "1") + waits + "\n" + TRAINS.removeprefix(BEGIN)
    runner(source, three, "--word", str(tries), distributed=True)
    tried = [json.loads(line) for line in tries.read_text().splitlines()]
    assert len({tuple(peers) for _, peers in tried}) == 2
    assert [text for text in event_log.texts("warning") if "choosing new ports" in text]
    assert runner.manifest["status"] == "succeeded"


def test_port_is_chosen_again_at_most_three_times(runner: Runner, guests: Guests) -> None:
    two = [guests.on("vm-01"), guests.on("vm-02")]
    tries = runner.folder / "tries"
    with pytest.raises(WorkerDied, match="vm-02") as e:
        runner(
            PORT_LOST.replace("LOST", "9") + "time.sleep(1000)",
            two,
            "--word",
            str(tries),
            distributed=True,
        )
    assert "Could not start gRPC server" in e.value.tail[-1]
    assert sum(json.loads(line)[0] == 1 for line in tries.read_text().splitlines()) == 4


def connected(machines: Sequence[Machine]) -> list[guest.Guest]:
    return [guest.connect(machine.endpoint) for machine in machines]


def test_ports_are_distinct_and_all_held_until_all_are_chosen(
    three: list[Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    guests = connected(three)
    held: list[bool] = []

    def while_held(_: object, ports: list[int], __: object) -> None:
        assert len(set(ports)) == 3
        held.extend(not _can_bind(port) for port in ports)

    with monkeypatch.context() as patch:
        patch.setattr(tf_config, "probe_all", while_held)
        ports = tf_config.choose_ports(guests, "python3", Distributed())
    assert held == [True] * 3
    assert all(_can_bind(port) for port in ports), "and let go afterwards"
    for one in guests:
        one.close()


def test_ports_of_a_range(three: list[Machine], event_log: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        low = taken.getsockname()[1]
        if low > 65000:
            pytest.skip("the kernel gave a port at the end of all ports")
        guests = connected(three)
        ports = tf_config.choose_ports(guests, "python3", Distributed(ports=f"{low}-{low + 100}"))
        assert low not in ports
        assert len(set(ports)) == 3
        assert all(low < port <= low + 100 for port in ports)
        with pytest.raises(RunError, match=f"vm-01 has no free port in the range {low}-{low}"):
            tf_config.choose_ports(guests, "python3", Distributed(ports=f"{low}-{low}"))
        for one in guests:
            one.close()


def test_a_blocked_port_names_the_pairs_and_the_firewall_command(
    runner: Runner, three: list[Machine], wait_for: Any
) -> None:
    """Nothing that the second guest sends arrives at the third."""
    lock_out = three[1].home / "lib"
    lock_out.mkdir()
    (lock_out / "sitecustomize.py").write_text(
        f"""
import socket
reach = socket.socket.connect
def connect(self, where):
    if where[0] == {three[2].address!r}:
        raise TimeoutError
    return reach(self, where)
socket.socket.connect = connect
"""
    )
    three[1].environment["PYTHONPATH"] = str(lock_out)
    with pytest.raises(PortsBlocked) as e:
        runner(TRAINS, three, distributed=True)
    assert [(source, target) for source, target, _ in e.value.pairs] == [("vm-02", "vm-03")]
    port = e.value.pairs[0][2]
    assert f"vm-02 cannot open a TCP connection to vm-03 port {port}" in str(e.value)
    assert f"firewall-cmd --add-port={port}/tcp" in str(e.value.hint)
    assert not (three[0].home / "out").exists()
    wait_for(lambda: nothing_runs(three), "nobody holds a port any more")


def test_a_closed_port_is_blocked(three: list[Machine]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    guests = connected(three[:2])
    with pytest.raises(PortsBlocked) as e:
        tf_config.probe_all(guests, [closed, closed], "python3")
    assert set(e.value.pairs) == {("vm-01", "vm-02", closed), ("vm-02", "vm-01", closed)}
    for one in guests:
        one.close()


def _can_bind(port: int) -> bool:
    try:
        socket.create_server(("::", port), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_leftover_processes_of_a_program_are_stopped(
    runner: Runner, machine: Machine, wait_for: Any
) -> None:
    runner(TRAINS + "\nif os.fork() == 0:\n    os.setsid(); time.sleep(1000)", [machine])
    assert runner.manifest["status"] == "succeeded"
    wait_for(lambda: nothing_runs([machine]), "nothing is left")


def test_simulated_gpus_are_recorded(runner: Runner, machine: Machine) -> None:
    machine.nvidia_smi("0x15F810DE, Tesla P100-PCIE-16GB (simulated)")
    runner(TRAINS, [machine])
    assert runner.manifest["vms"][0]["simulated"] is True


def test_finding_a_workload(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="workload 'captionning' not found") as e:
        runs.find("captionning")
    assert "captioning" in e.value.existing
    with pytest.raises(BadInput, match="no such file"):
        runs.find(str(tmp_path / "none.py"))
    broken = tmp_path / "broken.py"
    broken.write_text("print('fine')\nimport (\n")
    with pytest.raises(BadInput, match=r"broken\.py:2: not a Python program"):
        runs.find(str(broken))
    captioning = runs.find("captioning")
    names = {path.partition("/")[0] for path in captioning.files}
    assert names == {"captioning", "common"}
    assert "numpy" in captioning.requires
    assert not names & set(captioning.requires)


SHOWS = (
    BEGIN
    + START
    + """
shown = options.out / "samples" / "picture.txt"
shown.parent.mkdir()
shown.write_text("so far")
(options.out / "state.bin").write_bytes(b"large")
say("checkpoint", step=1, path="state.bin")
step(1, 2)
while not pathlib.Path("go on").exists():
    time.sleep(0.02)
"""
)


def test_results_to_show_are_fetched_at_a_checkpoint_already(
    runner: Runner, machine: Machine, wait_for: Any
) -> None:
    seen_early: list[list[str]] = []

    def go_on() -> None:
        wait_for(lambda: runner.record is not None, "its record")
        assert runner.record is not None
        picture = runner.record.vm_dir("one") / "samples/picture.txt"
        wait_for(picture.exists, "the picture")
        seen_early.append(sorted(file.name for file in runner.record.vm_dir("one").iterdir()))
        (machine.home / "gpuvm-runs" / runner.record.run_id / "project/go on").touch()

    thread = threading.Thread(target=go_on)
    thread.start()
    record = runner(SHOWS, [machine], options=runs.RunOptions(live=("samples/*",)))
    thread.join()
    assert "state.bin" not in seen_early[0], "only what is to be shown"
    assert (record.vm_dir("one") / "state.bin").read_bytes() == b"large"
    assert runner.manifest["status"] == "succeeded"


def test_a_watch_may_cancel_a_run(runner: Runner, machine: Machine, wait_for: Any) -> None:
    runner.on_step = lambda _: setattr(runner.watch, "cancel", True)
    with pytest.raises(WorkerDied) as caught:
        runner(SHOWS, [machine])
    assert caught.value.cancelled
    assert runner.manifest["status"] == "cancelled"
    assert runner.record is not None
    assert (runner.record.vm_dir("one") / "samples/picture.txt").read_text() == "so far"
    wait_for(lambda: nothing_runs([machine]), "nothing is left")
