"""Texts as a hostile guest or vCenter may send them, and what must not become of them."""

import re
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

EXAMPLES = [15, pytest.param(500, marks=pytest.mark.soak)]

SEQUENCES = (
    "\x1b]0;owned\x07",
    "\x1b[2J\x1b[H",
    "\x1b]8;;http://evil/\x1b\\click\x1b]8;;\x1b\\",
    "\x1b[31mred\x1b[0m",
    "\x1bP$qm\x1b\\",
    "\x1b]52;c;cm0gLXJm\x07",
    "\x9b2J",
    "\x1bc",
    "\x1b]",
    "\x1b[",
)
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
MARKUP = (
    "[bold]x[/bold]",
    "[/]",
    "[/bold]",
    "[link=http://evil]x[/link]",
    "[",
    "\\[red]",
    ":fire:",
    "{task.description}",
    "%s %(x)s {0}",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "&lt;b&gt;&amp;",
    "]]>-->",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{1}{0}$",
    "font-family: x",
    'id="x url(#y) #010203',
    "'; rm -rf ~ #",
    '"$(reboot)`reboot`!x',
    "=cmd|' /C calc'!A0",
    "+1",
    "@SUM(1)",
    "..",
    "../../etc/passwd",
    "emoji \U0001f525\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "漢字 עברית",
)
_odd = st.characters(max_codepoint=0x9F) | st.sampled_from(BIDI + "\u2028\u2029\ud800\udc80\udfff")

texts = st.lists(
    st.sampled_from(SEQUENCES + MARKUP) | _odd | st.text(max_size=5), min_size=1, max_size=6
).map("".join)
"""Any of them, several after one another."""
very_long = st.sampled_from(["x", "漢", "[/]", "\x1b", "\u202e", "<b>"]).map(
    lambda one: (one * 10_000)[:10_000]
)
names = texts | very_long
printable_names = st.sampled_from(MARKUP)
"""Those that must be shown as they are."""


def unprintable(shown: str, *, kept: str = "\n\t") -> set[str]:
    """Characters in ``shown`` that no terminal or page may get."""
    return {
        character
        for character in shown
        if character not in kept
        and (unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in BIDI)
    }


def longest_word(shown: str) -> int:
    return max(map(len, re.split(r"\s", shown)), default=0)


def tried(examples: int, check: Callable[..., object], *of: st.SearchStrategy[Any]) -> None:
    """Calls ``check`` with that many examples, the same every time."""

    @seed(17)
    @settings(
        max_examples=examples,
        database=None,
        phases=[Phase.generate],  # an example takes long: a failing one is not shrunk
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.tuples(*of))
    def run(example: tuple[Any, ...]) -> None:
        check(*example)

    run()
