"""Starts and removes a lab.

up(LabOptions(hosts=8))      # returns when the vCenter answers and the supervisor watches its VMs
down("lab")                  # leaves no process, port, file or context
"""

import json
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
from gpuvm.lab import addresses, build, daemons, hypervisor, network
from gpuvm.lab.description import ADMINISTRATOR, Description, Timings, describe, read_description
from gpuvm.lab.lab_status import LabStatus, is_alive, owns_context, status
from gpuvm.lab.state_folder import LabFolder, LabRecord, lab_folder, locked
from gpuvm.results import provisioning_record
from gpuvm.text import counted


@dataclass(frozen=True)
class LabOptions:
    """``description`` is a file that describes the whole lab, instead of the options before it.

    ``network`` is whether guests share this machine's or have their own; by default that of the
    ``address_block``, and this by default the first that no other lab uses.
    """

    name: str = "lab"
    hosts: int = 4
    gpus_per_host: int = 1
    vgpu: bool = False
    gpu: str = "p100"
    vms: int = 0
    description: Path | None = None
    timings: Timings | None = None
    network: addresses.Network | None = None
    address_block: str | None = None


def up(
    options: LabOptions | None = None, events: Events | None = None, lifeline: int | None = None
) -> LabStatus:
    """Starts the lab, or those of its processes that are not running.

    ``lifeline`` is the reading end of a pipe: the lab ends when the other end is closed; without it
    the lab runs until ``down``. Raises BadInput for invalid options, and LabError when the lab
    cannot be built or started, or is running with another configuration.
    """
    options, events = options or LabOptions(), events or Events()
    folder = lab_folder(options.name)
    requested = _requested(options)
    _require_linux()
    binary = build.vcsim_binary(events)
    with locked():
        _require_own_context(folder)
        if folder.path.exists() and not _vcsim_alive(folder):
            events.note("the simulated vCenter has exited: starting a new lab")
            _remove(folder)
        fresh = not folder.path.exists()
        try:
            if fresh:
                _start(folder, binary, requested, options, lifeline)
            else:
                _require_same_description(folder, requested, options.network)
            daemons.start_supervisor(folder, lifeline)
        except BaseException:
            if fresh:
                _remove(folder)
            raise
        _save_context(folder)
    return status(options.name)


def down(name: str = "lab") -> bool:
    """Stops the lab and deletes its files; False when there is no such lab."""
    folder = lab_folder(name)
    if not folder.path.exists():
        return False
    with locked():
        _remove(folder)
    return True


def _requested(options: LabOptions) -> Description:
    if options.description is None:
        description = describe(
            options.hosts, options.gpus_per_host, options.gpu, options.vms, vgpu=options.vgpu
        )
    elif _shape_options(options) != _shape_options(LabOptions()):
        raise BadInput(
            "--description replaces the options for hosts, GPUs and VMs: give one or the other"
        )
    else:
        description = read_description(options.description)
    if options.timings is not None:
        description = description.model_copy(update={"timings": options.timings})
    if options.address_block is not None:
        description = description.model_copy(update={"address_block": options.address_block})
    block = description.address_block
    if block and options.network not in (None, addresses.network_of(block)):
        raise BadInput(
            f"the addresses {block} are not of the network '{options.network}'",
            hint="leave out one of the two",
        )
    return description


def _shape_options(options: LabOptions) -> tuple[int, int, str, int, bool]:
    return options.hosts, options.gpus_per_host, options.gpu, options.vms, options.vgpu


def _require_linux() -> None:
    if sys.platform != "linux":
        raise LabError("the lab needs Linux: its guests are namespaces of the Linux kernel")
    try:
        import asyncssh  # noqa: F401, PLC0415 - the extra `lab` may not be installed
    except ImportError:
        raise LabError(
            "the lab's guests need the package asyncssh",
            hint="pip install '.[lab]' in gpuvm's source folder",
        ) from None


def _require_own_context(folder: LabFolder) -> None:
    if folder.name in settings.names() and not owns_context(folder):
        raise LabError(
            f"the context '{folder.name}' exists and does not belong to this lab",
            hint="choose another --name for the lab, or remove the context",
        )


