"""Guests without a vCenter, and an SSH client for them."""

import base64
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from gpuvm.lab import hypervisor
from gpuvm.lab.guest.boot import Boot, SimulatedGPU

P100 = SimulatedGPU(
    name="Tesla P100-PCIE-16GB",
    uuid="GPU-5b1c",
    bus_id="00000000:0B:00.0",
    vendor_id=0x10DE,
    device_id=0x15F8,
    memory_mib=16384,
    compute_cap="6.0",
)


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str


@dataclass(frozen=True)
class KeyPair:
    private: paramiko.PKey
    public: str


class SSH:
    """One connection with a pinned host key."""

    def __init__(self, address: str, port: int, host_key: str, user: str, key: KeyPair) -> None:
        self.transport = paramiko.Transport(socket.create_connection((address, port)))
        kind, blob = host_key.split()[:2]
        pinned = paramiko.PKey.from_type_string(kind, base64.b64decode(blob))
        try:
            self.transport.connect(hostkey=pinned, username=user, pkey=key.private)
        except BaseException:
            self.transport.close()
            raise

    def run(self, command: str, stdin: bytes = b"") -> Done:
        with self.transport.open_session() as channel:
            channel.exec_command(command)
            feeder = threading.Thread(target=self._feed, args=(channel, stdin))
            feeder.start()
            stderr: list[bytes] = []
            second = threading.Thread(target=lambda: stderr.append(_all(channel.recv_stderr)))
            second.start()
            stdout = _all(channel.recv)
            second.join()
            feeder.join()
            return Done(channel.recv_exit_status(), stdout.decode(), stderr[0].decode())

    @staticmethod
    def _feed(channel: paramiko.Channel, data: bytes) -> None:
        with suppress(OSError):  # the command may end before it has read everything
            channel.sendall(data)
            channel.shutdown_write()


def _all(receive: Callable[[int], bytes]) -> bytes:
    return b"".join(iter(lambda: receive(1 << 16), b""))


def new_key_pair() -> KeyPair:
    key = ed25519.Ed25519PrivateKey.generate()
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    ).decode()
    private = paramiko.Ed25519Key.from_private_key(io.StringIO(text))
    return KeyPair(private, f"ssh-ed25519 {private.get_base64()}")


def guestinfo(vm: str, key: KeyPair, instance_id: str = "1") -> dict[str, str]:
    """As a deployment sets it (C4 of the lab's contract: cloud-init's VMware data source)."""
    user_data = f"#cloud-config\nusers:\n- name: gpuvm\n  ssh_authorized_keys: ['{key.public}']\n"
    metadata = f"instance-id: '{instance_id}'\nlocal-hostname: {vm}\n"
    return {
        "guestinfo.userdata": base64.b64encode(user_data.encode()).decode(),
        "guestinfo.userdata.encoding": "base64",
        "guestinfo.metadata": base64.b64encode(metadata.encode()).decode(),
        "guestinfo.metadata.encoding": "base64",
    }


def wait_for(condition: Callable[[], object], what: str, deadline_s: float = 60) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.02)


class Machines:
    """Powers guests on, each at an address of its own, and off at the end of the test."""

    p100 = P100

    def __init__(self, folder: Path, isolation: hypervisor.Isolation, cleanup: ExitStack) -> None:
        self.folder, self.isolation, self._cleanup = folder, isolation, cleanup
        self.key = new_key_pair()

    def boot(self, vm: str, gpus: tuple[SimulatedGPU, ...] = (P100,)) -> Boot:
        address = f"127.90.0.{sum(vm.encode()) % 200 + 1}"
        with socket.socket() as free:
            free.bind((address, 0))
            port = free.getsockname()[1]
        isolated = self.isolation.isolated
        return Boot(vm, (address,), port, isolated, gpus, guestinfo(vm, self.key), hidden=())

    def on(self, vm: str | Boot) -> "Machine":
        boot = self.boot(vm) if isinstance(vm, str) else vm
        guest = hypervisor.power_on(self.folder / boot.vm, boot, self.isolation)
        self._cleanup.callback(guest.power_off)
        messages = guest.messages()
        self._cleanup.callback(messages.close)
        ready = next(messages, None)
        assert isinstance(ready, hypervisor.GuestReady), guest.last_console_line()
        return Machine(guest, ready, self)

    @contextmanager
    def ssh(
        self, boot: Boot, host_key: str, user: str = "gpuvm", key: KeyPair | None = None
    ) -> Iterator[SSH]:
        with _closing(SSH(boot.addresses[0], boot.port, host_key, user, key or self.key)) as ssh:
            yield ssh


@dataclass(frozen=True)
class Machine:
    guest: hypervisor.Guest
    ready: hypervisor.GuestReady
    machines: Machines

    def run(self, command: str, stdin: bytes = b"") -> Done:
        with self.machines.ssh(self.guest.boot, self.ready.host_keys[0]) as ssh:
            return ssh.run(command, stdin)


@pytest.fixture(scope="session", name="wait_for")
def wait_for_fixture() -> Callable[..., None]:
    return wait_for


class Client:
    """An operator's side: a key pair of one's own, its user data, and logins with it."""

    def __init__(self) -> None:
        self.key = new_key_pair()

    def guestinfo(self, vm: str) -> dict[str, str]:
        return guestinfo(vm, self.key)

    def ssh(self, address: str, host_key: str, port: int) -> AbstractContextManager[SSH]:
        return _closing(SSH(address, port, host_key, "gpuvm", self.key))


@pytest.fixture
def client() -> Client:
    return Client()


@contextmanager
def _closing(ssh: SSH) -> Iterator[SSH]:
    try:
        yield ssh
    finally:
        ssh.transport.close()


@pytest.fixture
def unknown_key() -> KeyPair:
    """A key that is in no guest's user data."""
    return new_key_pair()


@pytest.fixture(scope="session")
def found_isolation(tmp_path_factory: pytest.TempPathFactory) -> hypervisor.Isolation:
    return hypervisor.find_isolation(tmp_path_factory.mktemp("probe"))


@pytest.fixture
def machines(tmp_path: Path, found_isolation: hypervisor.Isolation) -> Iterator[Machines]:
    """In namespaces of their own; skipped where the kernel gives none."""
    if not found_isolation.isolated:
        pytest.skip(f"no namespaces here: {found_isolation.reason}")
    with ExitStack() as cleanup:
        yield Machines(tmp_path, found_isolation, cleanup)


@pytest.fixture(params=["namespaces", "subreaper"])
def any_machines(
    request: pytest.FixtureRequest, tmp_path: Path, found_isolation: hypervisor.Isolation
) -> Iterator[Machines]:
    """Both ways to run guests."""
    isolation = found_isolation
    if request.param == "subreaper":
        isolation = hypervisor.Isolation("not wanted by this test")
    elif not isolation.isolated:
        pytest.skip(f"no namespaces here: {isolation.reason}")
    with ExitStack() as cleanup:
        yield Machines(tmp_path, isolation, cleanup)
