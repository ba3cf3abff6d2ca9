"""Guests that shut down by themselves: a guest of the lab in namespaces, with real processes."""

import importlib.util
import json
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import openssh
import psutil
import pytest
from guest_fixtures import boot_of

from gpuvm import guest
from gpuvm.guest import Endpoint, IdleState, Process, scripts
from gpuvm.lab import hypervisor
from gpuvm.lab.guest.boot import Boot
from gpuvm.settings import Context

ADDRESS = "127.91.0.2"
SHORT, LONG = timedelta(seconds=0.3), timedelta(hours=2)
WaitFor = Callable[..., None]


@dataclass
class Machine:
    """A guest that is powered on and off; ``shut_downs`` has an item for each of its own."""

    folder: Path
    boot: Boot
    isolation: hypervisor.Isolation
    context: Context
    shut_downs: "queue.Queue[None]" = field(default_factory=queue.Queue)
    _listener: threading.Thread | None = None

    def on(self) -> None:
        self.guest = hypervisor.power_on(self.folder, self.boot, self.isolation)
        ready: queue.Queue[hypervisor.GuestReady] = queue.Queue()

        def listen() -> None:
            for message in self.guest.messages():
                if isinstance(message, hypervisor.GuestReady):
                    ready.put(message)
                else:
                    self.shut_downs.put(None)

        self._listener = threading.Thread(target=listen)
        self._listener.start()
        self.host_keys = ready.get(timeout=60).host_keys

    def off(self) -> None:
        self.guest.power_off()
        assert self._listener is not None
        self._listener.join()

    def connect(self) -> guest.Guest:
        return guest.connect(
            Endpoint(
                name="gpuvm-01",
                address=ADDRESS,
                port=self.boot.port,
                user="gpuvm",
                key_file=self.context.key_file,
                host_keys=tuple(self.host_keys),
                trust="guestinfo",
                identity="uuid-1-generation",
            )
        )

    @property
    def home(self) -> Path:
        return self.folder / "disk/home/gpuvm"

    def program(self, name: str, text: str) -> None:
        """First in the PATH of the user's commands, and of what they start."""
        file = self.home / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
        (self.home / ".bashrc").write_text("PATH=$HOME/bin:$PATH\n")

    def state(self) -> str:
        """Of the watcher, as it wrote it last; without a connection, which would be a login."""
        file = self.home / "work/idle/state"
        return file.read_text() if file.exists() else ""

    def idle_s(self) -> float:
        return float(json.loads(self.state() or '{"idle_s": 0}')["idle_s"])

    def watched(self, looks: int, wait_for: WaitFor) -> list[str]:
        """What the watcher wrote at so many looks."""
        seen: list[str] = []

        def again() -> bool:
            now = self.state()
            if now and now not in seen[-1:]:
                seen.append(now)
            return len(seen) >= looks

        wait_for(again, "the watcher looks")
        return seen


@pytest.fixture
def machine(tmp_path: Path, context: Context) -> Iterator[Machine]:
    isolation = hypervisor.find_isolation(tmp_path)
    if not isolation.isolated:
        pytest.skip(f"no namespaces here: {isolation.reason}")
    boot = boot_of(context, ADDRESS, isolation)
    made = Machine(tmp_path / "gpuvm-01", boot, isolation, context)
    made.on()
    yield made
    made.off()


def install(one: guest.Guest, limit: timedelta | None = SHORT) -> str | None:
    return guest.shut_down_when_idle(one, "python3", "work", limit, look_s=0.05)


def watchers(one: guest.Guest) -> int:
    found = one.run("pgrep -c -f 'idle[.]py start' || true", timeout_s=20).stdout
    return int(found)


def test_a_guest_without_a_login_shuts_down(machine: Machine, wait_for: WaitFor) -> None:
    with machine.connect() as one:
        assert install(one) is None
        assert all('"a login"' in state for state in machine.watched(8, wait_for))
        assert machine.shut_downs.empty()
    machine.shut_downs.get(timeout=60)


def test_a_reboot_does_not_end_it(machine: Machine) -> None:
    with machine.connect() as one:
        install(one, LONG)
        task = machine.home / "work/idle/task"
        task.write_text(task.read_text().replace("7200.0", "0.3"))
    machine.off()
    machine.on()
    machine.shut_downs.get(timeout=60)


