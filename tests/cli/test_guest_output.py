"""Control characters in the output of guests never reach the terminal."""

import pytest

from gpuvm.cli.guest_output import LONGEST, Lines
from gpuvm.text import printable


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain text, ünïcode 漢字\n\ttab", "plain text, ünïcode 漢字\n\ttab"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[2J\x1b[Hgone\x1bc", "gone"),
        ("bell\x07 back\x08", "bell\\x07 back\\x08"),
        ("c1 \x9b31m", "c1 \\x9b31m"),
        ("unfinished \x1b]0;evil", "unfinished 0;evil"),
        ("left\u202eright", "left\\u202eright"),
        ("one\r\ntwo", "one\ntwo"),
        ("over\rwritten", "over\\x0dwritten"),
    ],
)
def test_printable(raw: str, shown: str) -> None:
    assert printable(raw) == shown


def test_no_control_characters_are_left() -> None:
    every = "".join(map(chr, range(0xA0)))
    for first in every:
        for text in (first + every, f"\x1b{first}[31m\x1b", f"\x1b]{first}\x1b\x1b["):
            left = set(printable(text)) - set("\n\t")
            assert all(c >= " " and not "\x7f" <= c < "\xa0" for c in left)


def test_lines_are_complete_however_they_are_split() -> None:
    data = "Schöne\r\nZeile 10%\rZeile 100%\nEnde".encode()
    for size in range(1, len(data) + 1):
        seen: list[str] = []
        lines = Lines(seen.append)
        for at in range(0, len(data), size):
            lines.feed(data[at : at + size])
        lines.close()
        assert seen == ["Schöne", "Zeile 10%", "Zeile 100%", "Ende"]


def test_line_without_newline_is_shown_in_pieces() -> None:
    seen: list[str] = []
    lines = Lines(seen.append)
    for _ in range(3):
        lines.feed(b"x" * LONGEST)
    lines.close()
    assert "".join(seen) == "x" * 3 * LONGEST
    assert max(map(len, seen)) == LONGEST
