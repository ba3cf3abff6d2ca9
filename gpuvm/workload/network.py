"""Before TensorFlow starts: free ports, held until all are chosen, and tried from every guest.

TensorFlow's server binds ``[::]:port`` whatever TF_CONFIG says, and a port that is taken or blocked
shows only as workers that wait for each other; so both are found out here.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from gpuvm.errors import PortsBlocked, RunError
from gpuvm.guest import Guest, Held
from gpuvm.spec import Distributed
from gpuvm.workload import scripts

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "grpc_proxy", "no_grpc_proxy")
"""With these set, two TensorFlow tasks hang at start."""


def choose_ports(guests: Sequence[Guest], python: str, wanted: Distributed) -> list[int]:
    """One free port of each guest that every other guest has reached.

    Raises PortsBlocked with the pairs that failed, RunError when a range has no free port.
    """
    low, high = _range(wanted)
    with ExitStack() as held:
        ports = []
        for guest in guests:
            holder = guest.start([python, "-c", scripts.HOLD_PORT, str(low), str(high)])
            held.callback(holder.release)
            ports.append(_port(guest, holder))
        _try_all(guests, ports, python)
    return ports


def tf_config(addresses: Sequence[str], ports: Sequence[int], index: int) -> str:
    """TF_CONFIG of one worker; worker 0 is the chief, as TensorFlow has it without a chief job."""
    workers = [f"{_host(a)}:{p}" for a, p in zip(addresses, ports, strict=True)]
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})


def _try_all(guests: Sequence[Guest], ports: Sequence[int], python: str) -> None:
    where = {
        f"{guest.endpoint.address}:{port}": (guest.name, port)
        for guest, port in zip(guests, ports, strict=True)
    }

    def blocked(guest: Guest) -> list[tuple[str, str, int]]:
        others = [w for w, (name, _) in where.items() if name != guest.name]
        done = guest.run([python, "-c", scripts.TRY_PORTS, *others], timeout_s=120)
        return [(guest.name, *where[w]) for w in done.stdout.split()]

    with ThreadPoolExecutor(len(guests)) as threads:
        pairs = [pair for found in threads.map(blocked, guests) for pair in found]
    if pairs:
        raise PortsBlocked(pairs)


def _port(guest: Guest, holder: Held) -> int:
    said = holder.line()
    if not said.isdigit():
        raise RunError(
            f"{guest.name} has no free port in the range",
            hint="distributed.ports in gpuvm.yaml names the range",
        )
    return int(said)


def _range(wanted: Distributed) -> tuple[int, int]:
    if wanted.ports is None:
        return 0, 0
    low, high = wanted.ports.split("-")
    return int(low), int(high)


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
