"""The loopback addresses of a lab's guests: a block 127.N.0.0/16 that no other lab has.

A block is reserved by an abstract Unix socket, which the simulated vCenter inherits: the kernel
gives it back when the last process that holds it is gone, however it went.
"""

import re
import socket
from dataclasses import dataclass

from gpuvm.errors import BadInput, LabError

_FIRST, _LAST = 77, 126
_PORTS = range(2222, 2322)


@dataclass(frozen=True)
class Block:
    """``block`` is 127.N.0.0/16; ``reservation`` lasts as long as any process has it open."""

    block: str
    reservation: socket.socket

    def free_port(self) -> int:
        """An SSH port that nothing on this machine listens on at the first guest's address."""
        address = self.block.replace(".0.0/16", ".0.1")
        for port in _PORTS:
            with socket.socket() as attempt:
                try:
                    attempt.bind((address, port))
                except OSError:
                    continue
                return port
        raise LabError(f"no port from {_PORTS[0]} to {_PORTS[-1]} is free on {address}")


def reserve(wanted: str | None) -> Block:
    """The wanted block, else the first free one from 127.77.0.0/16 on.

    Raises BadInput for what is not such a block and LabError when none is free.
    """
    if wanted is not None and not _is_block(wanted):
        raise BadInput(f"'{wanted}' is not an address block 127.N.0.0/16 with N from 1 to 254")
    candidates = [f"127.{n}.0.0/16" for n in range(_FIRST, _LAST + 1)]
    for block in [wanted] if wanted is not None else candidates:
        reservation = _reserve(block)
        if reservation is not None:
            return Block(block, reservation)
    raise LabError(
        f"another lab has the addresses {wanted}" if wanted else "every address block is taken",
        hint="'gpuvm lab down' in the other state folder, or another address block",
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
