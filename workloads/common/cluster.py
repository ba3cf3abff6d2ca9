"""The workers of a distributed run, and a deadline for their start."""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.averaging import VARIABLE
from common.errors import LOST_WORKER, exit_with


@dataclass(frozen=True)
class Cluster:
    """``addresses`` are those of all workers, HOST:PORT, in order; ``worker`` is this one's index.

    Worker 0 is the chief.
    """

    worker: int = 0
    addresses: Sequence[str] = ("alone",)

    @property
    def workers(self) -> int:
        return len(self.addresses)


def from_environment() -> Cluster:
    """The cluster of TF_CONFIG, or that of local SGD, whose workers have no addresses; a single
    worker without either.
    """
    if VARIABLE in os.environ:
        workers = int(os.environ["GPUVM_WORKERS"])
        return Cluster(int(os.environ["GPUVM_WORKER"]), [f"worker {n}" for n in range(workers)])
    config = json.loads(os.environ.get("TF_CONFIG") or "{}")
    worker = int(config.get("task", {}).get("index", 0))
    return Cluster(worker, config.get("cluster", {}).get("worker", ["alone"]))


def start_watchdog(program: str, deadline_s: float, cluster: Cluster) -> Callable[[], None]:
    """Returns in a child process; the parent ends it if not all workers start in time.

    TensorFlow waits for a missing worker without a message and holds the GIL meanwhile, so a thread
    could not watch it. Call the returned function once all workers have joined.
    """
    reading, writing = os.pipe()
    if cluster.workers == 1:
        return lambda: os.close(writing)
    child = os.fork()
    if child == 0:
        os.close(reading)
        _die_with_parent()
        return lambda: os.close(writing)
    os.close(writing)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    if not select.select([reading], [], [], deadline_s)[0]:
        os.kill(child, signal.SIGKILL)
        exit_with(
            program,
            f"not all workers joined within {deadline_s:g} s; missing: {_missing(cluster)}",
            LOST_WORKER,
        )
    _, status = os.waitpid(child, 0)
    os._exit(abs(os.waitstatus_to_exitcode(status)))


def _missing(cluster: Cluster) -> str:
    others = [one for n, one in enumerate(cluster.addresses) if n != cluster.worker]
    missing = [address for address in others if not _is_reachable(address)]
    return ", ".join(missing) or "a worker that is reachable but did not join"


def _die_with_parent() -> None:
    """Sets PR_SET_PDEATHSIG, so that the child ends with its parent."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _is_reachable(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
        return False
    return True
