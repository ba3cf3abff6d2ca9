"""Prints output of guests line by line, without control characters (gpuvm.text)."""

import codecs
import re
import sys
import threading
from collections.abc import Callable

from gpuvm.text import printable, visible

LONGEST = 1 << 16
"""In characters; a longer line is split, to limit the memory it takes."""

_LINE_ENDS = re.compile(r"\r\n|\n|\r(?!\n)")
_lock = threading.Lock()


class Lines:
    """Decodes one output stream of a guest, and passes each line on as it arrives.

    A carriage return ends a line too, because progress bars use it.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""

    def feed(self, data: bytes) -> None:
        text = self._rest + self._decoder.decode(data)
        held = text.endswith("\r")  # a newline may follow
        *lines, self._rest = _LINE_ENDS.split(text[:-1] if held else text)
        self._rest += "\r" if held else ""
        for line in lines:
            self._show(line)
        while len(self._rest) > LONGEST:
            self._show(self._rest[:LONGEST])
            self._rest = self._rest[LONGEST:]

    def close(self) -> None:
        rest = (self._rest + self._decoder.decode(b"", final=True)).rstrip("\r")
        if rest:
            self._show(rest)
        self._rest = ""


def show_line(prefix: str, line: str, *, stderr: bool = False) -> None:
    """Print one line; the lock keeps lines of several guests apart."""
    stream = sys.stderr if stderr else sys.stdout
    shown = f"{visible(prefix)}{printable(line)}".replace("\n", " ")
    with _lock:
        stream.write(f"{shown}\n")
        stream.flush()
