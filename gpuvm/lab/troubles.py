"""Trouble with guests while they run: a link that is cut or slow, a machine that stands still.

    cut("lab", ["gpuvm-01"])
    slow("lab", ["gpuvm-01"], Slowness("10mbit", "50ms"))
    mend("lab", ["gpuvm-01"])                  # as if nothing had been done to the link
    freeze("lab", ["gpuvm-01"])
    thaw("lab", ["gpuvm-01"])

A guest that is powered on again has a sound link. Only labs whose guests have networks of their own
have links.
"""

import re
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuvm.errors import BadInput, LabError, NotFound
from gpuvm.lab import network, processes
from gpuvm.lab.network import Cable
from gpuvm.lab.processes import ProcessId
from gpuvm.lab.state_folder import GuestRecord, SupervisorRecord, lab_folder

_RATE = re.compile(r"([1-9]\d{0,8})([kmg]bit)")
_DELAY = re.compile(r"([1-9]\d{0,5})(us|ms|s)")
_UNITS = {"kbit": 1_000, "mbit": 1_000_000, "gbit": 1_000_000_000}
_QUEUE_MS = 200
_PACKET = 1514
_NO_NETEM = re.compile(r"qdisc kind is unknown|No such file")
_FREEZE_S = 30.0
_POLL_S = 0.01


@dataclass(frozen=True)
class Slowness:
    """``rate`` and ``delay`` as tc writes them: 10mbit, 50ms. They hold in either direction.

    Raises BadInput for what is neither.
    """

    rate: str
    delay: str | None = None

    def __post_init__(self) -> None:
        if not _RATE.fullmatch(self.rate):
            raise BadInput(
                f"'{self.rate}' is not a rate", hint="write it as 500kbit, 10mbit or 1gbit"
            )
        if self.delay is not None and not _DELAY.fullmatch(self.delay):
            raise BadInput(f"'{self.delay}' is not a delay", hint="write it as 500us, 50ms or 1s")


def cut(lab: str, vms: Sequence[str]) -> None:
    """Nothing gets through any more, and nobody is told."""
    for link in _links(lab, vms):
        network.run_in(link.switch, [["ip", "link", "set", link.cable.port, "down"]])


def mend(lab: str, vms: Sequence[str]) -> None:
    """Undoes what ``cut`` and ``slow`` did."""
    for link in _links(lab, vms):
        network.run_in(link.switch, [["ip", "link", "set", link.cable.port, "up"]])
        for namespace, interface in link.ends:
            if interface in _slowed(namespace):
                network.run_in(namespace, [["tc", "qdisc", "delete", "dev", interface, "root"]])


def slow(lab: str, vms: Sequence[str], slowness: Slowness) -> None:
    """Raises LabError where this kernel cannot delay packets."""
    for link in _links(lab, vms):
        for namespace, interface in link.ends:
            command = ["tc", "qdisc", "replace", "dev", interface, "root", *_discipline(slowness)]
            try:
                network.run_in(namespace, [command])
            except LabError as error:
                if slowness.delay is None or not _NO_NETEM.search(str(error)):
                    raise
                raise LabError(
                    "this kernel has no queue that delays packets (netem)",
                    hint="'modprobe sch_netem' loads it where it is installed; a rate alone "
                    "needs none",
                ) from None


def freeze(lab: str, vms: Sequence[str]) -> None:
    """Stops all processes of the guests: they keep their memory and connections, and do nothing.

    Raises LabError when new ones appear faster than they can be stopped.
    """
    for vm, first in _processes(lab, vms):
        deadline = time.monotonic() + _FREEZE_S
        while running := [pid for pid in _everyone(first) if not processes.is_stopped(pid)]:
            if time.monotonic() > deadline:
                raise LabError(f"{vm} has processes that do not stop: {running}")
            _send(running, signal.SIGSTOP)
            time.sleep(_POLL_S)  # a process may be in a system call, or fork while the list is read


def thaw(lab: str, vms: Sequence[str]) -> None:
    """Undoes ``freeze``; a child goes on before its parent, which is not told that it stood."""
    for _, first in _processes(lab, vms):
        _send(reversed(_everyone(first)), signal.SIGCONT)


