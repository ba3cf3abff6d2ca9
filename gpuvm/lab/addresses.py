"""The loopback addresses of a lab's guests: a block 127.N.0.0/16 that no other lab uses.

A block is reserved by an abstract Unix socket, which the simulated vCenter inherits: the kernel
releases it when the last process that has it open ends, however it ends.
"""

import re
import socket
from dataclasses import dataclass

from gpuvm.errors import BadInput, LabError

_FIRST, _LAST = 77, 126
_PORTS = range(2222, 2322)


@dataclass(frozen=True)
class Block:
    """``block`` is 127.N.0.0/16; the reservation holds while any process has the socket open."""

    block: str
    reservation: socket.socket

    def free_port(self) -> int:
        """Returns a free SSH port at the first guest's address."""
        address = self.block.replace(".0.0/16", ".0.1")
        for port in _PORTS:
            with socket.socket() as probe:
                try:
                    probe.bind((address, port))
                except OSError:
                    continue
                return port
        raise LabError(f"no port from {_PORTS[0]} to {_PORTS[-1]} is free on {address}")


def reserve(wanted: str | None) -> Block:
    """Reserves the block ``wanted``, or without it the first free one from 127.77.0.0/16 on.

    Raises BadInput for an invalid block and LabError when none is free.
    """
    if wanted is not None and not _is_block(wanted):
        raise BadInput(f"'{wanted}' is not an address block 127.N.0.0/16 with N from 1 to 254")
    candidates = [f"127.{n}.0.0/16" for n in range(_FIRST, _LAST + 1)]
    for block in [wanted] if wanted is not None else candidates:
        reservation = _reserve(block)
        if reservation is not None:
            return Block(block, reservation)
    raise LabError(
        f"another lab uses the addresses {wanted}" if wanted else "all address blocks are in use",
        hint="run 'gpuvm lab down' in the other lab's state folder, or choose another block",
    )


def _is_block(text: str) -> bool:
    match = re.fullmatch(r"127\.(\d{1,3})\.0\.0/16", text)
    return match is not None and 1 <= int(match[1]) <= 254


def _reserve(block: str) -> socket.socket | None:
    reservation = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        reservation.bind(f"\0gpuvm-lab-{block}")
    except OSError:
        reservation.close()
        return None
    return reservation
