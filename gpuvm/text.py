"""Makes text from guests and vCenters safe to print, and words for counts and times.

Control characters could clear the screen, set the title or remap keys, and bidirectional ones show
a text in another order than it has.

    visible(text)     names and messages: everything is shown, what is not printable as an escape
    typed_word(name)  a name in a command that a hint says to type
    printable(text)   a program's output: escape sequences such as colours are left out
"""

import re
import shlex

_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor, screen (ECMA-48, 5.4)
    r"|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"  # OSC, DCS, SOS, PM, APC with their text
    r"|\x1b[ -/]*[0-~]"  # other escape sequences
)
_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
# C0 without tab and newline, DEL, C1; the separators of lines and paragraphs; the characters with
# the property Bidi_Control (Unicode, UAX 9) and their deprecated kin; halves of surrogate pairs,
# which stand for undecodable bytes of file names (PEP 383) and cannot be written as UTF-8.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]"
)
LONGEST_WORD = 500
"""In characters. vSphere's names have up to 80 and host names up to 253; paths may be longer."""
_LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


def visible(text: str) -> str:
    r"""Escapes control characters, such as ``\x07``, and shortens very long words.

    Nothing but colours is left out, so that a name cannot hide what stands behind it. Tabs and
    newlines are kept.
    """
    if text.isprintable() and len(text) <= LONGEST_WORD:
        return text
    shown = _CONTROLS.sub(_escape, _COLOURS.sub("", text.replace("\r\n", "\n")))
    return _LONG_WORD.sub(lambda word: f"{word[0][: LONGEST_WORD - 1]}…", shown)


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
    shown = " ".join(visible(printable(text)).split())
    if longest is not None and len(shown) > longest:
        return f"{shown[: longest - 1]}…"
    return shown


def typed_word(word: str) -> str:
    """As a shell reads it; not in single quotes, which end the command in a message."""
    if shlex.quote(word) == word:
        return word
    inside = re.sub(r'([\\"$`])', r"\\\1", word).replace("!", '"\\!"')  # of bash's history
    return f'"{inside}"'


_UNITS = (("d", 86400), ("h", 3600), ("min", 60))


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 VM``, ``2,000 VMs``; ``plural`` is for nouns that do not only take an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


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
