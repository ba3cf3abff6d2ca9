"""One simulated machine from the inside: its root, its first boot, its SSH server.

The supervisor starts ``python -m gpuvm.lab.guest BOOT_FILE`` for each VM that is powered on. Light
on purpose: four of these start at once on a small machine, so nothing here imports pydantic,
TensorFlow or pyVmomi.
"""
