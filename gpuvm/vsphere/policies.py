"""Storage policies: their names, and how one is applied to a VM.

They are a service of their own (Storage Policy Based Management). A policy is applied to the VM's
home and to each disk by a reconfigure: a clone refuses those with data services, and its
``RelocateSpec.profile`` is of the home alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pyVmomi import pbm, vim, vmodl

from gpuvm.errors import NoPermission
from gpuvm.inventory import VM, StoragePolicy
from gpuvm.ownership import POLICY_KEY
from gpuvm.vsphere.faults import translated
from gpuvm.vsphere.properties import Objects, retrieve
from gpuvm.vsphere.session import SessionStub

_PATH = "/pbm/sdk"
_VERSION = "pbm.version.version1"
_VIEW = "StorageProfile.View"


def read_policies(stub: SessionStub) -> tuple[StoragePolicy, ...]:
    """Those for VMs. Needs StorageProfile.View; raises NoPermission without."""
    beside = stub.beside(_PATH, _VERSION)
    try:
        with translated("reading the storage policies", "the vCenter"), _permitted():
            service: Any = pbm.ServiceInstance("ServiceInstance", beside)
            manager = service.RetrieveContent().profileManager
            ids = manager.QueryProfile(
                resourceType=pbm.profile.ResourceType(resourceType="STORAGE"),
                profileCategory="REQUIREMENT",
            )
            profiles = manager.RetrieveContent(profileIds=ids) if ids else ()
    finally:
        beside.DropConnections()  # type: ignore[no-untyped-call]
    return tuple(StoragePolicy(one.name, one.profileId.uniqueId) for one in profiles)


@contextmanager
def _permitted() -> Iterator[None]:
    """The service has a fault of its own for a missing privilege, and shows its base to some."""
    try:
        yield
    except vim.fault.NotAuthenticated:
        raise
    except vmodl.fault.SecurityError:
        raise NoPermission(_VIEW, "the vCenter") from None


def is_due(vm: VM, policy: str | None) -> bool:
    """What was applied is in extraConfig, for vCenter keeps it elsewhere."""
    return policy is not None and vm.extra_config.get(POLICY_KEY) != policy


def disks_of(content: Any, vm: Any) -> Sequence[Any]:
    rows = retrieve(content, [Objects(vim.VirtualMachine, [vm], ("config.hardware.device",))])
    devices = rows.get(vm, {}).get("config.hardware.device", ())
    return [device for device in devices if isinstance(device, vim.vm.device.VirtualDisk)]


def apply_to(spec: Any, policy: str, disks: Iterable[Any], foreign: Sequence[str]) -> None:
    """``foreign`` are the files of disks that are somebody else's."""
    profile = [vim.vm.DefinedProfileSpec(profileId=policy)]
    spec.vmProfile = profile
    spec.deviceChange = [
        *(spec.deviceChange or ()),
        *(
            vim.vm.device.VirtualDeviceSpec(operation="edit", device=disk, profile=profile)
            for disk in disks
            if getattr(disk.backing, "fileName", "") not in foreign
        ),
    ]
