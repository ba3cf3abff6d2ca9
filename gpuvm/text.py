"""Makes text from guests and vCenters safe to print.

Control characters in a program's output could clear the screen, set the title or remap keys;
``printable`` removes or escapes them.
"""

import re

_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor, screen (ECMA-48, 5.4)
    r"|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"  # OSC, DCS, SOS, PM, APC with their text
    r"|\x1b[ -/]*[0-~]"  # other escape sequences
)
# C0 without tab and newline, DEL, C1, and bidirectional control characters.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Removes escape sequences and escapes other control characters, such as ``\x07``.

    Tabs and newlines are kept.
    """
    if text.isprintable():
        return text
    return _CONTROLS.sub(_escape, _SEQUENCES.sub("", text.replace("\r\n", "\n")))


def _escape(match: "re.Match[str]") -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def one_line(text: str, *, longest: int | None = None) -> str:
    """``printable`` text on a single line, shortened to ``longest`` characters."""
    shown = " ".join(printable(text).split())
    if longest is not None and len(shown) > longest:
        return f"{shown[: longest - 1]}…"
    return shown


_UNITS = (("d", 86400), ("h", 3600), ("min", 60))


def ago(seconds: float) -> str:
    """Formats a time span in its largest unit: ``12 min ago``."""
    for unit, size in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def how_long(seconds: float) -> str:
    """A time that somebody chose: ``2 h``, ``90 min``, ``1 d``."""
    for unit, size in _UNITS:
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:g} s"
