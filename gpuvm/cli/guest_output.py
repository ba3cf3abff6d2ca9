"""The output of guests, line by line, as it may be shown (gpuvm.text)."""

import codecs
import re
import sys
import threading
from collections.abc import Callable

from gpuvm.text import printable

LONGEST = 1 << 16
"""Characters of a line; a longer one is shown in pieces, so that it needs no more memory."""

_LINE_ENDS = re.compile(r"\r\n|\n|\r(?!\n)")
_turn = threading.Lock()


class Lines:
    """Bytes of one stream of a guest, handed on as lines of text while they come.

    A carriage return ends a line too: progress bars are drawn with it.
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
    """One line at a time, however many guests speak at once."""
    stream = sys.stderr if stderr else sys.stdout
    with _turn:
        stream.write(f"{prefix}{printable(line)}\n")
        stream.flush()
