"""Whose VM is it: the mark that every VM of ours carries from the moment it is created.

A VM is ours only if it carries the mark **and** its ``instanceUuid`` is the one derived from that
mark. vCenter copies ``extraConfig`` into clones and restores, so a marked VM with another UUID is
somebody's copy: listed, never touched. Names decide nothing.
"""

import itertools
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from gpuvm.inventory import Ownership, UnreadableVM

CLUSTER_KEY = "gpuvm.cluster"
INDEX_KEY = "gpuvm.index"
SPEC_KEY = "gpuvm.spec"
GENERATION_KEY = "gpuvm.generation"
DISKS_KEY = "gpuvm.disks"
WISH_KEY = "gpuvm.wish"
POLICY_KEY = "gpuvm.storage_policy"
"""The id of the storage policy that was applied: no property of a VM has it."""
MARK_KEYS = (CLUSTER_KEY, INDEX_KEY, SPEC_KEY, GENERATION_KEY)

_RENAMED_UP_TO = 256
"""A VM that was renamed is known by its UUID if its number is not higher than this."""
_INDEX = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Mark:
    """``deployment`` is the name in gpuvm.yaml; ``generation`` is new for each creation.

    ``creation_spec`` is what the VM was made from, as JSON (ClusterSpec.creation_spec_json), so
    that any machine can tell what a VM should be. ``disks`` is how many it was cloned with: more
    are somebody else's; None where the mark does not say.
    """

    deployment: str
    index: int
    spec_digest: str
    generation: str
    creation_spec: str = ""
    disks: int | None = None

    @staticmethod
    def read(extra_config: Mapping[str, str]) -> "Mark | None":
        """The mark in a VM's ``extraConfig``, or None when there is none that makes sense."""
        deployment = extra_config.get(CLUSTER_KEY, "")
        index = extra_config.get(INDEX_KEY, "")
        if not deployment or not _INDEX.fullmatch(index):
            return None
        disks = extra_config.get(DISKS_KEY, "")
        return Mark(
            deployment,
            int(index),
            extra_config.get(SPEC_KEY, ""),
            extra_config.get(GENERATION_KEY, ""),
            extra_config.get(WISH_KEY, ""),
            int(disks) if _INDEX.fullmatch(disks) else None,
        )

    def extra_config(self) -> dict[str, str]:
        keys = {
            CLUSTER_KEY: self.deployment,
            INDEX_KEY: str(self.index),
            SPEC_KEY: self.spec_digest,
            GENERATION_KEY: self.generation,
            WISH_KEY: self.creation_spec,
        }
        return keys if self.disks is None else keys | {DISKS_KEY: str(self.disks)}


def instance_uuid(vcenter_uuid: str, deployment: str, index: int) -> str:
    """UUIDv5 of the vCenter's own instance UUID, the deployment's name and the index."""
    return str(uuid.uuid5(uuid.UUID(vcenter_uuid), f"{deployment}/{index}"))


def index_in(vcenter_uuid: str, deployment: str, vm: UnreadableVM) -> int | None:
    """Return the index of the deployment's VM this seems to be, without reading its mark.

    By its instance UUID where vCenter remembers one, else by its name; None for a stranger.
    """
    numbered = re.fullmatch(re.escape(deployment) + r"-(\d{2,9})", vm.name)
    if not vm.instance_uuid:
        return int(numbered[1]) if numbered else None
    likely = (int(numbered[1]),) if numbered else ()
    for index in itertools.chain(likely, range(1, _RENAMED_UP_TO + 1)):
        if instance_uuid(vcenter_uuid, deployment, index) == vm.instance_uuid.lower():
            return index
    return None


def new_generation() -> str:
    return uuid.uuid4().hex


def ownership(vcenter_uuid: str, mark: Mark | None, vm_instance_uuid: str) -> Ownership:
    if mark is None:
        return "other"
    derived = instance_uuid(vcenter_uuid, mark.deployment, mark.index)
    return "ours" if derived == vm_instance_uuid.lower() else "copy"
