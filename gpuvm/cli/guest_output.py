"""What guests write, as it may be shown: their output is data, and a terminal obeys data.

A title or a cleared screen, a key that is remapped: all of it is a few control characters in a
program's output. ``printable`` is what stands between a guest's text and the terminal.
"""

import codecs
import re
import sys
import threading
from collections.abc import Callable

LONGEST = 1 << 16
"""Characters of a line; a longer one is shown in pieces, so that it needs no more memory."""

_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor, screen (ECMA-48, 5.4)
    r"|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"  # OSC, DCS, SOS, PM, APC with their text
    r"|\x1b[ -/]*[0-~]"  # other escape sequences
)
# C0 without tab and newline, DEL, C1; and what turns the direction of text around.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LINE_ENDS = re.compile(r"\r\n|\n|\r(?!\n)")
_turn = threading.Lock()


def printable(text: str) -> str:
    r"""``text`` without escape sequences, with other control characters as ``\x07``.

    Tabs and newlines stay; nothing else is left that a terminal would act on.
    """
    if text.isprintable():
        return text
    return _CONTROLS.sub(_escaped, _SEQUENCES.sub("", text.replace("\r\n", "\n")))


def _escaped(match: "re.Match[str]") -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


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