def test_a_clone_of_the_guest_is_left_alone(machine: Machine, wait_for: WaitFor) -> None:
    """It has the same files, and a machine id of its own."""
    with machine.connect() as one:
        install(one, LONG)
        task = machine.home / "work/idle/task"
        task.write_text(task.read_text().replace('"machine": null', '"machine": "another"'))
        assert '"another"' in task.read_text()
    machine.off()
    machine.on()
    with machine.connect() as one:
        assert (machine.home / ".gpuvm/at-boot").exists()
        wait_for(lambda: watchers(one) == 0, "what the boot started has ended")


def test_a_run_keeps_it_up(machine: Machine, wait_for: WaitFor) -> None:
    run = Process(
        directory="work/stock-1",
        command=["sh", "-c", "while [ ! -e ~/end ]; do sleep 0.02; done"],
        mark="stock-1",
        environment={},
    )
    with machine.connect() as one:
        guest.launch(one, "python3", run)
        install(one)
    assert '"run stock-1"' in machine.watched(8, wait_for)[-1]
    assert machine.shut_downs.empty()
    (machine.home / "end").touch()
    machine.shut_downs.get(timeout=60)


def test_a_process_on_the_gpu_keeps_it_up(machine: Machine, wait_for: WaitFor) -> None:
    machine.program("nvidia-smi", 'case "$1" in --query-compute-apps=pid) cat ~/pids;; esac')
    (machine.home / "pids").write_text("4711\n")
    with machine.connect() as one:
        install(one)
    wait_for(lambda: "a process on the GPU" in machine.state(), "it is seen")
    machine.watched(8, wait_for)
    assert machine.shut_downs.empty()
    (machine.home / "pids").write_text("")
    machine.shut_downs.get(timeout=60)


def test_a_run_between_two_looks_counts(machine: Machine, wait_for: WaitFor) -> None:
    with machine.connect() as one:
        one.run(["mkdir", "-p", "work/stock-1"], timeout_s=20)
        install(one, LONG)
    wait_for(lambda: machine.idle_s() > 0.5, "the login was a while ago")
    (machine.home / "work/stock-1/exit_status").write_text("{}")
    wait_for(lambda: machine.idle_s() < 0.5, "a run has ended")


def test_a_new_limit_replaces_the_old_one(machine: Machine, wait_for: WaitFor) -> None:
    with machine.connect() as one:
        install(one, LONG)
        assert watchers(one) == 1
        install(one, timedelta(hours=3))
        wait_for(lambda: watchers(one) == 1, "the first has ended")
        state = guest.idle_state(one, "work")
        assert state == IdleState(state.idle_s if state else -1, 10800.0, "a login", None)


def test_it_is_given_up(machine: Machine, wait_for: WaitFor) -> None:
    with machine.connect() as one:
        install(one, LONG)
        assert install(one, None) is None
        wait_for(lambda: watchers(one) == 0, "the watcher has ended")
        assert not (machine.home / ".gpuvm/at-boot").exists()
        assert guest.idle_state(one, "work") is None
        assert install(one, None) is None, "once more changes nothing"


def test_a_guest_that_may_not_shut_down_says_so(machine: Machine, wait_for: WaitFor) -> None:
    for name in ("sudo", "systemctl"):
        machine.program(name, f"echo {name}: a password is required >&2; exit 1")
    with machine.connect() as one:
        assert install(one) == "sudo: a password is required"
    wait_for(lambda: '"sudo: a password is required"' in machine.state(), "it was tried")


def test_logins_at_an_openssh_server(tmp_path: Path, wait_for: WaitFor) -> None:
    if openssh.SSHD is None:
        pytest.skip("no sshd here: apt-get install openssh-server")
    with (
        openssh.running(tmp_path) as server,
        socket.create_connection((openssh.ADDRESS, server.port)) as stranger,
    ):
        stranger.recv(8)  # a process serves it
        with (
            guest.connect(server.endpoint) as one,
            one.start(["sh", "-c", "echo $$; cat"], idle_timeout_s=20) as shell,
        ):
            above = psutil.Process(int(shell.line())).parents()
            session, listener = [p for p in above if p.name().startswith("sshd")][-2:]
            assert {p.pid for p in listener.children(recursive=True)} & logins() == {session.pid}
        wait_for(lambda: session.pid not in logins(), "it has logged out")


def logins() -> set[int]:
    """As the program in the guest sees them; here it is a module."""
    file = Path(scripts.__file__).with_name("idle.py")
    spec = importlib.util.spec_from_file_location("idle_in_guest", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return set(module.ssh_logins(Path("/proc")))
