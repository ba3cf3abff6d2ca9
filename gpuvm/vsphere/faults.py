"""vSphere's faults as our errors: every message is shown, known texts get a hint."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from typing import Any

from pyVmomi import vim, vmodl

from gpuvm.errors import (
    NoPermission,
    OutcomeUnknown,
    TaskFailed,
    Unreachable,
    UnreadableAnswer,
    VSphereError,
)

# Fragments of fault messages, lower case, and what to do about them. Sources: Broadcom and Dell
# knowledge base articles on GPU passthrough; the API reference of the fault types.
_KNOWN = (
    (
        "total number of pages needed",
        "the 64-bit MMIO window is too small, or BIOS allows none: accelerator.mmio_gib",
    ),
    ("sched.mem.min", "all of the VM's memory must be reserved: 'gpuvm provision' corrects it"),
    ("systemid does not match", "the device is not the one of this host: run 'gpuvm plan' again"),
    (
        "is not a passthrough device",
        "passthrough is not active for this GPU: enable it on the host, and reboot the host",
    ),
    ("failed to find a suitable device", "no free GPU matches: 'gpuvm gpus' shows who holds them"),
    ("generate predicates", "no free GPU matches: 'gpuvm gpus' shows who holds them"),
    ("bar memory", "switch 'memory mapped I/O above 4 GB' on in the host's firmware"),
    ("held by", "'gpuvm gpus' shows who holds which GPU"),
    ("not shared direct", "the host must share its GPUs: graphics type Shared Direct"),
    ("does not offer the vgpu profile", "'gpuvm gpus' shows which profiles the hosts offer"),
    (
        "unavailable hardware or software support",
        "the host cannot reset this device: its /etc/vmware/passthru.map, or another slot",
    ),
    (
        "libnvidia-vgx",
        "NVIDIA's vGPU driver on the host does not serve this profile: its log is on the host",
    ),
    (
        "graphics resource available in the parent resource pool",
        "no vGPU of that profile is left: 'gpuvm gpus' shows which profiles have room",
    ),
    ("are not available on host", "'gpuvm gpus' shows the host's devices: run 'gpuvm plan' again"),
    ("hot-plug", "the VM must be powered off for this"),
    ("in use by a virtual machine", "'gpuvm gpus' names the VM: stop it first"),
    ("configure that one", "passthrough is switched for the device that it depends on"),
)

_BY_TYPE = {
    "DuplicateName": "a VM of that name exists: choose another deployment name",
    "InsufficientHostMemoryCapacityFault": "the host has too little unreserved memory left",
    "InsufficientMemoryResourcesFault": "the resource pool has too little unreserved memory left",
    "InsufficientFailoverResourcesFault": "HA keeps capacity back: look at its admission control",
    "NoDiskSpace": "the datastore is full: choose another with --datastore",
    "InvalidState": "look at the states of VM and host: template, maintenance mode, connection",
    "InvalidHostState": "look at the host, and at the one that the template is registered on: "
    "maintenance mode, connection",
    "TaskInProgress": "another task works on this VM: try again when it has ended",
    "NoCompatibleHost": "no host fits: 'gpuvm gpus' shows hosts and GPUs",
    "InsufficientGraphicsResourcesFault": "no vGPU of that profile is left: 'gpuvm gpus' shows "
    "which profiles have room",
    "InsufficientStorageSpace": "the datastore cluster is full: choose another with --datastore",
    "FileAlreadyExists": "files of that name are left on the datastore: another deployment name, "
    "or remove them",
    "HostNotConnected": "the host is not connected to the vCenter: 'gpuvm doctor' lists hosts",
    "HostNotReachable": "the host does not answer the vCenter: 'gpuvm doctor' lists hosts",
    "InvalidHostConnectionState": "the host is not connected to the vCenter",
    "HostCommunication": "the vCenter lost its host: try again when it is back",
    "ConcurrentAccess": "another client changed the VM at the same time: run the command again",
    "InvalidPowerState": "another client powered the VM on or off meanwhile: run the command again",
    "ResourceInUse": "another operation uses it: try again when that has ended",
    "RequestCanceled": "the task was cancelled in vCenter",
    "InvalidProperty": "this vCenter does not have that property: 'gpuvm doctor' shows its version",
    "InvalidArgument": "the vCenter does not accept that value: look at gpuvm.yaml and the options",
    "InvalidVmConfig": "the vCenter does not accept that configuration: look at gpuvm.yaml",
    "InvalidDeviceSpec": "the vCenter does not accept that change of the VM's virtual hardware",
    "Timedout": "the vCenter gave up waiting: look at the task in the vSphere Client",
}


class Undecodable(Exception):
    """The vCenter answered, and pyVmomi cannot decode the answer; the text says why."""


CALL_FAILED = (vmodl.MethodFault, OSError, HTTPException, Undecodable)
"""Whatever a call can end in, for calls whose end does not matter."""


def task_failed(operation: str, vm: str, fault: Any, localized: str) -> VSphereError:
    """The error for a task that ended in ``fault``; ``localized`` is the task's own message."""
    if isinstance(fault, vim.fault.NoPermission):
        return _no_permission(fault)
    messages = tuple(dict.fromkeys(_messages(fault, localized)))
    name = type(fault).__name__.rsplit(".", maxsplit=1)[-1]
    hint = _memory_hint(name, fault) or hint_for(name, messages)
    return TaskFailed(operation, vm, name, messages, hint=hint)


