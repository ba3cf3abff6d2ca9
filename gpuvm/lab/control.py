"""Starts and removes a lab.

up(LabOptions(hosts=8))      # returns when the vCenter answers and the VMs are followed
down("lab")                  # nothing is left: no process, port, file or context
"""

import json
import re
import secrets
import shlex
import shutil
import signal
import sys
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpuvm import paths, settings
from gpuvm.errors import BadInput, LabError
from gpuvm.events import Events
from gpuvm.files import write_atomic
from gpuvm.guest import keys, ssh_config
from gpuvm.lab import addresses, build, daemons, hypervisor
from gpuvm.lab.description import ADMINISTRATOR, Description, Timings, describe, read_description
from gpuvm.lab.lab_status import LabStatus, lives, owns_context, status
from gpuvm.lab.state_folder import LabFolder, LabRecord, alone, lab_folder
from gpuvm.results import provisioning_record

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class LabOptions:
    """``description`` is a file with a whole shape: it replaces the four options before it.

    ``address_block`` is 127.N.0.0/16; without one the first that no other lab has.
    """

    name: str = "lab"
    hosts: int = 4
    gpus_per_host: int = 1
    vgpu: bool = False
    gpu: str = "p100"
    vms: int = 0
    description: Path | None = None
    timings: Timings | None = None
    address_block: str | None = None


def up(
    options: LabOptions | None = None, events: Events | None = None, lifeline: int | None = None
) -> LabStatus:
    """Starts the lab, or what is missing of it; one that runs stays as it is.

    ``lifeline`` is the reading end of a pipe: the lab ends when its other end is closed; without
    one it goes on until ``down``. Raises BadInput for options that make no sense, and LabError when
    the lab cannot be built or started, or runs with another shape.
    """
    options, events = options or LabOptions(), events or Events()
    requested = _requested(options)
    folder = lab_folder(options.name)
    _require_linux()
    binary = build.vcsim_binary(events)
    with alone():
        _require_own_context(folder)
        if folder.path.exists() and not _vcsim_lives(folder):
            events.note("the simulated vCenter had ended: the lab starts afresh")
            _remove(folder)
        fresh = not folder.path.exists()
        try:
            if fresh:
                _start(folder, binary, requested, options, lifeline)
            else:
                _require_same(folder, requested)
            daemons.start_supervisor(folder, lifeline)
        except BaseException:
            if fresh:
                _remove(folder)
            raise
        _save_context(folder)
    return status(options.name)


def down(name: str = "lab") -> bool:
    """Ends everything of the lab and deletes what it wrote; False when there was nothing."""
    folder = lab_folder(name)
    if not folder.path.exists():
        return False
    with alone():
        _remove(folder)
    return True


def _requested(options: LabOptions) -> Description:
    if not _NAME.fullmatch(options.name):
        raise BadInput(f"'{options.name}' is not a name for a lab: letters, digits and ._-")
    if options.description is None:
        shape = describe(
            options.hosts, options.gpus_per_host, options.gpu, options.vms, vgpu=options.vgpu
        )
    elif _shape_options(options) != _shape_options(LabOptions()):
        raise BadInput("a description is the whole shape: give no hosts, GPUs or VMs beside it")
    else:
        shape = read_description(options.description)
    if options.timings is not None:
        shape = shape.model_copy(update={"timings": options.timings})
    if options.address_block is not None:
        shape = shape.model_copy(update={"address_block": options.address_block})
    return shape


def _shape_options(options: LabOptions) -> tuple[int, int, str, int, bool]:
    return options.hosts, options.gpus_per_host, options.gpu, options.vms, options.vgpu


def _require_linux() -> None:
    if sys.platform != "linux":
        raise LabError("the lab needs Linux: its guests are namespaces of the Linux kernel")
    try:
        import asyncssh  # noqa: F401, PLC0415 - the extra `lab` may not be installed
    except ImportError:
        raise LabError(
            "the lab's guests need the package asyncssh", hint="pip install 'gpuvm[lab]'"
        ) from None


def _require_own_context(folder: LabFolder) -> None:
    if folder.name in settings.names() and not owns_context(folder):
        raise LabError(
            f"there is already a context '{folder.name}', and it is not this lab's",
            hint="give the lab another --name, or remove that context",
        )


