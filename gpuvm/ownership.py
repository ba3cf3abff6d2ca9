"""Which VMs gpuvm manages: the mark that each of them carries from its creation on.

gpuvm manages a VM only if it carries the mark **and** its ``instanceUuid`` is the one derived from
that mark. vCenter copies ``extraConfig`` into clones and restores, so a marked VM with another UUID
is a copy: listed, never changed. Names do not matter.
"""

import getpass
import itertools
import re
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from gpuvm.inventory import VM, Ownership, UnreadableVM

CLUSTER_KEY = "gpuvm.cluster"
INDEX_KEY = "gpuvm.index"
SPEC_KEY = "gpuvm.spec"
GENERATION_KEY = "gpuvm.generation"
DISKS_KEY = "gpuvm.disks"
OPERATOR_KEY = "gpuvm.operator"
CREATED_KEY = "gpuvm.created"
WISH_KEY = "gpuvm.wish"
POLICY_KEY = "gpuvm.storage_policy"
"""The id of the storage policy that was applied; no property of a VM shows it."""
MARK_KEYS = (CLUSTER_KEY, INDEX_KEY, SPEC_KEY, GENERATION_KEY)

_RENAMED_UP_TO = 256
"""A renamed VM is found by its UUID up to this index."""
_INDEX = re.compile(r"[0-9]{1,9}")
_GENERATION = re.compile(r"[A-Za-z0-9-]{0,64}")
"""It becomes part of the names of files and of a line in ssh_config(5)."""


@dataclass(frozen=True)
class Mark:
    """``deployment`` is the name in gpuvm.yaml; ``generation`` is new for each creation.

    ``creation_spec`` is the spec that the VM was created from, as JSON
    (ClusterSpec.creation_spec_json), so that drift can be found on any machine. ``disks`` is the
    number of disks it was cloned with: any others were attached later; None if not recorded.
    """

    deployment: str
    index: int
    spec_digest: str
    generation: str
    creation_spec: str = ""
    disks: int | None = None
    operator: str = ""
    """Who created it, as user@machine; empty if the mark does not record it, as ``created``."""
    created: str = ""
    """When, in ISO format and UTC."""

    @staticmethod
    def read(extra_config: Mapping[str, str]) -> "Mark | None":
        """Return the mark in a VM's ``extraConfig``, or None if there is no valid one."""
        deployment = extra_config.get(CLUSTER_KEY, "")
        index = extra_config.get(INDEX_KEY, "")
        if not deployment or not _INDEX.fullmatch(index):
            return None
        disks = extra_config.get(DISKS_KEY, "")
        generation = extra_config.get(GENERATION_KEY, "")
        return Mark(
            deployment,
            int(index),
            extra_config.get(SPEC_KEY, ""),
            generation if _GENERATION.fullmatch(generation) else "",
            extra_config.get(WISH_KEY, ""),
            int(disks) if _INDEX.fullmatch(disks) else None,
            extra_config.get(OPERATOR_KEY, ""),
            extra_config.get(CREATED_KEY, ""),
        )

    def extra_config(self) -> dict[str, str]:
        keys = {
            CLUSTER_KEY: self.deployment,
            INDEX_KEY: str(self.index),
            SPEC_KEY: self.spec_digest,
            GENERATION_KEY: self.generation,
            WISH_KEY: self.creation_spec,
        }
        if self.created:
            keys |= {OPERATOR_KEY: self.operator, CREATED_KEY: self.created}
        return keys if self.disks is None else keys | {DISKS_KEY: str(self.disks)}


def instance_uuid(vcenter_uuid: str, deployment: str, index: int) -> str:
    """Return the UUIDv5 of the vCenter's instance UUID, the deployment's name and the index."""
    return str(uuid.uuid5(uuid.UUID(vcenter_uuid), f"{deployment}/{index}"))


def index_in(vcenter_uuid: str, deployment: str, vm: UnreadableVM) -> int | None:
    """Return the index of the deployment's VM that this probably is; its mark cannot be read.

    Goes by the instance UUID if vCenter shows one, else by the name. None for any other VM.
    """
    numbered = re.fullmatch(re.escape(deployment) + r"-(\d{2,9})", vm.name)
    if not vm.instance_uuid:
        return int(numbered[1]) if numbered else None
    likely = (int(numbered[1]),) if numbered else ()
    for index in itertools.chain(likely, range(1, _RENAMED_UP_TO + 1)):
        if instance_uuid(vcenter_uuid, deployment, index) == vm.instance_uuid.lower():
            return index
    return None


def operator() -> str:
    """Return who runs gpuvm here, as user@machine."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def new_generation() -> str:
    return uuid.uuid4().hex


def ownership(vcenter_uuid: str, mark: Mark | None, vm_instance_uuid: str) -> Ownership:
    if mark is None:
        return "other"
    derived = instance_uuid(vcenter_uuid, mark.deployment, mark.index)
    return "ours" if derived == vm_instance_uuid.lower() else "copy"


def copy_note(vm: VM) -> str:
    """Return a note about a VM that carries the mark and that gpuvm does not manage."""
    if not vm.instance_uuid:
        return f"{vm.name} may be a VM of gpuvm, or a copy of one: {vm.hidden}; it is not changed"
    return f"{vm.name} is a copy of a VM that gpuvm manages; it is not changed"
