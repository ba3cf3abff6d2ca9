"""TF_CONFIG, with free ports that every guest can reach.

TensorFlow's server binds ``[::]:port`` whatever TF_CONFIG says, and with a taken or blocked port
the workers wait for each other without a message; so ports are reserved and tested first.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from gpuvm.errors import PortsBlocked, RunError
from gpuvm.guest import Guest, HeldCommand, scripts
from gpuvm.spec import Distributed

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "grpc_proxy", "no_grpc_proxy")
"""With these set, in upper or lower case, TensorFlow tasks hang at start."""
IDLE_TIMEOUT_S = 60.0


def choose_ports(guests: Sequence[Guest], python: str, wanted: Distributed) -> list[int]:
    """Returns a free port of each guest that all other guests can reach; no two are the same,
    since guests may share a machine. They are released afterwards.

    Raises PortsBlocked with the pairs that failed, RunError when there is no free port.
    """
    with ExitStack() as held:
        ports = _reserve(guests, python, wanted, held)
        probe_all(guests, ports, python)
    return ports


def tf_config(addresses: Sequence[str], ports: Sequence[int], index: int) -> str:
    """TF_CONFIG of one worker; without a chief job, TensorFlow makes worker 0 the chief."""
    workers = [f"{_host(a)}:{p}" for a, p in zip(addresses, ports, strict=True)]
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})


def probe_all(guests: Sequence[Guest], ports: Sequence[int], python: str) -> None:
    """Connects from every guest to every other's port. Raises PortsBlocked."""
    where = {
        f"{_host(guest.endpoint.address)}:{port}": (guest.name, port)
        for guest, port in zip(guests, ports, strict=True)
    }

    def blocked(guest: Guest) -> list[tuple[str, str, int]]:
        others = [w for w, (name, _) in where.items() if name != guest.name]
        what = "try the workers' ports"
        done = guest.script(python, "probe_ports", *others, timeout_s=300, what=what)
        return [(guest.name, *where[w]) for w in done.stdout.split()]

    with ThreadPoolExecutor(len(guests)) as threads:
        pairs = [pair for found in threads.map(blocked, guests) for pair in found]
    if pairs:
        raise PortsBlocked(pairs)


def _reserve(
    guests: Sequence[Guest], python: str, wanted: Distributed, held: ExitStack
) -> list[int]:
    low, high = (wanted.ports or "0-0").split("-")
    ports: dict[str, int] = {}
    while waiting := [guest for guest in guests if guest.name not in ports]:
        taken = ",".join(map(str, ports.values()))
        command = scripts.command(python, "reserve_port", low, high, taken)
        holders = [
            held.enter_context(g.start(command, idle_timeout_s=IDLE_TIMEOUT_S)) for g in waiting
        ]
        for guest, holder in zip(waiting, holders, strict=True):
            port = _port(guest, holder, wanted)
            if port not in ports.values():
                ports[guest.name] = port
    return [ports[guest.name] for guest in guests]


def _port(guest: Guest, holder: HeldCommand, wanted: Distributed) -> int:
    line = holder.line()
    if line.isdigit():
        return int(line)
    where = f"in the range {wanted.ports}" if wanted.ports else "at all"
    raise RunError(
        f"{guest.name} has no free port {where}",
        hint="distributed.ports in gpuvm.yaml is the range; it needs a port for each VM",
    )


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