def _require_same(folder: LabFolder, requested: Description) -> None:
    running = folder.description()
    if running is None or _shape(running, requested) != _shape(requested, requested):
        has = f"{len(running.hosts)} hosts, {running.gpu_count} GPUs" if running else "unreadable"
        raise LabError(
            f"the lab '{folder.name}' runs with another shape ({has})",
            hint=f"'gpuvm lab down' first, or another --name than '{folder.name}'",
        )


def _shape(description: Description, requested: Description) -> Description:
    """Without what `up` itself chose because the request did not say it."""
    chosen = [f for f in ("instance_uuid", "address_block") if getattr(requested, f) is None]
    return description.model_copy(update=dict.fromkeys(chosen))


def _vcsim_lives(folder: LabFolder) -> bool:
    record = folder.record()
    return record is not None and lives(record.vcsim) and folder.ready() is not None


def _start(
    folder: LabFolder,
    binary: Path,
    requested: Description,
    options: LabOptions,
    lifeline: int | None,
) -> None:
    block = addresses.reserve(requested.address_block)
    try:
        folder.path.mkdir(parents=True, mode=0o700)
        identity = requested.instance_uuid or str(uuid.uuid4())
        chosen = {"address_block": block.block, "instance_uuid": identity}
        description = requested.model_copy(update=chosen)
        folder.description_file.write_text(description.to_json(), encoding="utf-8")
        _write_passwords(folder, description)
        current = settings.current()
        previous = None if current == options.name else current
        folder.save(
            LabRecord(
                address_block=block.block, ssh_port=block.free_port(), previous_context=previous
            )
        )
        daemons.start_vcsim(folder, binary, block.reservation.fileno(), lifeline)
    finally:
        block.reservation.close()


def _write_passwords(folder: LabFolder, description: Description) -> None:
    passwords = {user.name: secrets.token_urlsafe(24) for user in description.users}
    write_atomic(folder.passwords, json.dumps(passwords), 0o600)
    write_atomic(folder.password, passwords[ADMINISTRATOR] + "\n", 0o600)


def _save_context(folder: LabFolder) -> None:
    """As a user could write it: what differs from a production site is settings."""
    record, ready = folder.record(), folder.ready()
    if record is None or ready is None:
        raise LabError(f"{folder.path} is not a lab's state folder")
    settings.save(
        settings.Context(
            name=folder.name,
            vcenter=ready.url,
            user=ADMINISTRATOR,
            password_command=f"cat {shlex.quote(str(folder.password))}",
            tls=settings.CAFile(ca_file=ready.ca_file),
            ssh=settings.SSH(port=record.ssh_port),
            guest=settings.GuestSettings(python="python3", tensorflow_gpu="warn"),
            confirm=False,
        )
    )


def _remove(folder: LabFolder) -> None:
    """Guests go with their supervisor; those of one that was killed have died with it already."""
    record, told = folder.record(), folder.supervisor()
    if record is not None:
        daemons.end(record.supervisor)
    for guest in told.guests if told is not None else ():
        daemons.end(guest.process, signal.SIGKILL)
        keys.forget(guest.instance_uuid)
    if record is not None:
        daemons.end(record.vcsim)
    _forget_context(folder, record)
    _forget_provisioning(folder.description())
    hypervisor.remove_folder(folder.path)
    for shared in ("labs", "keys", "host-keys", "provisioning", "ssh/contexts", "ssh"):
        with suppress(OSError):  # not empty: another context's are there
            (paths.state_dir() / shared).rmdir()


def _forget_context(folder: LabFolder, record: LabRecord | None) -> None:
    """And the key pair that was made for it; the context before the lab's is current again."""
    if not owns_context(folder):
        return
    was_current = settings.current() == folder.name
    settings.remove(folder.name)
    shutil.rmtree(paths.state_dir() / "keys" / folder.name, ignore_errors=True)
    ssh_config.forget(folder.name)
    previous = record.previous_context if record else None
    if was_current and previous in settings.names():
        settings.use(previous)


def _forget_provisioning(description: Description | None) -> None:
    """What was provisioned in this vCenter is gone with it."""
    if description is not None and description.instance_uuid:
        record = provisioning_record(description.instance_uuid, "any")
        shutil.rmtree(record.parent, ignore_errors=True)