def link_states(switch: Path | None) -> dict[str, str]:
    """``up``, ``cut`` or ``slow`` by port; none where there is no switch, or not any more."""
    if switch is None:
        return {}
    try:
        links, slowed = network.links(switch), _slowed(switch)
    except LabError:
        return {}
    return {
        port: "cut" if "UP" not in link["flags"] else "slow" if port in slowed else "up"
        for port, link in links.items()
    }


def _slowed(namespace: Path) -> set[str]:
    """The interfaces with a queue that ``slow`` set."""
    queues = network.read_in(namespace, "tc", "-json", "qdisc", "show")
    return {queue["dev"] for queue in queues if queue["kind"] in ("tbf", "netem")}


@dataclass(frozen=True)
class _Link:
    switch: Path
    cable: Cable

    @property
    def ends(self) -> tuple[tuple[Path, str], tuple[Path, str]]:
        return (self.switch, self.cable.port), (self.cable.namespace, "eth0")


def _links(lab: str, vms: Sequence[str]) -> list[_Link]:
    """All or none: raises LabError and NotFound before anything is done."""
    supervisor = _supervisor(lab)
    if supervisor.switch is None:
        raise LabError(
            f"the guests of the lab '{lab}' have no links of their own: they share this machine's "
            "network",
            hint="a lab started by root with 'gpuvm lab up --network namespaces' has them; "
            f"'gpuvm lab freeze {' '.join(vms)}' makes a guest silent in any lab",
        )
    found = [_guest(supervisor, vm) for vm in vms]
    return [_Link(supervisor.switch, guest.cable) for guest in found if guest.cable is not None]


def _processes(lab: str, vms: Sequence[str]) -> list[tuple[str, int]]:
    supervisor = _supervisor(lab)
    found = [_guest(supervisor, vm) for vm in vms]
    return [(guest.vm, guest.process.pid) for guest in found if guest.process is not None]


def _supervisor(lab: str) -> SupervisorRecord:
    folder = lab_folder(lab)
    record, supervisor = folder.record(), folder.supervisor()
    running = record is not None and record.supervisor is not None and record.supervisor.alive
    if not running or supervisor is None:
        raise LabError(f"the lab '{lab}' is not running", hint="'gpuvm lab up' starts it")
    return supervisor


def _guest(supervisor: SupervisorRecord, vm: str) -> GuestRecord:
    named = [guest for guest in supervisor.guests if guest.vm == vm]
    if not named:
        raise NotFound("guest", vm, [guest.vm for guest in supervisor.guests])
    for guest in named:
        if _is_on(guest.process):
            return guest
    raise LabError(f"the guest of '{vm}' is not running", hint="'gpuvm lab status' shows its state")


def _is_on(process: ProcessId | None) -> bool:
    return process is not None and process.alive


def _everyone(first: int) -> list[int]:
    """Parents before their children."""
    return [first, *processes.descendants(first)]


def _send(pids: Iterator[int] | list[int], number: signal.Signals) -> None:
    for pid in pids:
        found = processes.identify(pid)
        if found is not None:
            found.send(number)


def _discipline(slowness: Slowness) -> list[str]:
    """A rate alone needs tbf, which is in every kernel; netem, which can delay too, is not."""
    number, unit = _parts(_RATE, slowness.rate)
    bytes_per_ms = number * _UNITS[unit] // 8000
    if slowness.delay is not None:
        # Room for what is on its way, or netem would drop it.
        packets = 1000 + bytes_per_ms * (_QUEUE_MS + _milliseconds(slowness.delay)) // _PACKET
        return [
            *("netem", "delay", slowness.delay, "rate", slowness.rate),
            *("limit", str(packets)),
        ]
    # tbf refills its bucket at the kernel's clock, which ticks a hundred times a second or more.
    burst = max(2 * _PACKET, bytes_per_ms * 10)
    return ["tbf", "rate", slowness.rate, "burst", f"{burst}b", "latency", f"{_QUEUE_MS}ms"]


def _milliseconds(delay: str) -> int:
    number, unit = _parts(_DELAY, delay)
    return number * 1000 if unit == "s" else number if unit == "ms" else number // 1000


def _parts(pattern: re.Pattern[str], text: str) -> tuple[int, str]:
    match = pattern.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return int(match[1]), match[2]
