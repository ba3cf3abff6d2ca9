"""Programs that run inside a guest, with its own Python: standard library only, sent as they are.

    guest.script("python3", "missing_imports", "tensorflow", timeout_s=60, what="look for modules")

They are files, not strings, so that they are checked like everything else. They stay with what
Python 3.9 knows: a guest's interpreter may be older than the operator's.
"""

from collections.abc import Sequence
from pathlib import Path


def command(python: str, program: str, *arguments: str) -> Sequence[str]:
    """The command line that runs ``program`` with the guest's ``python``; it leaves no file."""
    return [python, "-c", source(program), *arguments]


def source(program: str) -> str:
    return Path(__file__).with_name(f"{program}.py").read_text(encoding="utf-8")


def shell(program: str) -> str:
    """A script for the guest's sh."""
    return Path(__file__).with_name(f"{program}.sh").read_text(encoding="utf-8")
