"""Errors that end a workload: one line on standard error, and an exit status."""

import os
import sys
from typing import NoReturn

BAD_INPUT, LOST_WORKER = 2, 3


class BadInput(Exception):
    """Arguments or data that cannot be used; its text is one line for the user."""


def warn(program: str, message: str) -> None:
    print(f"{program}: {message}", file=sys.stderr, flush=True)


def exit_with(program: str, message: str, status: int) -> NoReturn:
    """Exits at once: after a failed collective, TensorFlow's clean-up may hang."""
    warn(program, message)
    os._exit(status)
