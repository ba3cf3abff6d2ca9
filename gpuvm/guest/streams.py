"""A command in a guest with its input and output open: what transfers write to and read from."""

from typing import Protocol

import paramiko

CHUNK = 1 << 18


class Stream(Protocol):
    """Bytes to a command and from it, over whatever carries them.

    Raises TimeoutError when nothing moves, and EOFError, OSError or SSHException when the
    connection breaks.
    """

    def write(self, data: bytes | memoryview) -> None:
        """Raises BrokenPipeError when the command does not read any more."""

    def read(self) -> bytes:
        """What has come, at most CHUNK bytes; empty at the end."""

    def status(self) -> int:
        """The command's exit status, once it has ended."""

    def errors(self) -> str:
        """What the command wrote on standard error."""


class ChannelStream:
    """A channel of the connection that is open anyway."""

    def __init__(self, channel: paramiko.Channel, silent_s: float) -> None:
        self._channel, self._silent_s = channel, silent_s
        channel.settimeout(silent_s)

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
        if not self._channel.status_event.wait(self._silent_s):
            raise TimeoutError
        if self._channel.exit_status == -1:
            raise EOFError("the connection was closed")
        return self._channel.exit_status

    def errors(self) -> str:
        errors = b""
        while chunk := self._channel.recv_stderr(CHUNK):
            errors += chunk
        return errors.decode(errors="replace")
