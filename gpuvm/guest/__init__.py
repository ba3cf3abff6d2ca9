"""Guests over SSH; the only importer of paramiko.

ready = guest.wait_ready(lambda: endpoint, expected, deadline_s=300, events=events)
with guest.connect(endpoint) as machine:
    machine.run(["nvidia-smi"], timeout_s=20)

Errors of paramiko are translated to those of gpuvm.errors.
"""

from gpuvm.guest import ssh_config
from gpuvm.guest.addresses import Awaited, endpoint
from gpuvm.guest.cloudinit import METADATA, FixedAddress, user_data, with_network
from gpuvm.guest.connection import Endpoint, locate
from gpuvm.guest.download import Fetched, SkippedFile, fetch
from gpuvm.guest.gpu_health import GPUHealth, GPUProcess, GPUs, read_gpu_health
from gpuvm.guest.idle import IdleState, idle_state, shut_down_when_idle
from gpuvm.guest.keys import ensure_key_pair
from gpuvm.guest.keys import forget as forget_host_keys
from gpuvm.guest.processes import (
    Alive,
    Busy,
    Exited,
    Launched,
    Listed,
    Output,
    Process,
    PrunedRuns,
    cancel,
    collect_project,
    end_all,
    follow,
    gpu_holder,
    hold,
    launch,
    list_processes,
    mark_project,
    prune,
    take_place,
)
from gpuvm.guest.progress import OnProgress, TransferProgress
from gpuvm.guest.readiness import Expected, Ready, query_gpus, wait_ready
from gpuvm.guest.relay import relayed
from gpuvm.guest.ssh import CommandResult, Guest, HeldCommand, connect
from gpuvm.guest.transfer import TransferChannel
from gpuvm.guest.upload import Files, Pruned, Pushed, prune_store, push, push_by_content

__all__ = [
    "METADATA",
    "Alive",
    "Awaited",
    "Busy",
    "CommandResult",
    "Endpoint",
    "Exited",
    "Expected",
    "Fetched",
    "Files",
    "FixedAddress",
    "GPUHealth",
    "GPUProcess",
    "GPUs",
    "Guest",
    "HeldCommand",
    "IdleState",
    "Launched",
    "Listed",
    "OnProgress",
    "Output",
    "Process",
    "Pruned",
    "PrunedRuns",
    "Pushed",
    "Ready",
    "SkippedFile",
    "TransferChannel",
    "TransferProgress",
    "cancel",
    "collect_project",
    "connect",
    "end_all",
    "endpoint",
    "ensure_key_pair",
    "fetch",
    "follow",
    "forget_host_keys",
    "gpu_holder",
    "hold",
    "idle_state",
    "launch",
    "list_processes",
    "locate",
    "mark_project",
    "prune",
    "prune_store",
    "push",
    "push_by_content",
    "query_gpus",
    "read_gpu_health",
    "relayed",
    "shut_down_when_idle",
    "ssh_config",
    "take_place",
    "user_data",
    "wait_ready",
    "with_network",
]
