"""Guests with networks of their own: their links are cut and slowed; nothing is left (R15)."""

import errno
import json
import os
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import CommandLine, fast_lab

from gpuvm import lab
from gpuvm.lab import network, processes
from gpuvm.lab.description import describe

WHY_NOT = network.why_not()
# What a guest's kernel takes before its link does.
_BUFFERED = 1 << 20
pytestmark = [
    pytest.mark.skipif(WHY_NOT is not None, reason=f"no networks of their own: {WHY_NOT}"),
    pytest.mark.allow_hosts(["127.0.0.0/8", "198.18.0.0/15"]),
]
Wait = Callable[..., None]


class Site:
    """A lab with two guests, ``gpuvm-01`` and ``gpuvm-02``, and the command line for it."""

    def __init__(self, home: Path) -> None:
        self.command = CommandLine(home)
        self.command.environment["GPUVM_STATE_DIR"] = str(home / "state")

    def __call__(self, *arguments: str) -> Any:
        done = self.command(*arguments, "--json", timeout_s=100)
        assert done.exit_code == 0, done.stderr
        return done.json["data"]

    def status(self) -> lab.LabStatus:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("GPUVM_STATE_DIR", self.command.environment["GPUVM_STATE_DIR"])
            return lab.status()

    def guest(self, vm: str) -> lab.LabGuest:
        return next(guest for guest in self.status().guests if guest.vm == vm)

    def pids(self, vm: str) -> list[int]:
        first = self.guest(vm).pid
        assert first is not None
        return [first, *processes.descendants(first)]

    def connect(self, vm: str, port: int = 22) -> socket.socket:
        return socket.create_connection((self.guest(vm).address, port), timeout=60)

    def run(self, vm: str, command: str) -> str:
        done = self.command("ssh", vm, "--", command, timeout_s=60)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    def serve(self, vm: str, program: str) -> int:
        """Runs a server in the guest; returns when it has printed its port."""
        command = f"nohup python3 -c {shlex.quote(program)} < /dev/null > port 2> error & "
        until = "while ! [ -s port ]; do read -t 0.02 < <(:) || :; done; cat port"
        return int(self.run(vm, command + until))

    def interfaces(self) -> set[str]:
        return {name for name in network.links(None) if name.startswith("gpuvm-")}


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, simulator: None, wait_for: Wait
) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("home")
    site = Site(home)
    before = site.interfaces()
    shape = home / "lab.json"
    shape.write_text(fast_lab(describe(hosts=2)))
    with ExitStack() as cleanup:
        cleanup.callback(site.command, "lab", "down")
        site("lab", "up", "--description", str(shape), "--network", "namespaces")
        assert len(site.interfaces() - before) == 1
        power_on(site, wait_for)
        yield site
        site("lab", "down")
        assert site.interfaces() == before
        assert not (home / "state/labs").exists()


def power_on(site: Site, wait_for: Wait) -> None:
    """Without the tests of TensorFlow in the guests, which take longer."""
    site("provision", "--hosts", "2", "--until", "address")
    for vm in ("gpuvm-01", "gpuvm-02"):
        wait_for(lambda vm=vm: site.guest(vm).pid, f"{vm} answers")


def banner(connection: socket.socket) -> bytes:
    return connection.recv(4)


def is_established(connection: socket.socket) -> bool:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[0] == 1


def retransmissions(connection: socket.socket) -> int:
    """How often the last packet was sent again without an answer."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[2]


def test_everybody_meets_at_port_22(site: Site) -> None:
    status = site.status()
    assert (status.network, status.ssh_port) == ("namespaces", 22)
    for vm, other in (("gpuvm-01", "gpuvm-02"), ("gpuvm-02", "gpuvm-01")):
        with site.connect(vm) as connection:
            assert banner(connection) == b"SSH-"
        address = site.guest(other).address
        assert site.run(vm, f"exec 3<> /dev/tcp/{address}/22; head -c 4 <&3") == "SSH-"


SENDS = """
import socket
server = socket.create_server(('', 9000))
print(9000, flush=True)
while True:
    connection, _ = server.accept()
    try:
        while True:
            connection.sendall(bytes(1 << 16))
    except OSError:
        connection.close()
