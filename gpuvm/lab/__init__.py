"""The simulated data centre: a vCenter with GPU hosts and real SSH guests on this machine.

    lab.up(lab.LabOptions(hosts=4, gpu="p100"))
    lab.status().vcenter
    lab.freeze("lab", ["gpuvm-01"])
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
    from gpuvm.lab.troubles import Slowness, cut, freeze, mend, slow, thaw

_MODULES = {
    "LabGuest": "lab_status",
    "LabOptions": "control",
    "LabStatus": "lab_status",
    "Slowness": "troubles",
    "Timings": "description",
    "cut": "troubles",
    "down": "control",
    "freeze": "troubles",
    "mend": "troubles",
    "slow": "troubles",
    "status": "lab_status",
    "thaw": "troubles",
    "up": "control",
}

__all__ = [
    "LabGuest",
    "LabOptions",
    "LabStatus",
    "Slowness",
    "Timings",
    "cut",
    "down",
    "freeze",
    "mend",
    "slow",
    "status",
    "thaw",
    "up",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'gpuvm.lab' has no attribute '{name}'")
    return getattr(import_module(f"gpuvm.lab.{_MODULES[name]}"), name)
