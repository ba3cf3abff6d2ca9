"""A lab's network in namespaces: each guest has its own, with an interface ``eth0``.

    switch = Switch.create("198.18.0.0/22")        # the operator's end is this machine's gpuvm-18-0
    cable = switch.plug("00:50:56:01:02:03", ("198.18.0.1",))
    run_in(cable.namespace, [["ip", "address"]])   # what is started there has this network alone
    run_in(switch.namespace, [["ip", "link", "set", cable.port, "down"]])

The guests' cables end at a bridge, the operator's too. The bridge has a namespace of its own, so
that this machine's packet filter has no say between guests, and the supervisor alone holds it: when
the supervisor ends, however it ends, the kernel removes the bridge and every cable.
"""

import ipaddress
import itertools
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuvm.errors import LabError
from gpuvm.lab.guest import linux

_TIMEOUT_S = 30.0
_PROGRAMS = {"ip": "iproute2", "tc": "iproute2", "nsenter": "util-linux", "unshare": "util-linux"}
_TRIAL = "ip link add one type veth peer name two && ip link add three type bridge"


@dataclass(frozen=True)
class Cable:
    """From ``port`` of the switch to ``eth0`` in the ``namespace`` of a guest."""

    port: str
    namespace: Path


@dataclass(frozen=True)
class Switch:
    """The network of one lab; ``namespace`` is a path that lasts as long as this process."""

    block: ipaddress.IPv4Network
    namespace: Path
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _open: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def create(block: str) -> "Switch":
        """Connects the operator too, at the last address of the block. Raises LabError."""
        network = ipaddress.IPv4Network(block)
        outside = uplink(block)
        remove_uplink(block)  # of a supervisor that was killed, if the kernel is not there yet
        namespace = _path(linux.new_network_namespace())
        own = f"/proc/{os.getpid()}/ns/net"
        in_switch = (
            ["ip", "link", "add", "bridge", "type", "bridge"],
            ["ip", "link", "set", "bridge", "up"],
            ["ip", "link", "add", "uplink", "type", "veth", "peer", "name", outside, "netns", own],
            ["ip", "link", "set", "uplink", "master", "bridge", "up"],
        )
        run_in(namespace, in_switch)
        address = f"{network[-2]}/{network.prefixlen}"
        believe = _write(f"net/ipv4/neigh/{outside}/locktime", 0)  # see _in_guest
        start = ["ip", "link", "set", outside, "up"]
        run_in(None, [["ip", "address", "add", address, "dev", outside], believe, start])
        return Switch(network, namespace)

    def plug(self, mac: str | None, addresses: Sequence[str]) -> Cable:
        """Connects a new namespace, which lasts until it is unplugged. Raises LabError."""
        descriptor = linux.new_network_namespace()
        cable = Cable(f"port{next(self._numbers)}", _path(descriptor))
        self._open[cable.port] = descriptor
        fixed = ("address", mac) if mac else ()
        inner = ("peer", "name", "eth0", *fixed, "netns", str(cable.namespace))
        in_switch = (
            ["ip", "link", "add", "name", cable.port, "type", "veth", *inner],
            ["ip", "link", "set", cable.port, "master", "bridge", "up"],
        )
        try:
            run_in(self.namespace, in_switch)
            run_in(cable.namespace, _in_guest(addresses, self.block.prefixlen))
        except LabError:
            self.unplug(cable)
            raise
        return cable

    def unplug(self, cable: Cable) -> None:
        """The kernel removes the cable of a guest that has ended, but only after a while."""
        os.close(self._open.pop(cable.port))
        if cable.port in links(self.namespace):
            remove = ["ip", "link", "delete", cable.port]
            run_in(self.namespace, [remove], may_fail="Cannot find device")


def why_not() -> str | None:
    """Why guests cannot have networks of their own on this machine; None when they can."""
    if os.geteuid() != 0:
        return "only root can connect network namespaces with this machine"
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            return f"the program {program} of {package} is missing"
    tried = subprocess.run(
        ["unshare", "--net", "sh", "-ec", _TRIAL],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
    if tried.returncode == 0:
        return None
    return (tried.stderr.strip().splitlines() or [f"status {tried.returncode}"])[-1]


def uplink(block: str) -> str:
    """The name of this machine's interface to that lab; no two labs have one block."""
    second, third = block.split(".")[1:3]
    return f"gpuvm-{second}-{third}"


def remove_uplink(block: str) -> None:
    """Removes the operator's end of a lab's network if it is there."""
    name = uplink(block)
    if name in links(None):
        run_in(None, [["ip", "link", "delete", name]], may_fail="Cannot find device")


def links(namespace: Path | None) -> dict[str, Any]:
    """The interfaces of a namespace, or of this machine, as ``ip`` describes them, by name."""
    return {link["ifname"]: link for link in read_in(namespace, "ip", "-json", "link", "show")}


def read_in(namespace: Path | None, *command: str) -> list[dict[str, Any]]:
    """Runs a command of iproute2 that answers with a list in JSON."""
    found: list[dict[str, Any]] = json.loads(run_in(namespace, [command]) or "[]")
    return found


def run_in(
    namespace: Path | None, commands: Sequence[Sequence[str]], *, may_fail: str | None = None
) -> str:
    """Runs the commands in a network namespace until one fails; returns their output.

    Raises LabError, except for an error with the text ``may_fail``.
    """
    script = " && ".join(map(shlex.join, commands))
    enter = ["nsenter", f"--net={namespace}", "--"] if namespace is not None else []
    try:
        done = subprocess.run(
            [*enter, "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"'{script}' did not end within {_TIMEOUT_S:g} s") from None
    if done.returncode != 0 and not (may_fail and may_fail in done.stderr):
        why = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise LabError(f"the lab's network refuses '{script}': {why}")
    return done.stdout


def _in_guest(addresses: Sequence[str], prefix: int) -> list[list[str]]:
    """Announces the addresses, which may have been another VM's a moment ago, and believes others.

    Users of the guest may take ports below 1024, since its SSH server is one of them: it has no
    capabilities.
    """
    return [
        ["ip", "link", "set", "lo", "up"],
        *(["ip", "address", "add", f"{a}/{prefix}", "dev", "eth0"] for a in addresses),
        _write("net/ipv4/ip_unprivileged_port_start", 0),
        _write("net/ipv4/conf/eth0/arp_notify", 1),
        _write("net/ipv4/neigh/eth0/locktime", 0),
        ["ip", "link", "set", "eth0", "up"],
    ]


def _write(name: str, value: int) -> list[str]:
    return ["sh", "-c", f"echo {value} > /proc/sys/{name}"]


def _path(descriptor: int) -> Path:
    """That of an open file, for other processes too."""
    return Path(f"/proc/{os.getpid()}/fd/{descriptor}")
