"""reserve_port LOW HIGH [TAKEN,...]: binds a free port and prints it; releases it when input ends.

LOW 0 means any port. The port is bound on every address, as TensorFlow's server does, and accepts
connections, so that other guests can test it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys

MAX_HOLD_S = 600
CLOSE_TIMEOUT_S = 5
NONE_FREE = 3


def bind(port: int) -> socket.socket:
    try:
        server = socket.socket(socket.AF_INET6)
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    except OSError:  # a kernel without IPv6
        server = socket.socket(socket.AF_INET)
    with contextlib.ExitStack() as close_if_taken:
        close_if_taken.callback(server.close)
        server.bind(("", port))
        server.listen(128)
        close_if_taken.pop_all()
    return server


def first_free(low: int, high: int, taken: set[int]) -> socket.socket:
    if not low:
        refused = []  # kept open, or the kernel may return the same port again
        while True:
            server = bind(0)
            if server.getsockname()[1] not in taken:
                return server
            refused.append(server)
    for port in range(low, high + 1):
        if port not in taken:
            try:
                return bind(port)
            except OSError:
                continue
    sys.exit(NONE_FREE)


def main() -> None:
    low, high = int(sys.argv[1]), int(sys.argv[2])
    taken = {int(port) for port in sys.argv[3].split(",") if port}
    server = first_free(low, high, taken)
    sys.stdout.write(f"{server.getsockname()[1]}\n")
    sys.stdout.flush()
    while True:
        ready = select.select([server, sys.stdin], [], [], MAX_HOLD_S)[0]
        if not ready or sys.stdin in ready:
            return
        await_close(server.accept()[0])


def await_close(client: socket.socket) -> None:
    """Lets the client close first: else TIME_WAIT here would keep the port from being bound."""
    client.settimeout(CLOSE_TIMEOUT_S)
    with contextlib.suppress(OSError):
        client.recv(1)
    client.close()


main()
