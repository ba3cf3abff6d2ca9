"""The addresses of a lab's guests: a block that no other lab uses.

Loopback addresses are a block 127.N.0.0/16. Guests with networks of their own have one of 1022
addresses of 198.18.0.0/15, which is set aside for measurements and routed nowhere (RFC 2544).

A block is reserved by an abstract Unix socket, which the simulated vCenter inherits: the kernel
releases it when the last process that has it open ends, however it ends.
"""

import ipaddress
import json
import re
import socket
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from gpuvm.errors import BadInput, LabError

_FIRST, _LAST = 77, 126
_PORTS = range(2222, 2322)
_OWN_NETWORKS = ipaddress.IPv4Network("198.18.0.0/15")
_BLOCK_BITS = 22
Network = Literal["loopback", "namespaces"]
_SSH_PORT = 22


@dataclass(frozen=True)
class Block:
    """The reservation holds while any process has the socket open."""

    block: str
    reservation: socket.socket

    def free_port(self) -> int:
        """Returns a free SSH port at the first guest's address; guests' own networks have 22."""
        if network_of(self.block) == "namespaces":
            return _SSH_PORT
        address = self.block.replace(".0.0/16", ".0.1")
        for port in _PORTS:
            with socket.socket() as probe:
                try:
                    probe.bind((address, port))
                except OSError:
                    continue
                return port
        raise LabError(f"no port from {_PORTS[0]} to {_PORTS[-1]} is free on {address}")


def reserve(wanted: str | None, network: Network = "loopback") -> Block:
    """Reserves the block ``wanted``, or without it the first free one.

    Raises BadInput for an invalid block and LabError when none is free.
    """
    if wanted is not None and not _is_block(wanted):
        raise BadInput(
            f"'{wanted}' is not an address block 127.N.0.0/16 with N from 1 to 254, nor, for "
            f"guests with networks of their own, a /{_BLOCK_BITS} of {_OWN_NETWORKS}"
        )
    found = [wanted] if wanted is not None else _candidates(network)
    for block in found:
        reservation = _reserve(block)
        if reservation is not None:
            return Block(block, reservation)
    raise LabError(
        f"another lab uses the addresses {wanted}" if wanted else "all address blocks are in use",
        hint="run 'gpuvm lab down' in the other lab's state folder, or choose another block",
    )


def network_of(block: str) -> Network:
    """Whether guests at these addresses share this machine's network or have their own."""
    return "namespaces" if block.startswith(("198.18.", "198.19.")) else "loopback"


def reachable(addresses: Iterable[str], block: str) -> tuple[str, ...]:
    """Those that a guest can have, without the ones of the isolated network (127.255)."""
    if network_of(block) == "namespaces":
        own = ipaddress.IPv4Network(block)
        return tuple(a for a in addresses if ipaddress.ip_address(a) in own)
    return tuple(a for a in addresses if a.startswith("127.") and not a.startswith("127.255."))


def _is_block(text: str) -> bool:
    match = re.fullmatch(r"127\.(\d{1,3})\.0\.0/16", text)
    if match is not None:
        return 1 <= int(match[1]) <= 254
    try:
        own = ipaddress.IPv4Network(text)
    except ValueError:
        return False
    return own.prefixlen == _BLOCK_BITS and own.subnet_of(_OWN_NETWORKS)


def _candidates(network: Network) -> list[str]:
    """All, or those that this machine has no route to, apart from one to half the world (a VPN)."""
    if network == "loopback":
        return [f"127.{n}.0.0/16" for n in range(_FIRST, _LAST + 1)]
    done = subprocess.run(
        ["ip", "-json", "-4", "route", "show", "table", "all"],
        capture_output=True,
        text=True,
        check=True,
    )
    named = [route["dst"] for route in json.loads(done.stdout or "[]")]
    routed = [ipaddress.IPv4Network(name) for name in named if name != "default"]
    blocks = _OWN_NETWORKS.subnets(new_prefix=_BLOCK_BITS)
    near = [route for route in routed if route.prefixlen >= 8]
    return [str(block) for block in blocks if not any(map(block.overlaps, near))]


def _reserve(block: str) -> socket.socket | None:
    reservation = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        reservation.bind(f"\0gpuvm-lab-{block}")
    except OSError:
        reservation.close()
        return None
    return reservation
