"""Text from guests and vCenters is data: what a terminal would obey never reaches one."""

import unicodedata

_REPLACED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Controls, formats such as bidirectional marks, lone surrogates, line and paragraph breaks."""


def printable(text: str, *, longest: int | None = None) -> str:
    """The text on one line, with every character that is not seen written as an escape.

    A tab becomes a space; ``longest`` cuts it off with an ellipsis.
    """
    shown = "".join(map(_shown, text))
    if longest is not None and len(shown) > longest:
        return f"{shown[: longest - 1]}…"
    return shown


def _shown(character: str) -> str:
    if character == "\t":
        return " "
    if unicodedata.category(character) not in _REPLACED:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
