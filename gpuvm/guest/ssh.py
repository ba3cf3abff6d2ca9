"""One SSH connection to one guest: run, stream, open.

with connect(endpoint, timeout_s=30) as guest:
    guest.run(["nvidia-smi", "-L"], timeout_s=20).stdout

A lost connection becomes GuestUnreachable; a timeout, GuestError.

sshd runs commands in the user's login shell, and ``~/.bashrc`` may print something first: a unique
line marks where the command's own output begins.
"""

import contextlib
import io
import json
import logging
import math
import secrets
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import paramiko
import stamina

from gpuvm.errors import CommandFailed, GuestError, GuestUnreachable
from gpuvm.guest import openssh, scripts
from gpuvm.guest.connection import Endpoint, key_line, open_transport
from gpuvm.guest.streams import ChannelStream, Stream

_LOG = logging.getLogger(__name__)
CHUNK = 1 << 16
TIMED_OUT = 124
"""The status of coreutils' timeout(1)."""
TIMED_OUT_HERE = 128 + signal.SIGALRM
"""That of a script whose time was up."""
MAX_SHOWN = 60
GRACE_S = 15.0
"""Added to the time limit that timeout(1) enforces in the guest."""

# Failed attempts are retried or raised; stamina would log each at WARNING.
logging.getLogger("stamina").setLevel(logging.ERROR)


@dataclass(frozen=True)
class CommandResult:
    exit_status: int
    stdout: str
    stderr: str


def connect(endpoint: Endpoint, *, timeout_s: float = 30) -> "Guest":
    """Retries until the deadline while the guest is unreachable; other errors are raised at once.

    Raises GuestUnreachable, GuestAuthRefused, HostKeyMismatch.
    """
    end = time.monotonic() + timeout_s
    for attempt in stamina.retry_context(
        GuestUnreachable, attempts=None, timeout=timeout_s, wait_max=2, wait_jitter=0.3
    ):
        with attempt:
            left = max(1.0, end - time.monotonic())
            return Guest(*open_transport(endpoint, left))
    raise AssertionError("the last attempt returns or raises")


