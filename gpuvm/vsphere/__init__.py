"""The only importer of pyVmomi; returns frozen values from gpuvm.inventory.

with vsphere.connect(context, password) as connection:
    inventory = connection.read_inventory()
"""

from gpuvm.vsphere.clone import CloneRequest
from gpuvm.vsphere.connection import VSphere, connect, rejected_certificate
from gpuvm.vsphere.diagnosis import Diagnosis, NetworkAdapter
from gpuvm.vsphere.gpus import Holders
from gpuvm.vsphere.host_passthrough import HostState
from gpuvm.vsphere.read_inventory import ConfigTargets
from gpuvm.vsphere.residents import Resident
from gpuvm.vsphere.session import Certificate
from gpuvm.vsphere.tasks import CloneInFlight
from gpuvm.vsphere.template_snapshot import TemplateHandle, TemplateState
from gpuvm.vsphere.updates import (
    Change,
    HostChanged,
    Task,
    TaskEnded,
    TaskProgress,
    UpdateStream,
    VMChanged,
)
from gpuvm.vsphere.vm_watch import WatchedVM

__all__ = [
    "Certificate",
    "Change",
    "CloneInFlight",
    "CloneRequest",
    "ConfigTargets",
    "Diagnosis",
    "Holders",
    "HostChanged",
    "HostState",
    "NetworkAdapter",
    "Resident",
    "Task",
    "TaskEnded",
    "TaskProgress",
    "TemplateHandle",
    "TemplateState",
    "UpdateStream",
    "VMChanged",
    "VSphere",
    "WatchedVM",
    "connect",
    "rejected_certificate",
]
