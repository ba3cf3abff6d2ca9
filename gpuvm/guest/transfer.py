"""The protocol of the scripts ``send`` and ``receive``: lines of JSON, and bytes between them."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from gpuvm.errors import CommandFailed, GuestError, GuestUnreachable
from gpuvm.guest.ssh import Guest
from gpuvm.guest.streams import Stream
from gpuvm.text import one_line

GREETING = b"gpuvm-files"
MAX_LOGIN_LINES = 100_000
"""A login script may print this many lines before the greeting."""
MAX_LINE_BYTES = 512 << 20
"""A listing is one line; a million files make about 100 MB."""
IDLE_TIMEOUT_S = 300.0
"""A transfer fails when no byte has moved for this long; a slow link is fine."""
BULK_BYTES = 16 << 20
"""From this size on, the system's ssh is faster in spite of its login."""


def portable(name: str) -> str:
    """Encodes a file's name for JSON: UTF-8, with other bytes as surrogates."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def local(name: str) -> str:
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))


def is_inside(name: str) -> bool:
    """Whether a relative name stays inside its folder, and is one that a file can have."""
    try:
        local(name)
    except UnicodeEncodeError:  # half of a surrogate pair, which stands for no byte
        return False
    return "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


class TransferChannel:
    """Raises GuestUnreachable when the connection is lost, CommandFailed when the script fails, and
    GuestError when it reports an error.
    """

    def __init__(self, guest: Guest, what: str, stream: Stream) -> None:
        self.guest, self._what, self._stream = guest, what, stream
        self._rest = b""

    def send_json(self, message: Any) -> None:
        self.send(json.dumps(message).encode("ascii") + b"\n")

    def send(self, data: bytes | memoryview) -> None:
        """Raises BrokenPipeError when the script has stopped reading; its answer has the reason."""
        self._stream.write(data)

    def read_json(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.read_line())
        return answer

    def read_answer(self) -> dict[str, Any]:
        answer = self.read_json()
        if "error" in answer:
            why = one_line(str(answer["error"]))
            raise GuestError(f"{self.guest.name}: {self._what}: {why}")
        return answer

    def read_line(self) -> bytes:
        """Returns the next line without its line end."""
        parts, size = [], 0
        while b"\n" not in self._rest:
            parts.append(self._rest)
            size += len(self._rest)
            self._rest = self._read()
            if size > MAX_LINE_BYTES:
                raise GuestError(f"{self.guest.name}: {self._what}: the answer is too long")
        last, _, self._rest = self._rest.partition(b"\n")
        return b"".join((*parts, last))

    def read_bytes(self, at_most: int) -> bytes:
        """Returns at least one byte."""
        chunk = self._rest or self._read()
        taken, self._rest = (
            (chunk, b"") if len(chunk) <= at_most else (chunk[:at_most], chunk[at_most:])
        )
        return taken

    def after_greeting(self) -> "TransferChannel":
        for _ in range(MAX_LOGIN_LINES):
            if self.read_line().endswith(GREETING):  # earlier output may lack a line end
                return self
        raise GuestError(f"{self.guest.name}: {self._what}: unexpected output instead of an answer")

    def _read(self) -> bytes:
        """Raises at the end of the stream too: the script answers before it exits."""
        chunk = self._stream.read()
        if not chunk:
            status = self._stream.status()
            if status:
                raise CommandFailed(self.guest.name, self._what, status, self._stream.errors())
            raise EOFError("the script exited during the transfer")
        return chunk


@contextlib.contextmanager
def opened(
    guest: Guest, command: Sequence[str], what: str, *, bulk: bool
) -> Iterator[TransferChannel]:
    """``what`` names the transfer in errors; ``bulk`` uses the system's ssh if it can log in."""
    with _understood(guest, what), contextlib.ExitStack() as stack:
        if bulk:
            with contextlib.suppress(GuestUnreachable), contextlib.ExitStack() as attempt:
                stream = attempt.enter_context(
                    guest.open_openssh(command, idle_timeout_s=IDLE_TIMEOUT_S, what=what)
                )
                channel = TransferChannel(guest, what, stream).after_greeting()
                stack.enter_context(attempt.pop_all())
                yield channel
                return
        stream = stack.enter_context(guest.open(command, idle_timeout_s=IDLE_TIMEOUT_S, what=what))
        yield TransferChannel(guest, what, stream).after_greeting()


@contextlib.contextmanager
def _understood(guest: Guest, what: str) -> Iterator[None]:
    """Translates what comes of an answer that is none of the script's: a guest is not trusted."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        raise GuestError(f"{guest.name}: {what}: the answer makes no sense") from None
