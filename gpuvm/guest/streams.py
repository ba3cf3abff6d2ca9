"""The input and output of a command in a guest."""

from typing import Protocol

import paramiko

CHUNK = 1 << 18


class Stream(Protocol):
    """Bytes to and from a command.

    Raises TimeoutError when no byte moves, and EOFError, OSError or SSHException when the
    connection is lost.
    """

    def write(self, data: bytes | memoryview) -> None:
        """Raises BrokenPipeError when the command has stopped reading."""

    def read(self) -> bytes:
        """Returns at most CHUNK bytes; empty at the end."""

    def status(self) -> int:
        """The command's exit status, once it has ended."""

    def errors(self) -> str:
        """The command's standard error."""


class ChannelStream:
    """A channel of an open paramiko connection."""

    def __init__(self, channel: paramiko.Channel, idle_timeout_s: float) -> None:
        self._channel, self._idle_timeout_s = channel, idle_timeout_s
        channel.settimeout(idle_timeout_s)

    def write(self, data: bytes | memoryview) -> None:
        try:
            self._channel.sendall(bytes(data))
        except TimeoutError:
            raise
        except OSError as error:
            if self._channel.get_transport().is_active():
                raise BrokenPipeError from error
            raise

    def read(self) -> bytes:
        return self._channel.recv(CHUNK)

    def status(self) -> int:
        if not self._channel.status_event.wait(self._idle_timeout_s):
            raise TimeoutError
        if self._channel.exit_status == -1:
            raise EOFError("the connection was closed")
        return self._channel.exit_status

    def errors(self) -> str:
        errors = b""
        while chunk := self._channel.recv_stderr(CHUNK):
            errors += chunk
        return errors.decode(errors="replace")
