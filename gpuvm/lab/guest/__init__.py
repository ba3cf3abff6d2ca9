"""A simulated guest: its root file system, its first boot, its SSH server.

The supervisor starts ``python -m gpuvm.lab.guest BOOT_FILE`` for each VM that is powered on. Four
of them start at once on a small machine, so nothing here imports pydantic, TensorFlow or pyVmomi.
"""
