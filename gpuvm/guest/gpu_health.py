"""The health of a guest's GPUs, and the processes that use them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from gpuvm.guest import scripts
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


def read_gpu_health(guest: Guest, python: str) -> tuple[list[GPUHealth], list[GPUProcess]]:
    """Reads nvidia-smi and the kernel's log; both lists are empty without nvidia-smi."""
    command = scripts.command(python, "gpu_health")
    answer = json.loads(guest.run(command, timeout_s=60, what="check the GPUs").stdout)
    return (
        [GPUHealth(**one) for one in answer["gpus"]],
        [GPUProcess(**one) for one in answer["processes"]],
    )
