"""The only importer of paramiko: a machine with a TensorFlow in it, reached over SSH.

ready = guest.wait_ready(endpoint, expected, deadline_s=300, events=events)
with guest.connect(endpoint) as machine:
machine.run(["nvidia-smi"], timeout_s=20)
"""

from gpuvm.guest.cloudinit import user_data
from gpuvm.guest.hostkeys import forget as forget_host_keys
from gpuvm.guest.keys import ensure_key_pair
from gpuvm.guest.readiness import Expected, Ready, look_at_gpus, wait_ready
from gpuvm.guest.ssh import Endpoint, Finished, Guest, Held, connect

__all__ = [
    "Endpoint",
    "Expected",
    "Finished",
    "Guest",
    "Held",
    "Ready",
    "connect",
    "ensure_key_pair",
    "forget_host_keys",
    "look_at_gpus",
    "user_data",
    "wait_ready",
]
