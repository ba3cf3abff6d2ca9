"""Programs that are sent to a guest and run by its Python, with the standard library only.

    guest.script("python3", "missing_imports", "tensorflow", timeout_s=60, what="look for modules")

They are files, so that linters check them, and use only features of Python 3.9: a guest's
interpreter may be older than the operator's.
"""

from collections.abc import Sequence
from pathlib import Path


def command(python: str, program: str, *arguments: str) -> Sequence[str]:
    """Returns a command line that runs ``program``; it leaves no file in the guest."""
    return [python, "-c", source(program), *arguments]


def source(program: str) -> str:
    """Returns the text of ``program``, for one that stays in the guest."""
    return Path(__file__).with_name(f"{program}.py").read_text(encoding="utf-8")


def shell(program: str) -> str:
    """Returns a script for the guest's sh."""
    return Path(__file__).with_name(f"{program}.sh").read_text(encoding="utf-8")