"""


def test_a_port_of_all_addresses_is_a_guest_s_own(site: Site) -> None:
    """And a slow link has its rate: what arrives from either guest in the same time is compared."""
    ports = {vm: site.serve(vm, SENDS) for vm in ("gpuvm-01", "gpuvm-02")}
    assert set(ports.values()) == {9000}

    (changed,) = site("lab", "slow", "gpuvm-01", "--rate", "1mbit")["guests"]
    assert changed["link"] == "slow"
    received = {"gpuvm-01": 0, "gpuvm-02": 0}
    with selectors.DefaultSelector() as both, ExitStack() as connections:
        for vm, port in ports.items():
            connection = connections.enter_context(site.connect(vm, port))
            both.register(connection, selectors.EVENT_READ, vm)
        while received["gpuvm-02"] < 64 << 20:
            for key, _ in both.select():
                received[key.data] += len(key.fileobj.recv(1 << 16))  # type: ignore[union-attr]
    assert received["gpuvm-01"] * 10 < received["gpuvm-02"]
    (counted,) = discipline(site, "gpuvm-01")
    assert counted["kind"] == "tbf"
    assert counted["overlimits"] > 0
    assert received["gpuvm-01"] <= counted["bytes"] < received["gpuvm-01"] + _BUFFERED

    (changed,) = site("lab", "mend", "gpuvm-01")["guests"]
    assert changed["link"] == "up"
    assert [one["kind"] for one in discipline(site, "gpuvm-01")] == ["noqueue"]


@pytest.mark.skipif(shutil.which("nft") is None, reason="nftables is not installed")
def test_a_guest_has_a_firewall_of_its_own(site: Site, wait_for: Wait) -> None:
    namespace = Path(f"/proc/{site.guest('gpuvm-01').pid}/ns/net")
    rules = (
        "add table inet filter",
        "add chain inet filter input { type filter hook input priority 0; }",
        "add rule inet filter input tcp dport 22 drop",
    )
    network.run_in(namespace, [["nft", "; ".join(rules)]])
    with socket.socket() as connection:
        connection.setblocking(False)
        assert connection.connect_ex((site.guest("gpuvm-01").address, 22)) == errno.EINPROGRESS
        with site.connect("gpuvm-02") as other:
            assert banner(other) == b"SSH-"
        wait_for(lambda: retransmissions(connection) > 0, "nobody answers")
        assert not is_established(connection)
        network.run_in(namespace, [["nft", "flush ruleset"]])
        wait_for(lambda: is_established(connection), "it is let through")


def discipline(site: Site, vm: str) -> list[dict[str, Any]]:
    """The queue of the guest's own interface, with tc's statistics."""
    namespace = Path(f"/proc/{site.guest(vm).pid}/ns/net")
    return network.read_in(namespace, "tc", "-json", "-s", "qdisc", "show", "dev", "eth0")


def has_netem() -> bool:
    tried = subprocess.run(
        ["unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"],
        capture_output=True,
        check=False,
    )
    return tried.returncode == 0


def test_a_delay_needs_netem(site: Site) -> None:
    done = site.command("lab", "slow", "gpuvm-02", "--rate", "100mbit", "--delay", "5ms")
    if has_netem():
        assert [one["kind"] for one in discipline(site, "gpuvm-02")] == ["netem"]
    else:
        assert done.exit_code == 1
        assert "no queue that delays packets" in done.stderr
        assert "a rate alone needs none" in done.stderr
    site("lab", "mend", "gpuvm-02")


def test_a_cut_link_is_silent_and_a_mended_one_goes_on(site: Site, wait_for: Wait) -> None:
    before = site.guest("gpuvm-02")
    with site.connect("gpuvm-02") as connection:
        assert banner(connection) == b"SSH-"
        (shown,) = site("lab", "cut", "gpuvm-02")["guests"]
        assert shown["link"] == "cut"
        assert site.guest("gpuvm-02") == replace(before, link="cut")  # the same process
        connection.sendall(b"SSH-2.0-test\r\n")
        wait_for(lambda: retransmissions(connection) > 2, "nobody answers")
        assert is_established(connection)  # and nobody says so
        with site.connect("gpuvm-01") as other:
            assert banner(other) == b"SSH-"
        site("lab", "mend", "gpuvm-02")
        assert site.guest("gpuvm-02") == before
        rest = b""
        while b"diffie-hellman" not in rest and b"curve25519" not in rest:
            rest += connection.recv(1 << 16) or b"curve25519"
        assert b"SSH-" not in rest  # the first connection, not another one
        assert is_established(connection)


def test_a_frozen_guest_keeps_its_connections(site: Site, wait_for: Wait) -> None:
    with site.connect("gpuvm-02") as connection:
        assert banner(connection) == b"SSH-"
        (frozen,) = site("lab", "freeze", "gpuvm-02")["guests"]
        assert frozen["frozen"] is True
        assert all(map(processes.is_stopped, site.pids("gpuvm-02")))
        with site.connect("gpuvm-02") as late:  # its kernel answers
            (thawed,) = site("lab", "thaw", "gpuvm-02")["guests"]
            assert thawed["frozen"] is False
            assert banner(late) == b"SSH-"
        assert not any(map(processes.is_stopped, site.pids("gpuvm-02")))
        assert is_established(connection)


def test_a_power_cycle_gives_a_sound_link(site: Site, wait_for: Wait) -> None:
    site("lab", "cut", "gpuvm-01")
    site("stop", "--yes", "--now")
    power_on(site, wait_for)
    assert site.guest("gpuvm-01").link == "up"
    with site.connect("gpuvm-01") as connection:
        assert banner(connection) == b"SSH-"


@pytest.mark.soak
@pytest.mark.tensorflow
def test_a_distributed_run(site: Site) -> None:
    site("provision", "--hosts", "2")
    options = ("--cpu-threads", "1", "--epochs", "1", "--stop-after", "5")
    done = site.command("run", "mnist", "--distributed", "--json", "--", *options)
    assert done.exit_code == 0, done.stderr
    assert done.json["data"]["status"] == "succeeded"


def test_nothing_is_left_of_a_killed_lab(site: Site, wait_for: Wait) -> None:
    interface = site.interfaces()
    record = json.loads((site.status().state_dir / "lab.json").read_text())
    os.kill(record["supervisor"]["pid"], signal.SIGKILL)
    wait_for(lambda: not site.interfaces() & interface, "the kernel has removed the network")
    shape = site.command.home / "lab.json"
    site("lab", "up", "--description", str(shape), "--network", "namespaces")
    wait_for(lambda: site.guest("gpuvm-01").pid, "the guest is back")
    with site.connect("gpuvm-01") as connection:
        assert banner(connection) == b"SSH-"
    done = site.command("lab", "up", "--description", str(shape), "--network", "loopback")
    assert "is running with the network 'namespaces'" in done.stderr


def test_a_second_lab_has_another_network(site: Site, tmp_path: Path) -> None:
    own = site.interfaces()
    other = Site(tmp_path)
    try:
        other("lab", "up", "--hosts", "1", "--network", "namespaces")
        assert other.status().address_block != site.status().address_block
        assert len(other.interfaces() - own) == 1
    finally:
        other("lab", "down")
    assert other.interfaces() == own
    with site.connect("gpuvm-02") as connection:
        assert banner(connection) == b"SSH-"


def test_a_user_who_is_not_root_is_told(tmp_path: Path) -> None:
    program = "from gpuvm.lab import network; print(network.why_not())"
    done = subprocess.run(
        ["unshare", "--map-user=1000", "--map-group=1000", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("only root can")
