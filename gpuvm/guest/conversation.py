"""A script in a guest that transfers files: what it answers, and bytes between the answers."""

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
NOISE_LINES = 100_000
"""So many lines may come first: a login script that prints something."""
LONGEST_LINE = 512 << 20
"""A listing is one line; a million files make about 100 MB."""
SILENT_S = 300.0
"""A transfer is given up when nothing has moved for so long; a slow link is no reason."""
BULK_BYTES = 16 << 20
"""From so much on, the system's ssh is worth its login."""


def portable(name: str) -> str:
    """A file's name for JSON: UTF-8 whatever this machine's encoding is, bytes as surrogates."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def local(name: str) -> str:
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))


def is_inside(name: str) -> bool:
    """Whether a relative name stays in its folder."""
    return "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


class Conversation:
    """Raises GuestUnreachable for a connection that breaks, CommandFailed, and GuestError for what
    the script refuses.
    """

    def __init__(self, guest: Guest, what: str, stream: Stream) -> None:
        self.guest, self._what, self._stream = guest, what, stream
        self._rest = b""

    def say(self, message: Any) -> None:
        self.send(json.dumps(message).encode("ascii") + b"\n")

    def send(self, data: bytes | memoryview) -> None:
        """Raises BrokenPipeError when the script has stopped reading; its answer says why."""
        self._stream.write(data)

    def answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.line())
        return answer

    def checked_answer(self) -> dict[str, Any]:
        answer = self.answer()
        if "error" in answer:
            why = one_line(str(answer["error"]))
            raise GuestError(f"{self.guest.name}: {self._what}: {why}")
        return answer

    def line(self) -> bytes:
        """Without its end."""
        parts, size = [], 0
        while b"\n" not in self._rest:
            parts.append(self._rest)
            size += len(self._rest)
            self._rest = self._read()
            if size > LONGEST_LINE:
                raise GuestError(f"{self.guest.name}: {self._what}: its answer has no end")
        last, _, self._rest = self._rest.partition(b"\n")
        return b"".join((*parts, last))

    def some(self, most: int) -> bytes:
        """At least one byte and at most so many."""
        chunk = self._rest or self._read()
        taken, self._rest = (chunk, b"") if len(chunk) <= most else (chunk[:most], chunk[most:])
        return taken

    def greeted(self) -> "Conversation":
        for _ in range(NOISE_LINES):
            if self.line().endswith(GREETING):  # what was printed before may have no line's end
                return self
        raise GuestError(f"{self.guest.name}: {self._what}: another program answers")

    def _read(self) -> bytes:
        """Raises for the end, too: the script has always more to say while it is asked."""
        chunk = self._stream.read()
        if not chunk:
            status = self._stream.status()
            if status:
                raise CommandFailed(self.guest.name, self._what, status, self._stream.errors())
            raise EOFError("it ended within a transfer")
        return chunk


@contextlib.contextmanager
def opened(
    guest: Guest, command: Sequence[str], what: str, *, bulk: bool
) -> Iterator[Conversation]:
    """``what`` names it in errors; ``bulk`` asks for the system's ssh, if it gets in."""
    with contextlib.ExitStack() as stack:
        if bulk:
            with contextlib.suppress(GuestUnreachable), contextlib.ExitStack() as attempt:
                stream = attempt.enter_context(
                    guest.open_openssh(command, silent_s=SILENT_S, what=what)
                )
                conversation = Conversation(guest, what, stream).greeted()
                stack.enter_context(attempt.pop_all())
                yield conversation
                return
        stream = stack.enter_context(guest.open(command, silent_s=SILENT_S, what=what))
        yield Conversation(guest, what, stream).greeted()
