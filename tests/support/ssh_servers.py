"""Guests for tests: real SSH servers on loopback, whose commands are real processes.

Each has a home of its own and a PATH with this test's Python; nothing of it is left afterwards.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh
from typing_extensions import override

from gpuvm.events import Event
from gpuvm.guest import Endpoint
from gpuvm.inventory import VM
from gpuvm.lab.guest.streams import pump_in, pump_out
from gpuvm.runs import Member


def new_mark() -> str:
    """A mark for a Process. All tests' guests share one process table, and ``end_all`` ends every
    process with a mark: one of a test that runs at the same time must have another.
    """
    return f"mark-{secrets.token_hex(8)}"


@dataclass
class Machine:
    """A guest's inside. ``environment`` is what its sshd gives to every session."""

    name: str
    home: Path
    address: str
    port: int
    host_keys: tuple[str, ...]
    user_key: Path
    environment: dict[str, str]
    connections: set[asyncssh.SSHServerConnection] = field(default_factory=set)
    children: "list[subprocess.Popen[bytes]]" = field(default_factory=list)
    logins: int = 0
    loop: asyncio.AbstractEventLoop | None = None

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(
            name=self.name,
            address=self.address,
            port=self.port,
            user="gpuvm",
            key_file=self.user_key,
            host_keys=self.host_keys,
            trust="guestinfo",
            identity=f"uuid-of-{self.name}-1",
        )

    def member(self) -> Member:
        vm = VM(self.name, f"vm-{self.name}", "esx-01", True, f"uuid-of-{self.name}")
        return Member(endpoint=self.endpoint, vm=vm, gpus=())

    def cut(self) -> None:
        """Drop all connections, as when a cable is pulled; the processes keep running."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self._abort)

    def _abort(self) -> None:
        for connection in list(self.connections):
            connection.abort()

    def program(self, name: str, text: str) -> None:
        """Puts a shell script into the guest's PATH."""
        file = self.home / "bin" / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)

    def nvidia_smi(self, *rows: str) -> None:
        listing = "".join(f"{row}\n" for row in rows)
        (self.home / "gpus").write_text(listing)
        self.program("nvidia-smi", f"cat {self.home}/gpus")

    def processes(self) -> list[int]:
        """Return this machine's processes: those with its HOME."""
        mark = f"HOME={self.home}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
        return found


class _Server(asyncssh.SSHServer):
    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    @override
    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._machine.connections.add(conn)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._machine.connections.discard(self._connection)

    @override
    def begin_auth(self, username: str) -> bool:
        keys = self._machine.home / ".ssh/authorized_keys"
        if username == "gpuvm":
            self._connection.set_authorized_keys(str(keys))
        return True

    @override
    def auth_completed(self) -> None:
        self._machine.logins += 1


class Guests:
    """``guests.on("one")`` starts a machine."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._folder, self._loop = folder, loop
        self._listeners: dict[str, asyncssh.SSHAcceptor] = {}
        self._host_keys: dict[str, list[asyncssh.SSHKey]] = {}
        self.machines: list[Machine] = []
        self.user_key = folder / "id_ed25519"
        self._key = asyncssh.generate_private_key("ssh-ed25519")
        self._key.write_private_key(self.user_key)
        self.user_key.chmod(0o600)

    def on(self, name: str, *, key_types: tuple[str, ...] = ("ssh-ed25519",)) -> Machine:
        home = self._folder / name
        (home / ".ssh").mkdir(parents=True)
        (home / "bin").mkdir()
        self._key.write_public_key(home / ".ssh/authorized_keys")
        host_keys = [asyncssh.generate_private_key(kind) for kind in key_types]
        machine = Machine(
            name=name,
            home=home,
            address=f"127.0.0.{len(self.machines) + 2}",
            port=0,
            host_keys=tuple(_public(key) for key in host_keys),
            user_key=self.user_key,
            environment={"HOME": str(home), "PATH": f"{home}/bin:/usr/bin:/bin"},
            loop=self._loop,
        )
        machine.program("python3", f'exec {sys.executable} "$@"')
        self.machines.append(machine)
        self._host_keys[name] = host_keys
        self.start(machine)
        return machine

    def start(self, machine: Machine) -> None:
        """Its sshd listens (again), on the port that it had."""
        listening = self._listen(machine)
        listener = asyncio.run_coroutine_threadsafe(listening, self._loop).result()
        self._listeners[machine.name] = listener
        machine.port = listener.get_port()

    async def _listen(self, machine: Machine) -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            machine.address,
            machine.port,
            server_factory=lambda: _Server(machine),
            server_host_keys=self._host_keys[machine.name],
            process_factory=lambda process: _serve(machine, process),
            encoding=None,
            agent_forwarding=False,
            gss_host=None,
        )

    def stop(self, machine: Machine) -> None:
        """Stop its sshd and drop all connections; other processes keep running."""
        asyncio.run_coroutine_threadsafe(self._stop(machine), self._loop).result()

    async def _stop(self, machine: Machine) -> None:
        self._listeners[machine.name].close()
        for connection in list(machine.connections):
            connection.abort()

    def close(self) -> None:
        for machine in self.machines:
            self.stop(machine)
            for pid in machine.processes():
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            for child in machine.children:
                child.wait()


async def _serve(machine: Machine, process: "asyncssh.SSHServerProcess[bytes]") -> None:
    """Run a command as sshd does: with the user's shell, in a separate session."""
    (stdin, own), (out, stdout), (err, stderr) = os.pipe(), os.pipe(), os.pipe()
    child = subprocess.Popen(  # noqa: ASYNC220 - it starts at once
        ["/bin/sh", "-c", process.command or "exit 1"],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=machine.home,
        env=machine.environment,
        start_new_session=True,
    )
    machine.children.append(child)
    for end in (stdin, stdout, stderr):
        os.close(end)
    feeding = asyncio.ensure_future(_feed(process, own))
    try:
        with contextlib.suppress(OSError, asyncssh.Error):
            await asyncio.gather(pump_out(out, process.stdout), pump_out(err, process.stderr))
        status = await asyncio.to_thread(child.wait)
        with contextlib.suppress(OSError, asyncssh.Error):
            process.exit(status)
    finally:
        feeding.cancel()


async def _feed(process: "asyncssh.SSHServerProcess[bytes]", descriptor: int) -> None:
    with contextlib.suppress(OSError, asyncssh.Error, asyncio.CancelledError):
        await pump_in(process.stdin, descriptor)


def _public(key: asyncssh.SSHKey) -> str:
    exported: bytes = key.export_public_key()
    return exported.decode().strip()


@contextlib.contextmanager
def data_centre(folder: Path) -> Iterator[Guests]:
    """Machines on an event loop of their own; all of it is gone afterwards."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    made = Guests(folder, loop)
    try:
        yield made
    finally:
        made.close()
        asyncio.run_coroutine_threadsafe(_finish(loop), loop).result(timeout=30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _finish(loop: asyncio.AbstractEventLoop) -> None:
    """Ignore what a server still does for a disconnected client."""
    tasks = [task for task in asyncio.all_tasks(loop) if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await loop.shutdown_default_executor()


@dataclass
class EventLog:
    """Every event; a sink."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def texts(self, kind: str) -> list[str]:
        return [event.text or "" for event in self.events if event.kind == kind]