def hint_for(fault: str, messages: tuple[str, ...]) -> str | None:
    told = " ".join(messages).lower()
    for fragment, hint in _KNOWN:
        if fragment in told:
            return hint
    return _BY_TYPE.get(fault)


@contextmanager
def translated(operation: str, subject: str) -> Iterator[None]:
    """A call's own faults and a lost connection, as ours."""
    try:
        yield
    except vmodl.fault.ManagedObjectNotFound:
        raise VSphereError(f"{subject}: {operation}: it does not exist any more") from None
    except vmodl.MethodFault as fault:
        raise task_failed(operation, subject, fault, getattr(fault, "msg", None) or "") from None
    except Undecodable as error:
        raise UnreadableAnswer(
            f"{subject}: {operation}: the vCenter's answer cannot be decoded: {error}"
        ) from None
    except (OSError, HTTPException) as error:
        raise Unreachable(
            f"the connection to the vCenter broke during {operation}: {error}",
            hint="what became of it is looked up when the command is run again",
        ) from None


@contextmanager
def submitted(operation: str, subject: str) -> Iterator[None]:
    """Like ``translated``, for calls that change something: unanswered, they may have."""
    try:
        with translated(operation, subject):
            yield
    except (Unreachable, UnreadableAnswer) as error:
        raise OutcomeUnknown(str(error), hint=error.hint) from None


def _memory_hint(name: str, fault: Any) -> str | None:
    """How much was asked for and how much there was: only such faults have both numbers."""
    asked = getattr(fault, "requested", None)
    general = _BY_TYPE.get(name)
    if not asked or general is None:
        return None
    left = (getattr(fault, "unreserved", None) or 0) / 1024**3
    return f"{general}: {asked / 1024**3:.1f} GiB requested, {left:.1f} GiB unreserved"


def _messages(fault: Any, localized: str) -> Iterator[str]:
    if localized:
        yield localized
    yield from _refused_property(fault)
    for one in getattr(fault, "faultMessage", None) or ():
        if one.message:
            yield one.message
    cause = getattr(fault, "faultCause", None)
    if cause is not None:
        yield from _messages(cause, getattr(cause, "msg", None) or "")


def _refused_property(fault: Any) -> Iterator[str]:
    """Such faults name what they refuse in a field of their own, and their text may not."""
    if isinstance(fault, vmodl.query.InvalidProperty) and fault.name:
        yield f"property {fault.name}"
    elif isinstance(fault, vim.fault.InvalidDeviceSpec):
        yield f"device change {fault.deviceIndex}: {fault.property}"
    elif isinstance(fault, vim.fault.InvalidVmConfig) and fault.property:
        yield f"property {fault.property}"
    elif isinstance(fault, vmodl.fault.InvalidArgument) and fault.invalidProperty:
        yield f"argument {fault.invalidProperty}"


def _no_permission(fault: Any) -> NoPermission:
    return NoPermission(fault.privilegeId or "?", _named(fault.object))


def _named(entity: Any) -> str:
    """The fault has only the object's id; one more read, if that is allowed, has its name."""
    with suppress(*CALL_FAILED, AttributeError):
        return str(entity.name)
    return getattr(entity, "_moId", None) or "an object"