def _require_same_description(
    folder: LabFolder, requested: Description, wanted: addresses.Network | None
) -> None:
    running = folder.description()
    record = folder.record()
    actual = addresses.network_of(record.address_block) if record is not None else wanted
    if wanted not in (None, actual):
        raise LabError(
            f"the lab '{folder.name}' is running with the network '{actual}'",
            hint="choose another --name, or remove that lab with 'gpuvm lab down' first",
        )
    if running is None or _without_defaults(running, requested) != _without_defaults(
        requested, requested
    ):
        found = "unreadable"
        if running:
            gpus = counted(running.gpu_count, "GPU")
            found = f"{counted(len(running.hosts), 'host')}, {gpus}"
        raise LabError(
            f"the lab '{folder.name}' is running with another configuration ({found})",
            hint="choose another --name, or remove that lab with 'gpuvm lab down' first",
        )


def _without_defaults(description: Description, requested: Description) -> Description:
    """Clears the fields that ``up`` chose because the request left them out."""
    chosen = [f for f in ("instance_uuid", "address_block") if getattr(requested, f) is None]
    return description.model_copy(update=dict.fromkeys(chosen))


def _vcsim_alive(folder: LabFolder) -> bool:
    record = folder.record()
    return record is not None and is_alive(record.vcsim) and folder.ready() is not None


def _start(
    folder: LabFolder,
    binary: Path,
    requested: Description,
    options: LabOptions,
    lifeline: int | None,
) -> None:
    chosen_network = options.network or addresses.network_of(requested.address_block or "127")
    if chosen_network == "namespaces":
        _require_own_networks()
    block = addresses.reserve(requested.address_block, chosen_network)
    try:
        folder.path.mkdir(parents=True, mode=0o700)
        identity = requested.instance_uuid or str(uuid.uuid4())
        chosen = {"address_block": block.block, "instance_uuid": identity}
        description = requested.model_copy(update=chosen)
        write_atomic(folder.description_file, description.to_json())
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


def _require_own_networks() -> None:
    reason = network.why_not()
    if reason is not None:
        raise LabError(
            f"guests cannot have networks of their own here: {reason}",
            hint="run it as root on Linux with iproute2, or with --network loopback",
        )


def _write_passwords(folder: LabFolder, description: Description) -> None:
    passwords = {user.name: secrets.token_urlsafe(24) for user in description.users}
    write_atomic(folder.passwords, json.dumps(passwords), 0o600)
    write_atomic(folder.password, passwords[ADMINISTRATOR] + "\n", 0o600)


def _save_context(folder: LabFolder) -> None:
    """Saves an ordinary context: what differs from a production site is settings."""
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
    """Guests end with their supervisor, also when it was killed."""
    record, supervisor = folder.record(), folder.supervisor()
    if record is not None:
        daemons.end(record.supervisor)
    for guest in supervisor.guests if supervisor is not None else ():
        daemons.end(guest.process, signal.SIGKILL)
        keys.forget(guest.instance_uuid)
    if record is not None:
        daemons.end(record.vcsim)
        if addresses.network_of(record.address_block) == "namespaces":
            network.remove_uplink(record.address_block)
    _remove_context(folder, record)
    _remove_provisioning_record(folder.description())
    hypervisor.remove_folder(folder.path)
    for shared in ("labs", "keys", "host-keys", "provisioning", "ssh/contexts", "ssh"):
        with suppress(OSError):  # not empty: another context uses it
            (paths.state_dir() / shared).rmdir()


def _remove_context(folder: LabFolder, record: LabRecord | None) -> None:
    """Also removes its key pair, and makes the previous context the current one again."""
    if not owns_context(folder):
        return
    was_current = settings.current() == folder.name
    settings.remove(folder.name)
    shutil.rmtree(paths.state_dir() / "keys" / folder.name, ignore_errors=True)
    ssh_config.forget(folder.name)
    previous = record.previous_context if record else None
    if was_current and previous in settings.names():
        settings.use(previous)


def _remove_provisioning_record(description: Description | None) -> None:
    if description is not None and description.instance_uuid:
        record = provisioning_record(description.instance_uuid, "any")
        shutil.rmtree(record.parent, ignore_errors=True)
