"""Guests over real SSH: plain machines for many at once, and one of the lab's, in namespaces."""

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import openssh
import pytest
from run_harness import Runner
from ssh_servers import EventLog, Guests, Machine, data_centre

from gpuvm import guest
from gpuvm.events import Events
from gpuvm.guest import Endpoint
from gpuvm.lab import hypervisor
from gpuvm.lab.guest.boot import Boot, SimulatedGPU
from gpuvm.settings import Context

__all__ = [
    "context",
    "event_log",
    "events",
    "guests",
    "machine",
    "openssh_server",
    "runner",
    "server",
    "three",
    "wait_for",
]

ADDRESS = "127.91.0.1"


@dataclass(frozen=True)
class Server:
    address: str
    port: int
    host_keys: tuple[str, ...]

    def endpoint(self, context: Context, **changes: Any) -> Endpoint:
        right = Endpoint(
            name="gpuvm-01",
            address=self.address,
            port=self.port,
            user="gpuvm",
            key_file=context.key_file,
            host_keys=self.host_keys,
            trust="guestinfo",
            identity="uuid-1-generation",
        )
        return replace(right, **changes)


@pytest.fixture
def context() -> Context:
    """A context whose key pair exists; tests have directories of their own."""
    made = Context(name="test", vcenter="127.0.0.1", user="nobody")
    guest.ensure_key_pair(made)
    return made


@pytest.fixture
def server(tmp_path: Path, context: Context) -> Iterator[Server]:
    """A guest without a GPU that has read our user data."""
    isolation = hypervisor.find_isolation(tmp_path)
    with powered_on(tmp_path, context, ADDRESS, isolation) as made:
        yield made


def boot_of(
    context: Context,
    address: str,
    isolation: hypervisor.Isolation,
    gpus: tuple[SimulatedGPU, ...] = (),
    guestinfo: Mapping[str, str] | None = None,
) -> Boot:
    """At a free port, with our user data and ``guestinfo`` beside it."""
    with socket.create_server((address, 0)) as free:
        port = free.getsockname()[1]
    data = guest.user_data(
        hostname="gpuvm-01",
        instance_id="uuid-1-generation",
        user="gpuvm",
        authorized_keys=(guest.ensure_key_pair(context),),
    )
    info = data | dict(guestinfo or {})
    return Boot("gpuvm-01", (address,), port, isolation.isolated, gpus, info, hidden=())


@contextmanager
def powered_on(
    folder: Path,
    context: Context,
    address: str,
    isolation: hypervisor.Isolation,
    gpus: tuple[SimulatedGPU, ...] = (),
    guestinfo: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A guest of the lab that has read our user data, and ``guestinfo`` beside it."""
    boot = boot_of(context, address, isolation, gpus, guestinfo)
    machine = hypervisor.power_on(folder / "gpuvm-01", boot, isolation)
    with closing(machine.messages()) as messages:
        try:
            ready = next(messages, None)
            assert isinstance(ready, hypervisor.GuestReady), machine.last_console_line()
            yield Server(address, boot.port, tuple(ready.host_keys))
        finally:
            machine.power_off()


@pytest.fixture
def openssh_server(tmp_path: Path) -> Iterator[openssh.Server]:
    if openssh.SSHD is None:
        pytest.skip("no sshd here: apt-get install openssh-server")
    (tmp_path / "sshd").mkdir()
    with openssh.running(tmp_path / "sshd") as running:
        yield running


@pytest.fixture
def guests(tmp_path: Path) -> Iterator[Guests]:
    folder = tmp_path / "guests"
    folder.mkdir()
    with data_centre(folder) as made:
        yield made


@pytest.fixture
def machine(guests: Guests) -> Machine:
    return guests.on("one")


@pytest.fixture
def event_log() -> EventLog:
    return EventLog()


@pytest.fixture
def events(event_log: EventLog) -> Events:
    return Events(event_log)


@pytest.fixture
def runner(tmp_path: Path, event_log: EventLog) -> Runner:
    (tmp_path / "mine").mkdir()
    return Runner(tmp_path / "mine", event_log)


@pytest.fixture
def three(guests: Guests) -> list[Machine]:
    return [guests.on(name) for name in ("vm-01", "vm-02", "vm-03")]


@pytest.fixture
def wait_for() -> Callable[..., None]:
    return _wait_for


def _wait_for(condition: Callable[[], object], what: str, deadline_s: float = 30) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.02)
