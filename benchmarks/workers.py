"""Workers of a distributed run on this machine, and the links between them.

Without a link they talk over loopback and Unix sockets. With one, each worker has a network
namespace, and everything that it says to others passes an interface with that rate and delay.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuvm.runs.averaging import Averager

WORKLOADS = Path(__file__).resolve().parents[1] / "workloads"
sys.path[:0] = [str(WORKLOADS), str(WORKLOADS.parent / "tests/support")]

from averaging_server import serve

BRIDGE, NETWORK = "gpuvm-bench", "10.213.77"
PORT = 29517


@dataclass(frozen=True)
class Link:
    """``rate`` and ``delay`` are those of tc, such as 1gbit and 0.1ms; not every kernel has the
    part that delays.
    """

    rate: str
    delay: str | None = None


@dataclass(frozen=True)
class Place:
    """Where a worker runs: the cores, its address, and what its command begins with."""

    cores: frozenset[int]
    address: str
    prefix: tuple[str, ...] = ()

    def start(
        self, command: Sequence[str], environment: dict[str, str], output: Path
    ) -> "subprocess.Popen[bytes]":
        cores = ",".join(map(str, sorted(self.cores)))
        with output.open("wb") as file:
            return subprocess.Popen(
                [*self.prefix, "taskset", "-c", cores, *command],
                cwd=WORKLOADS,
                env=os.environ | environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )


def why_not(link: Link) -> str | None:
    """Why there cannot be such links here; None where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "iproute2 is not installed"
    name = f"{BRIDGE}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces cannot be made: {made.stderr.strip()}"
    try:
        for slow in _slowing(link, "lo"):
            done = subprocess.run(
                ["tc", "-n", name, *slow], capture_output=True, text=True, check=False
            )
            if done.returncode:
                return f"tc {' '.join(slow)}: {done.stderr.strip()}"
    finally:
        _run("ip", "netns", "del", name)
    return None


@contextlib.contextmanager
def places(cores: Sequence[frozenset[int]], link: Link | None) -> Iterator[list[Place]]:
    """One for each worker."""
    if link is None:
        yield [Place(own, "127.0.0.1") for own in cores]
        return
    with contextlib.ExitStack() as made:
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        made.callback(_run, "ip", "link", "del", BRIDGE)
        _run("ip", "address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        found = []
        for worker, own in enumerate(cores):
            address = f"{NETWORK}.{worker + 10}"
            name = f"{BRIDGE}-{worker}"
            _run("ip", "netns", "add", name)
            made.callback(_run, "ip", "netns", "del", name)
            _plug(name, f"gb{worker}", address, link)
            found.append(Place(own, address, ("ip", "netns", "exec", name)))
        yield found


@contextlib.contextmanager
def averaging(folder: Path, where: Sequence[Place]) -> Iterator[list[dict[str, str]]]:
    """Yields the environment of each worker of a run with local SGD."""
    averager, slowed = Averager(range(len(where))), bool(where[0].prefix)
    with contextlib.ExitStack() as opened:
        environments = []
        for worker, place in enumerate(where):
            path = folder / f"{worker}.sock"
            if slowed:
                host, port = f"{NETWORK}.1", PORT + worker
                listening = opened.enter_context(socket.create_server((host, port)))
                relay = [*place.prefix, sys.executable, __file__, str(path), host, str(port)]
                process = opened.enter_context(subprocess.Popen(relay))
                opened.callback(process.kill)
            else:
                listening = opened.enter_context(socket.socket(socket.AF_UNIX))
                listening.bind(str(path))
                listening.listen()
            environments.append(serve(listening, averager, path, worker, len(where)))
        yield environments


def lockstep(where: Sequence[Place]) -> list[dict[str, str]]:
    """The environment of each worker of a run with allreduce."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("", 0))) for _ in where]
        ports = [one.getsockname()[1] for one in sockets]
    addresses = [f"{place.address}:{port}" for place, port in zip(where, ports, strict=True)]
    return [
        {
            "TF_CONFIG": json.dumps(
                {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            )
        }
        for index in range(len(where))
    ]


def _plug(namespace: str, interface: str, address: str, link: Link) -> None:
    """Both ends are slowed: an interface's rate is that of what it sends."""
    inside = ("ip", "-n", namespace)
    _run("ip", "link", "add", interface, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    _run("ip", "link", "set", interface, "master", BRIDGE, "up")
    _run(*inside, "address", "add", f"{address}/24", "dev", "eth0")
    _run(*inside, "link", "set", "eth0", "up")
    _run(*inside, "link", "set", "lo", "up")
    for slow in _slowing(link, interface):
        _run("tc", *slow)
    for slow in _slowing(link, "eth0"):
        _run("tc", "-n", namespace, *slow)


def _slowing(link: Link, interface: str) -> Iterator[tuple[str, ...]]:
    """The arguments of tc."""
    add = ("qdisc", "add", "dev", interface)
    limit = ("tbf", "rate", link.rate, "burst", "128kb", "latency", "50ms")
    yield (*add, "root", "handle", "1:", *limit)
    if link.delay is not None:
        yield (*add, "parent", "1:1", "netem", "delay", link.delay)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")


def _relay(path: str, host: str, port: int) -> None:
    """From the worker's Unix socket to who averages, over the worker's link."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        near, _ = listening.accept()
        far = socket.create_connection((host, port))
        back = threading.Thread(target=_pass_on, args=(far, near), daemon=True)
        back.start()
        _pass_on(near, far)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(1 << 16):
            target.sendall(part)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    _relay(sys.argv[1], sys.argv[2], int(sys.argv[3]))
