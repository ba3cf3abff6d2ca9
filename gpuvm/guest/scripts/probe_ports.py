"""probe_ports HOST:PORT...: prints those that do not accept a TCP connection from here."""

import socket
import sys
from concurrent.futures import ThreadPoolExecutor

TIMEOUT_S = 5


def blocked(where: str) -> bool:
    host, _, port = where.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT_S).close()
    except OSError:
        return True
    return False


with ThreadPoolExecutor(32) as threads:
    found = zip(sys.argv[1:], threads.map(blocked, sys.argv[1:]))  # noqa: B905 - Python 3.9
    sys.stdout.write("".join(f"{where}\n" for where, is_blocked in found if is_blocked))
