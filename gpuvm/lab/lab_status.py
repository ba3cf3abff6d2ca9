"""The status of a lab, read from its folder and /proc."""

from dataclasses import dataclass
from pathlib import Path

from gpuvm import settings
from gpuvm.errors import BadInput
from gpuvm.lab import addresses, processes, troubles
from gpuvm.lab.processes import ProcessId
from gpuvm.lab.state_folder import GuestRecord, LabFolder, SupervisorRecord, lab_folder


@dataclass(frozen=True)
class LabGuest:
    """A VM with user data; ``pid`` is its guest's first process as this machine numbers it.

    ``link`` is ``up``, ``cut`` or ``slow`` for a guest with a network of its own.
    """

    vm: str
    address: str | None
    powered: bool
    pid: int | None
    problem: str | None = None
    link: str | None = None
    frozen: bool = False


@dataclass(frozen=True)
class LabStatus:
    """``running`` is whether both the simulated vCenter and the supervisor run.

    ``about`` is the vCenter's product name, ``control_url`` the simulator's control endpoint,
    ``network`` is ``loopback`` or ``namespaces``, ``context`` the context that `lab up` wrote;
    ``problems`` are one line each.
    """

    name: str
    running: bool
    state_dir: Path
    isolation: str | None = None
    vcenter: str | None = None
    about: str | None = None
    control_url: str | None = None
    hosts: int = 0
    gpus: int = 0
    network: str | None = None
    address_block: str | None = None
    ssh_port: int | None = None
    context: str | None = None
    guests: tuple[LabGuest, ...] = ()
    problems: tuple[str, ...] = ()


def status(name: str = "lab") -> LabStatus:
    """A lab that was never started, or was removed, is not running and has no problems."""
    folder = lab_folder(name)
    record, description, ready = folder.record(), folder.description(), folder.ready()
    if not folder.path.exists():
        return LabStatus(name, running=False, state_dir=folder.path)
    vcsim = record is not None and is_alive(record.vcsim)
    supervisor = record is not None and is_alive(record.supervisor)
    reported = folder.supervisor() if supervisor else None
    return LabStatus(
        name=name,
        running=vcsim and supervisor,
        state_dir=folder.path,
        isolation=reported.isolation if reported else None,
        vcenter=ready.url if ready and vcsim else None,
        about=ready.about_name if ready and vcsim else None,
        control_url=ready.control_url if ready and vcsim else None,
        hosts=len(description.hosts) if description else 0,
        gpus=description.gpu_count if description else 0,
        network=addresses.network_of(record.address_block) if record else None,
        address_block=record.address_block if record else None,
        ssh_port=record.ssh_port if record else None,
        context=name if owns_context(folder) else None,
        guests=_guests(reported) if reported else (),
        problems=_problems(reported, vcsim=vcsim, supervisor=supervisor),
    )


def is_alive(process: ProcessId | None) -> bool:
    return process is not None and process.alive


def owns_context(folder: LabFolder) -> bool:
    """Whether the context with the lab's name was written by the lab."""
    try:
        context = settings.load(folder.name) if folder.name in settings.names() else None
    except BadInput:
        return False
    return (
        context is not None
        and isinstance(context.tls, settings.CAFile)
        and context.tls.ca_file.is_relative_to(folder.path)
    )


def _guests(reported: SupervisorRecord) -> tuple[LabGuest, ...]:
    links = troubles.link_states(reported.switch)
    return tuple(_guest(record, links) for record in reported.guests)


def _guest(record: GuestRecord, links: dict[str, str]) -> LabGuest:
    pid = record.process.pid if is_alive(record.process) and record.process else None
    return LabGuest(
        vm=record.vm,
        address=record.address,
        powered=record.powered,
        pid=pid,
        problem=record.problem,
        link=links.get(record.cable.port) if record.cable else None,
        frozen=pid is not None and processes.is_stopped(pid),
    )


def _problems(
    reported: SupervisorRecord | None, *, vcsim: bool, supervisor: bool
) -> tuple[str, ...]:
    found = []
    if not vcsim:
        found.append("the simulated vCenter has exited: 'gpuvm lab up' starts a new lab")
    if not supervisor:
        found.append(
            "the supervisor has exited, and the guests with it: 'gpuvm lab up' restarts it"
        )
    if reported is not None and not reported.isolated:
        found.append(f"guests are not isolated: {reported.isolation}")
    if reported is not None and reported.problem is not None:
        found.append(f"the supervisor cannot reach the vCenter: {reported.problem}")
    guests = reported.guests if reported is not None else ()
    return (*found, *(f"{guest.vm}: {guest.problem}" for guest in guests if guest.problem))
