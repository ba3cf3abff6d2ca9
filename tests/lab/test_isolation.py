"""Guests are isolated, and none of their processes survives a power-off (R16 of the lab)."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpuvm.lab import hypervisor, processes

Machines = Any  # tests/lab/conftest.py
# A classic daemon: two forks and a separate session.
DAEMON = (
    "python3 -c 'import os,sys,time\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork() == 0:\n"
    "        null = os.open(os.devnull, os.O_RDWR)\n"
    "        for n in (0, 1, 2): os.dup2(null, n)\n"
    "        time.sleep(int(sys.argv[1]))\n"
    "    os._exit(0)' {mark}"
)


def running(mark: int) -> bool:
    """Whether a process with this number among its arguments lives on this machine."""
    for entry in Path("/proc").iterdir():
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(mark).encode() in arguments:
            return True
    return False


def test_a_daemon_dies_at_power_off(any_machines: Machines, wait_for: Callable[..., None]) -> None:
    guest = any_machines.on("one")
    mark = 100_000 + os.getpid()
    assert guest.run(DAEMON.format(mark=mark)).status == 0
    wait_for(lambda: running(mark), "the daemon runs")
    guest.guest.power_off()
    assert not running(mark)
    assert processes.identify(guest.ready.pid) is None


def test_a_stopped_guest_ends_at_power_off(any_machines: Machines) -> None:
    guest = any_machines.on("one")
    os.kill(guest.ready.pid, signal.SIGSTOP)
    guest.guest.power_off()
    assert processes.identify(guest.ready.pid) is None


def test_orphans_are_reaped(any_machines: Machines, wait_for: Callable[..., None]) -> None:
    guest = any_machines.on("one")
    guest.run("(sleep 0 &) ; (sleep 0 &)")
    wait_for(lambda: "defunct" not in guest.run("ps ax | grep sleep").out, "no zombie is left")


def test_tmp_and_home_are_a_guest_s_own(machines: Machines) -> None:
    one, two = machines.on("one"), machines.on("two")
    assert one.run("echo 1 > /tmp/file; echo 1 > ~/file; echo 1 > /dev/shm/file").status == 0
    assert two.run("ls /tmp/file /dev/shm/file ~/file").out == ""
    assert two.run("ps ax").out.count("gpuvm.lab.guest") == 1


def test_files_of_the_operator_are_not_visible(machines: Machines, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("operator's")
    guest = machines.on("one")
    checkout = Path(__file__).parents[2]
    for path in (secret, tmp_path, checkout / "pyproject.toml", checkout / "gpuvm", "/etc/shadow"):
        assert guest.run(f"ls -d '{path}'").status != 0, path
    assert guest.run("cat /proc/*/environ").out.count("PYTEST_CURRENT_TEST") == 0
    assert str(os.getpid()) not in guest.run("ls /proc").out.split()


def test_the_system_cannot_be_written(machines: Machines) -> None:
    guest = machines.on("one")
    for place in ("/usr", "/etc", "/opt/gpuvm-lab/bin", sys.prefix, "/"):
        assert "Read-only" in guest.run(f"touch '{place}/x'").err, place
    # not even with a user namespace of one's own, where mount(8) works
    remount = "unshare -Urm sh -c 'mount -o remount,bind,rw /usr && touch /usr/x'"
    assert guest.run(remount).status != 0
    assert guest.run("grep CapEff /proc/self/status").out.split()[1].strip("0") == ""


def test_a_user_cannot_stop_the_machine_from_inside(machines: Machines) -> None:
    guest = machines.on("one")
    guest.run("kill -KILL 1; kill -TERM 1; kill -INT 1; kill -KILL -1")
    assert guest.run("echo alive").out == "alive\n"


def test_the_lab_s_state_is_hidden_inside_a_shown_folder(machines: Machines) -> None:
    shown = Path(os.__file__).parent / "json"  # any folder within the interpreter's prefix
    boot = machines.boot("one")
    assert "decoder.py" in machines.on(boot).run(f"ls {shown}").out
    other = replace(machines.boot("two"), hidden=(str(shown),))
    assert machines.on(other).run(f"ls -A {shown}").out == ""


SUPERVISOR = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from gpuvm.lab import hypervisor
from gpuvm.lab.guest.boot import Boot

folder, reason = Path(sys.argv[1]), sys.argv[2] or None
boot = Boot.load(folder / "wish.json")
guest = hypervisor.power_on(folder, boot, hypervisor.Isolation(reason))
for ready in guest.messages():
    print(json.dumps(asdict(ready)), flush=True)
"""


def test_guests_end_with_a_killed_supervisor(
    any_machines: Machines, tmp_path: Path, wait_for: Callable[..., None]
) -> None:
    boot = any_machines.boot("one")
    boot.save(tmp_path / "wish.json")
    reason = any_machines.isolation.reason or ""
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(tmp_path), reason], stdout=subprocess.PIPE
    ) as supervisor:
        assert supervisor.stdout is not None
        ready = hypervisor.GuestReady(**json.loads(supervisor.stdout.readline()))
        mark = 200_000 + os.getpid()
        with any_machines.ssh(boot, ready.host_keys[0]) as ssh:
            assert ssh.run(DAEMON.format(mark=mark)).status == 0
        wait_for(lambda: running(mark), "the daemon runs")
        if any_machines.isolation.isolated:
            os.kill(ready.pid, signal.SIGSTOP)  # even one that can do nothing about it itself
        supervisor.send_signal(signal.SIGKILL)
    wait_for(lambda: processes.identify(ready.pid) is None, "the guest is dead")
    wait_for(lambda: not running(mark), "its daemon is dead")


UNPRIVILEGED = """
import os, sys
from pathlib import Path
from gpuvm.lab import hypervisor
from gpuvm.lab.guest.boot import Boot

folder = Path(sys.argv[1])
isolation = hypervisor.find_isolation(folder)
print(os.geteuid(), isolation.reason)
if isolation.isolated:
    boot = Boot("one", ("127.90.1.1",), int(sys.argv[2]), True, (), {}, ())
    guest = hypervisor.power_on(folder / "one", boot, isolation)
    print(sum(1 for ready in guest.messages() for _ in [guest.power_off()]))
"""


def in_user_namespace(*setup: str, script: str, arguments: list[str]) -> list[str]:
    command = " && ".join([*setup, 'exec "$0" "$@"'])
    done = subprocess.run(
        [
            *("unshare", *setup_flags(setup), "sh", "-c", command),
            *(sys.executable, "-c", script, *arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")


def setup_flags(setup: tuple[str, ...]) -> list[str]:
    return ["--map-root-user"] if setup else ["--map-user=1000", "--map-group=1000"]


def test_an_unprivileged_user_gets_the_same(machines: Machines, tmp_path: Path) -> None:
    port = machines.boot("one").port
    reported = in_user_namespace(script=UNPRIVILEGED, arguments=[str(tmp_path), str(port)])
    assert reported[:2] == ["1000 None", "1"]


def test_kernel_without_namespaces_is_detected(machines: Machines, tmp_path: Path) -> None:
    reported = in_user_namespace(
        "echo 0 > /proc/sys/user/max_mnt_namespaces",
        script=UNPRIVILEGED,
        arguments=[str(tmp_path), "0"],
    )
    assert "unshare" in reported[0]
    assert reported[1] == ""


def test_missing_util_linux_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    isolation = hypervisor.find_isolation(tmp_path)
    assert isolation.reason == "the program unshare of util-linux is missing"
    assert str(isolation).startswith("subreaper only")
