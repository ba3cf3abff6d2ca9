"""A guest's SSH server: public keys only, commands by the user's shell, SFTP, terminals.

It also reaps the guest's orphaned processes, as init does: it is process 1 of the PID namespace, or
a subreaper without one.
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
_SETSID = "/usr/bin/setsid"
_RESET_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
_SFTP_VERSION = 3  # that of OpenSSH


@dataclass(frozen=True)
class ServerConfig:
    """``homes`` and ``shells`` are by user; ``path`` is their PATH."""

    addresses: tuple[str, ...]
    port: int
    host_key: asyncssh.SSHKey
    homes: Mapping[str, Path]
    shells: Mapping[str, str]
    path: str
    environment: Mapping[str, str]
    session_program: Path
    """Ends when its standard input does."""
    hangs_up: bool = False
    """Drops every connection, as sshd does past MaxStartups."""
    shares_address: bool = False
    """Another guest may listen at the same address: either gets a connection."""


async def serve(
    config: ServerConfig, ready: Callable[[], None], until_off: Callable[[], Awaitable[object]]
) -> None:
    """Listens on every address, calls ``ready`` and serves until ``until_off`` returns.

    Raises OSError when an address or the port is not available.
    """
    children = _Children()
    listeners = [
        await asyncssh.listen(
            address,
            config.port,
            server_factory=lambda: _Server(config, children),
            server_host_keys=[config.host_key],
            encoding=None,
            line_editor=False,
            agent_forwarding=False,
            gss_host=None,
            keepalive_interval=30,
            reuse_port=config.shares_address,
        )
        for address in config.addresses
    ]
    ready()
    await until_off()
    for listener in listeners:
        listener.close()


class _Server(asyncssh.SSHServer):
    """Accepts the keys in ``~/.ssh/authorized_keys``, which is read at each login."""

    def __init__(self, config: ServerConfig, children: "_Children") -> None:
        self._config, self._children = config, children
        self._connection: asyncssh.SSHServerConnection | None = None
        self._user = ""
        self._session_end: int | None = None

    @override
    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        if self._config.hangs_up:
            conn.abort()

    @override
    def auth_completed(self) -> None:
        """A process for each login, as OpenSSH has one: by it guests see who is there."""
        read, self._session_end = os.pipe()
        try:
            session = os.posix_spawn(
                self._config.session_program,
                [f"sshd-session: {self._user}@notty"],
                {},
                file_actions=[(os.POSIX_SPAWN_DUP2, read, 0)],
                setsid=True,
                setsigmask=(),
                setsigdef=_RESET_SIGNALS,
            )
        finally:
            os.close(read)
        self._children.wait(session, lambda: None)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._session_end is not None:
            os.close(self._session_end)

    @override
    def begin_auth(self, username: str) -> bool:
        self._user = username
        home = self._config.homes.get(username)
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
        """Allows port forwarding, as sshd does by default."""
        return True

    @override
    def session_requested(self) -> "_Session":
        return _Session(self._config, self._children, self._user)


class _Files(asyncssh.SFTPServer):
    """Relative paths are relative to the user's home."""

    def __init__(self, channel: Any, home: Path) -> None:
        super().__init__(channel)
        self._home = os.fsencode(home)

    @override
    def exit(self) -> None:
        """Sends an exit status, as sftp-server does: without one, scp fails."""
        self.channel.exit(0)

    @override
    def map_path(self, path: bytes) -> bytes:
        return os.path.join(self._home, path)  # noqa: PTH118 - bytes


class _Session(asyncssh.SSHServerProcess[bytes]):
    """One exec, shell or subsystem request."""

    def __init__(self, config: ServerConfig, children: "_Children", user: str) -> None:
        self._config, self._children, self._user = config, children, user
        self._home, self._shell = config.homes[user], config.shells[user]
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
        """Sends the exit status after the last byte of both streams, as sshd does."""
        (stdin, feed), (out, stdout), (err, stderr) = os.pipe(), os.pipe(), os.pipe()
        ended = self._start(self._command_line(), (stdin, stdout, stderr), setsid=True)
        feeding = asyncio.ensure_future(self._feed(feed))
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
        with suppress(
            OSError, asyncssh.Error
        ):  # the client has disconnected, which _run notices too
            await pump_in(self.stdin, descriptor)

    def _command_line(self) -> list[str]:
        return [self._shell, "-l"] if self.command is None else [self._shell, "-c", self.command]

    def _start(
        self, command: list[str], streams: tuple[int, int, int], *, setsid: bool = False
    ) -> asyncio.Future[int]:
        """Starts the program with the streams, which are closed here; returns its exit status.

        posix_spawn cannot set a working directory: it uses this process's.
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
        return self._children.wait(self._group, self._forget_group)

    def _forget_group(self) -> None:
        """The process id may be reused: no more signals are sent to it."""
        self._group = None

    def _client(self) -> str:
        (address, port), (_, own) = (self.get_extra_info(k) for k in ("peername", "sockname"))
        return f"{address} {port} {own}"

    def _environment(self) -> dict[str, str]:
        """The variables that sshd sets, without the lab's own environment."""
        own = {
            "HOME": str(self._home),
            "USER": self._user,
            "LOGNAME": self._user,
            "SHELL": self._shell,
            "SSH_CLIENT": self._client(),  # makes bash read ~/.bashrc
            "PATH": self._config.path,
            "LANG": "C.UTF-8",
            **self._config.environment,
        }
        return own | ({"TERM": self.term_type} if self.term_type else {})


class _Children:
    """Reaps every child: those started here, and orphans."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[asyncio.Future[int], Callable[[], None]]] = {}
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def wait(self, pid: int, then: Callable[[], None]) -> asyncio.Future[int]:
        """Returns the exit status, negative for a signal; calls ``then`` when the child ends."""
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
