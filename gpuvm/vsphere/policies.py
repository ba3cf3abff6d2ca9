"""Storage policies: their names, and applying one to a VM.

They are a separate service (Storage Policy Based Management). A policy is applied to the VM home
and each disk by a reconfigure: a clone refuses policies with data services, and its
``RelocateSpec.profile`` covers the home only.
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
    """Read the policies for VMs. Raises NoPermission without StorageProfile.View."""
    service_stub = stub.for_service(_PATH, _VERSION)
    try:
        with translated("reading the storage policies", "the vCenter"), _permitted():
            service: Any = pbm.ServiceInstance("ServiceInstance", service_stub)
            manager = service.RetrieveContent().profileManager
            ids = manager.QueryProfile(
                resourceType=pbm.profile.ResourceType(resourceType="STORAGE"),
                profileCategory="REQUIREMENT",
            )
            profiles = manager.RetrieveContent(profileIds=ids) if ids else ()
    finally:
        service_stub.DropConnections()  # type: ignore[no-untyped-call]
    return tuple(StoragePolicy(one.name, one.profileId.uniqueId) for one in profiles)


@contextmanager
def _permitted() -> Iterator[None]:
    """Convert the service's faults for a missing privilege, which share a base type."""
    try:
        yield
    except vim.fault.NotAuthenticated:
        raise
    except vmodl.fault.SecurityError:
        raise NoPermission(_VIEW, "the vCenter") from None


def is_due(vm: VM, policy: str | None) -> bool:
    """Return whether the policy must be applied; extraConfig records the one that was."""
    return policy is not None and vm.extra_config.get(POLICY_KEY) != policy


def disks_of(content: Any, vm: Any) -> Sequence[Any]:
    rows = retrieve(content, [Objects(vim.VirtualMachine, [vm], ("config.hardware.device",))])
    devices = rows.get(vm, {}).get("config.hardware.device", ())
    return [device for device in devices if isinstance(device, vim.vm.device.VirtualDisk)]


def apply_to(spec: Any, policy: str, disks: Iterable[Any], foreign: Sequence[str]) -> None:
    """Add the policy to the ConfigSpec; ``foreign`` are files of disks that keep their own."""
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
