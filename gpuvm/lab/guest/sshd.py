"""A guest's SSH server: public keys only, commands by ``/bin/sh``, SFTP, terminals.

It is also the parent of every process of the guest that has lost its own, as init is on a real
machine: process 1 of the PID namespace, or a subreaper where there is none.
"""

import asyncio
import fcntl
import logging
import os
import signal
import struct
import termios
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh
from typing_extensions import override

from gpuvm.lab.guest.streams import pump_in, pump_out

_LOG = logging.getLogger(__name__)
_SHELL = "/bin/sh"
_SETSID = "/usr/bin/setsid"
_RESET_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
_SFTP_VERSION = 3  # what OpenSSH speaks


@dataclass(frozen=True)
class Machine:
    """``homes`` maps the users to their folders; ``path`` is their PATH."""

    addresses: tuple[str, ...]
    port: int
    host_key: asyncssh.SSHKey
    homes: Mapping[str, Path]
    path: str
    environment: Mapping[str, str]


async def serve(
    machine: Machine, ready: Callable[[], None], until_off: Callable[[], Awaitable[object]]
) -> None:
    """Listens on every address of the machine, says ``ready`` and serves ``until_off``.

    Raises OSError when an address or the port cannot be had.
    """
    children = _Children()
    listeners = [
        await asyncssh.listen(
            address,
            machine.port,
            server_factory=lambda: _Server(machine, children),
            server_host_keys=[machine.host_key],
            encoding=None,
            line_editor=False,
            agent_forwarding=False,
            gss_host=None,
            keepalive_interval=30,
        )
        for address in machine.addresses
    ]
    ready()
    await until_off()
    for listener in listeners:
        listener.close()


class _Server(asyncssh.SSHServer):
    """Who may come in: the key must be in ``~/.ssh/authorized_keys``, read at each login."""

    def __init__(self, machine: Machine, children: "_Children") -> None:
        self._machine, self._children = machine, children
        self._connection: asyncssh.SSHServerConnection | None = None
        self._user = ""

    @override
    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    @override
    def begin_auth(self, username: str) -> bool:
        self._user = username
        home = self._machine.homes.get(username)
        if home is not None and self._connection is not None:
            try:
                self._connection.set_authorized_keys(str(home / ".ssh/authorized_keys"))
            except (OSError, ValueError) as error:
                _LOG.warning("no key of %s can be used: %s", username, error)
        return True

    @override
    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> bool:
        """Ports may be forwarded, as sshd's AllowTcpForwarding is by default."""
        return True

    @override
    def session_requested(self) -> "_Session":
        return _Session(self._machine, self._children, self._user)


class _Files(asyncssh.SFTPServer):
    """Relative paths begin in the user's home."""

    def __init__(self, channel: Any, home: Path) -> None:
        super().__init__(channel)
        self._home = os.fsencode(home)

    @override
    def exit(self) -> None:
        """As the status of sshd's sftp-server: without one, scp ends with an error."""
        self.channel.exit(0)

    @override
    def map_path(self, path: bytes) -> bytes:
        return os.path.join(self._home, path)  # noqa: PTH118 - bytes


class _Session(asyncssh.SSHServerProcess[bytes]):
    """One exec, shell or subsystem request, from its start to its exit status."""

    def __init__(self, machine: Machine, children: "_Children", user: str) -> None:
        self._machine, self._children, self._user = machine, children, user
        self._home = machine.homes[user]
        self._group: int | None = None
        self._terminal: int | None = None
        super().__init__(
            lambda _: self._run(), lambda channel: _Files(channel, self._home), _SFTP_VERSION, True
        )

    @override
    def signal_received(self, signal_name: str) -> None:
        number = getattr(signal, f"SIG{signal_name}", None)
        if number is not None and self._group is not None:
            os.killpg(self._group, number)

    @override
    def break_received(self, msec: int) -> bool:
        self.signal_received("INT")
        return True

    @override
    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        if self._terminal is not None:
            size = struct.pack("HHHH", height, width, pixwidth, pixheight)
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)

    async def _run(self) -> None:
        try:
            status = await (self._on_terminal() if self.term_type else self._on_pipes())
        except (OSError, asyncssh.Error) as error:
            _LOG.info("a session ended early: %s", error)
            self.close()
            return
        if status < 0:
            self.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
        else:
            self.exit(status)

    async def _on_pipes(self) -> int:
        """The exit status goes out after the last byte of both streams, as with sshd."""
        (stdin, ours), (out, stdout), (err, stderr) = os.pipe(), os.pipe(), os.pipe()
        ended = self._start(self._command_line(), (stdin, stdout, stderr), setsid=True)
        feeding = asyncio.ensure_future(self._feed(ours))
        try:
            await asyncio.gather(pump_out(out, self.stdout), pump_out(err, self.stderr))
            return await ended
        finally:
            feeding.cancel()

    async def _on_terminal(self) -> int:
        """The terminal belongs to the new session, so that Ctrl-C reaches its processes."""
        master, slave = os.openpty()
        self._terminal = os.dup(master)
        self.terminal_size_changed(*self.term_size)
        command = [_SETSID, "--ctty", *self._command_line()]
        ended = self._start(command, (slave, slave, slave))
        feeding = asyncio.ensure_future(self._feed(os.dup(master)))
        try:
            await pump_out(master, self.stdout)
            return await ended
        finally:
            feeding.cancel()
            terminal, self._terminal = self._terminal, None
            os.close(terminal)

    async def _feed(self, descriptor: int) -> None:
        with suppress(OSError, asyncssh.Error):  # the client is gone, and _run sees it too
            await pump_in(self.stdin, descriptor)

    def _command_line(self) -> list[str]:
        return [_SHELL, "-l"] if self.command is None else [_SHELL, "-c", self.command]

    def _start(
        self, command: list[str], streams: tuple[int, int, int], *, setsid: bool = False
    ) -> asyncio.Future[int]:
        """Starts the program with the streams, which are closed here; its exit status to come.

        posix_spawn has no working directory: it takes this process's.
        """
        os.chdir(self._home)
        actions = [(os.POSIX_SPAWN_DUP2, stream, number) for number, stream in enumerate(streams)]
        try:
            self._group = os.posix_spawn(
                command[0],
                command,
                self._environment(),
                file_actions=actions,
                setsid=setsid,
                setsigmask=(),
                setsigdef=_RESET_SIGNALS,
            )
        finally:
            for stream in set(streams):
                os.close(stream)
        return self._children.ended(self._group, self._forget_group)

    def _forget_group(self) -> None:
        """Its number may soon be another process's: no signal goes there any more."""
        self._group = None

    def _environment(self) -> dict[str, str]:
        """What sshd gives a session, and nothing of the lab's own environment."""
        own = {
            "HOME": str(self._home),
            "USER": self._user,
            "LOGNAME": self._user,
            "SHELL": _SHELL,
            "PATH": self._machine.path,
            "LANG": "C.UTF-8",
            **self._machine.environment,
        }
        return own | ({"TERM": self.term_type} if self.term_type else {})


class _Children:
    """Waits for every child: those that were started here, and orphans that fell to us."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[asyncio.Future[int], Callable[[], None]]] = {}
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def ended(self, pid: int, then: Callable[[], None]) -> asyncio.Future[int]:
        """The exit status to come, negative for a signal; calls ``then`` as soon as it is known."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[pid] = (future, then)
        return future

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._waiting:
                future, then = self._waiting.pop(pid)
                then()
                if not future.done():
                    future.set_result(os.waitstatus_to_exitcode(status))