class Guest:
    """Use it in a ``with`` block; several threads may use it at once."""

    def __init__(self, endpoint: Endpoint, transport: paramiko.Transport) -> None:
        self.endpoint, self._transport = endpoint, transport
        self._openssh_streams: set[openssh.ProcessStream] = set()
        self._interpreters: dict[str, HeldCommand] = {}
        self._turn = threading.Lock()

    @property
    def name(self) -> str:
        return self.endpoint.name

    @property
    def is_open(self) -> bool:
        return self._transport.is_active()

    def __enter__(self) -> "Guest":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Calls that still wait for this guest raise GuestUnreachable."""
        self._transport.close()
        for stream in tuple(self._openssh_streams):
            stream.kill()

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout_s: float,
        check: bool = True,
        stdin: bytes = b"",
        what: str | None = None,
    ) -> CommandResult:
        """Runs a command and waits; a sequence is quoted, a string is run by the guest's sh.

        ``what`` names the command in errors. Raises CommandFailed for a status other than 0
        (unless ``check`` is False), GuestUnreachable when the connection is lost, and GuestError
        after ``timeout_s``; the command is then ended in the guest too.
        """
        out = io.BytesIO()
        done = self.pipe(command, io.BytesIO(stdin), out, timeout_s=timeout_s, what=what)
        if check and done.exit_status != 0:
            name = what or _program(command)
            raise CommandFailed(self.name, name, done.exit_status, done.stderr)
        return CommandResult(done.exit_status, _text(out.getvalue()), done.stderr)

    def pipe(
        self,
        command: str | Sequence[str],
        stdin: BinaryIO,
        stdout: BinaryIO,
        *,
        timeout_s: float,
        what: str | None = None,
    ) -> CommandResult:
        """Like ``run`` with check=False, from one open file into another."""
        end = time.monotonic() + timeout_s + GRACE_S
        with (
            self._translated(what or _program(command), timeout_s),
            self._channel() as channel,
        ):
            mark = _OutputMark()
            channel.exec_command(mark.before(_bounded(command, timeout_s)))
            errors = bytearray()
            _in_background(_feed, channel, stdin)
            reader = _in_background(_drain, channel, errors)
            while chunk := _receive(channel, end):
                stdout.write(mark.output(chunk))
            reader.join(max(0.0, end - time.monotonic()))
            status = self._status(channel, end)
        if not mark.seen:
            raise self._not_started(what or _program(command), status, mark, bytes(errors))
        if status == TIMED_OUT:
            raise _timed_out(self.name, what or _program(command), timeout_s)
        return CommandResult(status, "", _text(bytes(errors)))

    def script(
        self,
        python: str,
        program: str,
        *arguments: str,
        timeout_s: float,
        what: str,
        stdin: str = "",
        check: bool = True,
    ) -> CommandResult:
        """Runs a program of ``gpuvm.guest.scripts`` to its end with the guest's ``python``.

        One interpreter serves all of them for as long as the connection lasts: they take a round
        trip each, and one after the other. Raises as ``run`` does.
        """
        task = {
            "name": program,
            "source": scripts.source(program),
            "arguments": arguments,
            "stdin": stdin,
            "most_s": math.ceil(timeout_s),
        }
        with self._turn, self._translated(what, timeout_s):
            done = self._ask(python, json.dumps(task), what, timeout_s)
        if done.exit_status == TIMED_OUT_HERE:
            raise _timed_out(self.name, what, timeout_s)
        if check and done.exit_status != 0:
            raise CommandFailed(self.name, what, done.exit_status, done.stderr)
        return done

    def _ask(self, python: str, task: str, what: str, timeout_s: float) -> CommandResult:
        served = self._interpreters.pop(python, None) or self._interpreter(python)
        answer = served.ask(task, timeout_s + GRACE_S)
        if answer:
            self._interpreters[python] = served
            return CommandResult(*map(json.loads(answer).get, ("status", "stdout", "stderr")))
        ended = served.ended(GRACE_S)
        if not served.mark.seen:
            raise self._not_started(what, ended.exit_status, served.mark, ended.stderr.encode())
        return ended

    def _interpreter(self, python: str) -> "HeldCommand":
        channel, mark = self._transport.open_session(timeout=GRACE_S), _OutputMark()
        channel.exec_command(mark.before(_quoted(scripts.command(python, "serve"))))
        return HeldCommand(channel, mark)

    def execute(
        self,
        command: str | Sequence[str],
        stdout: Callable[[bytes], object],
        stderr: Callable[[bytes], object],
    ) -> int:
        """Runs a command without a time limit and without input; returns its exit status.

        Output is passed on as it arrives, stderr in its own thread. Raises GuestUnreachable when
        the connection is lost.
        """
        with self._translated(_program(command), math.inf), self._channel() as channel:
            channel.exec_command(_quoted(command))
            channel.shutdown_write()
            reader = _in_background(_forward, channel.recv_stderr, stderr)
            while chunk := channel.recv(CHUNK):
                stdout(chunk)
            reader.join()
            channel.status_event.wait()
            if channel.exit_status == -1 and not self._transport.is_active():
                raise EOFError("the connection was closed")
            return channel.exit_status

    def stream(self, command: Sequence[str], *, idle_timeout_s: float) -> Iterator[str]:
        """Yields the lines of a command's standard output as they arrive.

        Raises GuestUnreachable when the connection is lost or without output for
        ``idle_timeout_s``, and CommandFailed.
        """
        with self._translated(_program(command), idle_timeout_s), self._channel() as channel:
            channel.settimeout(idle_timeout_s)
            mark = _OutputMark()
            channel.exec_command(mark.before(_quoted(command)))
            try:
                yield from mark.lines(channel.makefile("r"))
            except TimeoutError:
                raise EOFError(f"no output for {idle_timeout_s:g} s") from None
            status = self._status(channel, time.monotonic() + idle_timeout_s)
            if not mark.seen:
                errors = channel.recv_stderr(CHUNK)
                raise self._not_started(_program(command), status, mark, errors)
            if status > 0:
                stderr = _text(channel.recv_stderr(CHUNK))
                raise CommandFailed(self.name, _program(command), status, stderr)

    @contextlib.contextmanager
    def start(self, command: Sequence[str], *, idle_timeout_s: float) -> Iterator["HeldCommand"]:
        """Starts a command; when the block ends, its input is closed and it is waited for.

        Raises as ``stream`` does.
        """
        with self._translated(_program(command), idle_timeout_s), self._channel() as channel:
            channel.settimeout(idle_timeout_s)
            mark = _OutputMark()
            channel.exec_command(mark.before(_quoted(command)))
            yield HeldCommand(channel, mark)
            channel.shutdown_write()
            self._status(channel, time.monotonic() + idle_timeout_s)

    @contextlib.contextmanager
    def open(self, command: Sequence[str], *, idle_timeout_s: float, what: str) -> Iterator[Stream]:
        """Yields a command's input and output; it is not waited for when the block ends.

        A lost connection in the block becomes GuestUnreachable, and GuestError when no byte has
        moved for ``idle_timeout_s``.
        """
        with self._translated(what, idle_timeout_s), self._channel() as channel:
            channel.exec_command(_quoted(command))
            yield ChannelStream(channel, idle_timeout_s)

    @contextlib.contextmanager
    def open_openssh(
        self, command: Sequence[str], *, idle_timeout_s: float, what: str
    ) -> Iterator[Stream]:
        """Like ``open`` with the system's ssh, which must see the same host key."""
        shown = key_line(self._transport.get_remote_server_key())
        opened = openssh.opened(self.endpoint, shown, _quoted(command), idle_timeout_s)
        with self._translated(what, idle_timeout_s), opened as stream:
            self._openssh_streams.add(stream)
            try:
                yield stream
            finally:
                self._openssh_streams.discard(stream)

    def _not_started(
        self, what: str, status: int, mark: "_OutputMark", errors: bytes
    ) -> GuestError:
        lines = (mark.skipped + errors).decode(errors="replace").strip().splitlines()
        why = f": {lines[-1]}" if lines else ""
        return GuestError(
            f"{self.name}: the login shell ended with status {status} before '{what}' began{why}",
            hint=f"the shell of '{self.endpoint.user}' and its start-up files must run commands "
            "without a terminal",
        )

    def _channel(self) -> contextlib.AbstractContextManager[paramiko.Channel]:
        return contextlib.closing(self._transport.open_session(timeout=GRACE_S))

    def _status(self, channel: paramiko.Channel, end: float) -> int:
        if not channel.status_event.wait(max(0.0, end - time.monotonic())):
            raise TimeoutError
        if channel.exit_status == -1 and not self._transport.is_active():
            raise EOFError("the connection was closed")
        return channel.exit_status

    @contextlib.contextmanager
    def _translated(self, what: str, timeout_s: float) -> Iterator[None]:
        """Translates errors of the connection to GuestError."""
        try:
            yield
        except TimeoutError:
            if self._transport.is_active():
                raise _timed_out(self.name, what, timeout_s) from None
            raise GuestUnreachable(f"{self.name}: the SSH connection was lost") from None
        except (paramiko.SSHException, EOFError, OSError) as error:
            why = f": {error}" if str(error) else ""
            raise GuestUnreachable(f"{self.name}: the SSH connection was lost{why}") from None


