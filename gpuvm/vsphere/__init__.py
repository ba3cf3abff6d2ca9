"""The only importer of pyVmomi: everything here hands out frozen values from gpuvm.inventory.

with vsphere.connect(context, password) as connection:
    inventory = connection.read_inventory()
"""

from gpuvm.vsphere.board import Board, Change, HostChanged, Task, TaskEnded, TaskProgress, VMChanged
from gpuvm.vsphere.clone import CloneRequest
from gpuvm.vsphere.connection import VSphere, connect
from gpuvm.vsphere.hosts import HostState
from gpuvm.vsphere.looking import Coming
from gpuvm.vsphere.reading import Asking
from gpuvm.vsphere.residents import Resident
from gpuvm.vsphere.silence import Card, Silence
from gpuvm.vsphere.snapshots import TemplateHandle, TemplateState
from gpuvm.vsphere.watching import Machine

__all__ = [
    "Asking",
    "Board",
    "Card",
    "Change",
    "CloneRequest",
    "Coming",
    "HostChanged",
    "HostState",
    "Machine",
    "Resident",
    "Silence",
    "Task",
    "TaskEnded",
    "TaskProgress",
    "TemplateHandle",
    "TemplateState",
    "VMChanged",
    "VSphere",
    "connect",
]
