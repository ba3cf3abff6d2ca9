"""What the command line said about output, shared by a command and the door for errors."""

from dataclasses import dataclass


@dataclass
class State:
    json: bool = False
    debug: bool = False
    vcenter: str | None = None
    """Set once it is known, so that the JSON envelope names it too."""