class HeldCommand:
    """A command that runs until its input is closed."""

    def __init__(self, channel: paramiko.Channel, mark: "_OutputMark") -> None:
        self.mark, self._channel = mark, channel
        self._lines = mark.lines(channel.makefile("r"))

    def ask(self, line: str, timeout_s: float) -> str:
        """The line that it answers; empty when it has ended. Raises TimeoutError."""
        self._channel.settimeout(timeout_s)
        with contextlib.suppress(OSError):  # it has ended, and its answer says so
            self._channel.sendall(f"{line}\n".encode())
        return self.line()

    def ended(self, timeout_s: float) -> CommandResult:
        """How it ended, and what it wrote on standard error."""
        if not self._channel.status_event.wait(timeout_s):
            raise TimeoutError
        if self._channel.exit_status == -1:
            raise EOFError("the connection was closed")
        errors = bytearray()
        _drain(self._channel, errors)
        return CommandResult(self._channel.exit_status, "", _text(bytes(errors)))

    def line(self) -> str:
        """Returns the next line of output; empty when the command has ended."""
        return next(self._lines, "").strip()


class _OutputMark:
    """Finds where a command's output begins; ``skipped`` is what the login shell printed before."""

    def __init__(self) -> None:
        self._mark = f"gpuvm-{secrets.token_hex(8)}"
        self.seen, self.skipped = False, b""

    def before(self, command: str) -> str:
        """Returns a command line that prints the mark first, in any shell."""
        return f"printf '\\n%s\\n' {self._mark}; exec {command}"

    def output(self, chunk: bytes) -> bytes:
        """Returns the part of the chunk that is the command's output."""
        if self.seen:
            return chunk
        self.skipped = self.skipped[-CHUNK:] + chunk
        before, mark, own = self.skipped.partition(f"\n{self._mark}\n".encode())
        if not mark:
            return b""
        self._found(before)
        return own

    def lines(self, output: Iterable[str]) -> Iterator[str]:
        for line in output:
            if self.seen:
                yield line
            elif line == f"{self._mark}\n":
                self._found(self.skipped)
            else:
                self.skipped = self.skipped[-CHUNK:] + line.encode()

    def _found(self, before: bytes) -> None:
        self.seen, self.skipped = True, before.strip()
        if self.skipped:
            _LOG.debug("skipped what the login shell printed: %r", self.skipped[:MAX_SHOWN])


def _quoted(command: str | Sequence[str]) -> str:
    return command if isinstance(command, str) else shlex.join(command)


def _program(command: str | Sequence[str]) -> str:
    """Shortens a command for messages."""
    shown = _quoted(command)
    return shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN].splitlines()[0]} …"


def _bounded(command: str | Sequence[str], timeout_s: float) -> str:
    """Adds a time limit that also holds if the connection is lost."""
    plain = ["sh", "-c", command] if isinstance(command, str) else command
    return shlex.join(["timeout", "-k", "5", str(math.ceil(timeout_s)), *plain])


def _in_background(work: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread


def _receive(channel: paramiko.Channel, end: float) -> bytes:
    channel.settimeout(max(0.001, end - time.monotonic()))
    return channel.recv(CHUNK)


def _feed(channel: paramiko.Channel, source: BinaryIO) -> None:
    """The command may exit before it has read everything."""
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        while chunk := source.read(CHUNK):
            channel.sendall(chunk)
        channel.shutdown_write()


def _drain(channel: paramiko.Channel, into: bytearray) -> None:
    with contextlib.suppress(OSError):
        while chunk := channel.recv_stderr(CHUNK):
            into.extend(chunk)


def _forward(receive: Callable[[int], bytes], write: Callable[[bytes], object]) -> None:
    with contextlib.suppress(OSError):
        while chunk := receive(CHUNK):
            write(chunk)


def _timed_out(name: str, what: str, timeout_s: float) -> GuestError:
    return GuestError(f"{name}: '{what}' timed out after {timeout_s:g} s")


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
