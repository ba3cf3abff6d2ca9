"""The health of a guest's GPUs, and the processes that use them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from gpuvm.guest.ssh import Guest


@dataclass(frozen=True)
class GPUHealth:
    """``problems`` are those that affect training, each in a few words."""

    name: str
    bus_id: str
    uuid: str
    problems: Sequence[str]


@dataclass(frozen=True)
class GPUProcess:
    """``run`` is the gpuvm run that it belongs to, or None."""

    pid: int
    name: str
    memory: str
    run: str | None


@dataclass(frozen=True)
class GPUs:
    """``simulated`` is what nvidia-smi says of itself or of its GPUs."""

    health: Sequence[GPUHealth] = ()
    processes: Sequence[GPUProcess] = ()
    simulated: bool = False


def read_gpu_health(guest: Guest, python: str) -> GPUs:
    """What nvidia-smi and the kernel's log say; nothing where there is no nvidia-smi."""
    done = guest.script(python, "gpu_health", timeout_s=60, what="look at the GPUs")
    answer = json.loads(done.stdout)
    return GPUs(
        tuple(GPUHealth(**one) for one in answer["gpus"]),
        tuple(GPUProcess(**one) for one in answer["processes"]),
        answer["simulated"],
    )
