"""A lab's files, all below ``labs/NAME`` in gpuvm's state folder.

lab.json          how it was started: address block, SSH port, the two processes; its version is
                  that of the whole folder
description.json  the lab's description, as gpuvm-vcsim reads it
passwords.json    one for each account; ``password`` the administrator's alone (both 0600)
ca.pem ready.json written by gpuvm-vcsim
supervisor.json   written by the supervisor at each change
guests/VM/        one folder for each VM: see gpuvm.lab.guest.boot
*.log
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from gpuvm import paths, settings
from gpuvm.errors import BadInput
from gpuvm.files import LAB, write_atomic
from gpuvm.lab.description import Description
from gpuvm.lab.network import Cable
from gpuvm.lab.processes import ProcessId
from gpuvm.validation import shown

Record = TypeVar("Record", bound=BaseModel)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LabRecord(_Record):
    """``previous_context`` was the current context before ``lab up``."""

    version: Literal[1] = 1
    address_block: str
    ssh_port: int
    previous_context: str | None
    vcsim: ProcessId | None = None
    supervisor: ProcessId | None = None


class VCenterReady(BaseModel):
    """Written by gpuvm-vcsim when it answers."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    url: str
    control_url: str
    ca_file: Path
    pid: int
    about_name: str


class GuestRecord(_Record):
    """A VM that has a guest while it is powered on; ``process`` is the guest's first process.

    ``cable`` connects it with the lab's switch, if it has a network of its own.
    """

    vm: str
    instance_uuid: str
    address: str | None
    powered: bool
    process: ProcessId | None
    cable: Cable | None = None
    problem: str | None


class SupervisorRecord(_Record):
    """``problem`` says why it is not connected; ``switch`` is the namespace of the switch."""

    pid: int
    connected: bool
    isolation: str
    isolated: bool
    problem: str | None
    switch: Path | None = None
    guests: tuple[GuestRecord, ...]


@dataclass(frozen=True)
class LabFolder:
    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def guests(self) -> Path:
        return self.path / "guests"

    @property
    def passwords(self) -> Path:
        return self.path / "passwords.json"

    @property
    def password(self) -> Path:
        return self.path / "password"

    @property
    def description_file(self) -> Path:
        return self.path / "description.json"

    @property
    def ready_file(self) -> Path:
        return self.path / "ready.json"

    def record(self) -> LabRecord | None:
        """None when it is missing or damaged. Raises BadInput for that of a newer gpuvm."""
        with suppress(OSError, ValueError, AttributeError):
            found = json.loads((self.path / "lab.json").read_bytes()).get("version")
            LAB.check(self.path / "lab.json", found)
        return _read(self.path / "lab.json", LabRecord)

    def description(self) -> Description | None:
        return _read(self.description_file, Description)

    def ready(self) -> VCenterReady | None:
        return _read(self.ready_file, VCenterReady)

    def supervisor(self) -> SupervisorRecord | None:
        return _read(self.path / "supervisor.json", SupervisorRecord)

    def save(self, record: LabRecord | SupervisorRecord) -> None:
        name = "lab.json" if isinstance(record, LabRecord) else "supervisor.json"
        write_atomic(self.path / name, record.model_dump_json(indent=1), 0o600)

    def log_tail(self, log: str) -> str:
        """The last lines of a log, joined to one."""
        try:
            text = (self.path / log).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "nothing"
        lines = text.strip().splitlines()
        panic = [
            line for line in lines if line.startswith("panic: ")
        ]  # Go's stack trace follows it
        return " / ".join(panic[:1] or lines[-3:]) or "nothing"


def lab_folder(name: str) -> LabFolder:
    """The lab of that name, which need not exist. Raises BadInput for a name that is a path."""
    if not settings.NAME.fullmatch(name):
        raise BadInput(
            f"--name: {shown(name)} is not a name of letters, digits, dots, hyphens and "
            "underscores, 100 at most"
        )
    return LabFolder(paths.state_dir().resolve() / "labs" / name)


@contextmanager
def locked() -> Iterator[None]:
    """Allows one `lab up` or `lab down` at a time in a state folder.

    It locks the folder itself, so that no lock file is left behind.
    """
    paths.state_dir().mkdir(parents=True, exist_ok=True)
    descriptor = os.open(paths.state_dir(), os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(file: Path, model: type[Record]) -> Record | None:
    """None when it is missing or damaged."""
    try:
        return model.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None
