"""The only importer of paramiko: a machine with a TensorFlow in it, reached over SSH.

ready = guest.wait_ready(lambda: endpoint, expected, deadline_s=300, events=events)
with guest.connect(endpoint) as machine:
    machine.run(["nvidia-smi"], timeout_s=20)

Library errors of paramiko do not leave this package: they become those of gpuvm.errors.
"""

from gpuvm.guest import ssh_config
from gpuvm.guest.cloudinit import METADATA, FixedAddress, user_data, with_network
from gpuvm.guest.connection import Endpoint, locate
from gpuvm.guest.keys import ensure_key_pair
from gpuvm.guest.keys import forget as forget_host_keys
from gpuvm.guest.processes import Alive, Exited, Output, Process, end_all, follow, launch
from gpuvm.guest.readiness import Expected, Ready, query_gpus, wait_ready
from gpuvm.guest.ssh import CommandResult, Guest, HeldCommand, connect
from gpuvm.guest.transfer import fetch, push

__all__ = [
    "METADATA",
    "Alive",
    "CommandResult",
    "Endpoint",
    "Exited",
    "Expected",
    "FixedAddress",
    "Guest",
    "HeldCommand",
    "Output",
    "Process",
    "Ready",
    "connect",
    "end_all",
    "ensure_key_pair",
    "fetch",
    "follow",
    "forget_host_keys",
    "launch",
    "locate",
    "push",
    "query_gpus",
    "ssh_config",
    "user_data",
    "wait_ready",
    "with_network",
]
