"""A connection to a program in a guest, over SSH: no port is opened there."""

import contextlib
from collections.abc import Iterator

from gpuvm.guest import scripts
from gpuvm.guest.ssh import Guest
from gpuvm.guest.transfer import TransferChannel


@contextlib.contextmanager
def relayed(
    guest: Guest, python: str, folder: str, name: str, silence_s: float
) -> Iterator[TransferChannel]:
    """Yields the two directions of the first program that connects to the Unix socket ``name`` in
    ``folder`` (gpuvm/guest/scripts/relay.py).

    Raises GuestUnreachable when the connection is lost, also at the end of the program's, and
    GuestError after ``silence_s`` without a byte.
    """
    what = "relay"
    command = scripts.command(python, "relay", folder, name)
    with guest.open(command, idle_timeout_s=silence_s, what=what) as stream:
        yield TransferChannel(guest, what, stream).after_greeting()
