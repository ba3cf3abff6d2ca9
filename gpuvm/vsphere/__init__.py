"""The only importer of pyVmomi: everything here hands out frozen values from gpuvm.inventory.

with vsphere.connect(context, password) as connection:
    inventory = connection.read_inventory()
"""

from gpuvm.vsphere.clone import CloneRequest
from gpuvm.vsphere.connection import VSphere, connect
from gpuvm.vsphere.diagnosis import Card, Silence
from gpuvm.vsphere.host_passthrough import HostState
from gpuvm.vsphere.read_inventory import Asking
from gpuvm.vsphere.residents import Resident
from gpuvm.vsphere.tasks import Coming
from gpuvm.vsphere.template_snapshot import TemplateHandle, TemplateState
from gpuvm.vsphere.updates import (
    Board,
    Change,
    HostChanged,
    Task,
    TaskEnded,
    TaskProgress,
    VMChanged,
)
from gpuvm.vsphere.vm_watch import Machine

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
