"""The simulated data centre: a vCenter with GPU hosts and real SSH guests on this machine.

    lab.up(lab.LabOptions(hosts=4, gpu="p100"))
    lab.status().vcenter
    lab.down()

Names are imported on first use: each guest is a process that imports ``gpuvm.lab.guest`` and must
not load pydantic and pyVmomi.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuvm.lab.control import LabOptions, down, up
    from gpuvm.lab.description import Timings
    from gpuvm.lab.lab_status import LabGuest, LabStatus, status

_MODULES = {
    "LabGuest": "lab_status",
    "LabOptions": "control",
    "LabStatus": "lab_status",
    "Timings": "description",
    "down": "control",
    "status": "lab_status",
    "up": "control",
}

__all__ = ["LabGuest", "LabOptions", "LabStatus", "Timings", "down", "status", "up"]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'gpuvm.lab' has no attribute '{name}'")
    return getattr(import_module(f"gpuvm.lab.{_MODULES[name]}"), name)
