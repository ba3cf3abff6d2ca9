"""vSphere's faults as gpuvm's errors: every message is shown, known texts get a hint."""

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
    ("bar memory", "enable 'memory mapped I/O above 4 GB' in the host's firmware"),
    ("held by", "'gpuvm gpus' shows who holds which GPU"),
    ("not shared direct", "the host must share its GPUs: graphics type Shared Direct"),
    ("does not offer the vgpu profile", "'gpuvm gpus' shows which profiles the hosts offer"),
    (
        "unavailable hardware or software support",
        "the host cannot reset this device: see its /etc/vmware/passthru.map, or use another slot",
    ),
    (
        "libnvidia-vgx",
        "NVIDIA's vGPU driver on the host does not support this profile: see its log on the host",
    ),
    (
        "graphics resource available in the parent resource pool",
        "no vGPU of that profile is left: 'gpuvm gpus' shows which profiles are",
    ),
    ("are not available on host", "'gpuvm gpus' shows the host's devices: run 'gpuvm plan' again"),
    ("hot-plug", "the VM must be powered off for this"),
    ("in use by a virtual machine", "'gpuvm gpus' names the VM: stop it first"),
    ("configure that one", "switch passthrough of the device that this one depends on"),
)

_BY_TYPE = {
    "DuplicateName": "a VM of that name exists: choose another deployment name",
    "InsufficientHostMemoryCapacityFault": "the host has too little unreserved memory left",
    "InsufficientMemoryResourcesFault": "the resource pool has too little unreserved memory left",
    "InsufficientFailoverResourcesFault": "HA reserves capacity: check its admission control",
    "NoDiskSpace": "the datastore is full: choose another with --datastore",
    "InvalidState": "check the state of VM and host: template, maintenance mode, connection",
    "InvalidHostState": "check the host, and the one that the template is registered on: "
    "maintenance mode, connection",
    "TaskInProgress": "another task is running on this VM: try again when it has ended",
    "NoCompatibleHost": "no host fits: 'gpuvm gpus' shows hosts and GPUs",
    "InsufficientGraphicsResourcesFault": "no vGPU of that profile is left: 'gpuvm gpus' shows "
    "which profiles are",
    "InsufficientStorageSpace": "the datastore cluster is full: choose another with --datastore",
    "FileAlreadyExists": "files of that name are on the datastore: remove them, or choose another "
    "deployment name",
    "HostNotConnected": "the host is not connected to the vCenter: 'gpuvm doctor' lists hosts",
    "HostNotReachable": "the host does not answer the vCenter: 'gpuvm doctor' lists hosts",
    "InvalidHostConnectionState": "the host is not connected to the vCenter",
    "HostCommunication": "the vCenter lost contact with the host: try again when it is back",
    "ConcurrentAccess": "another client changed the VM at the same time: run the command again",
    "InvalidPowerState": "another client powered the VM on or off: run the command again",
    "ResourceInUse": "another operation uses it: try again when that has ended",
    "RequestCanceled": "the task was cancelled in vCenter",
    "InvalidProperty": "this vCenter does not have that property: 'gpuvm doctor' shows its version",
    "InvalidArgument": "the vCenter does not accept that value: check gpuvm.yaml and the options",
    "InvalidVmConfig": "the vCenter does not accept that configuration: check gpuvm.yaml",
    "InvalidDeviceSpec": "the vCenter does not accept that change of the VM's virtual hardware",
    "Timedout": "the task timed out in vCenter: see it in the vSphere Client",
}


class Undecodable(Exception):
    """pyVmomi cannot decode the vCenter's answer; the text says why."""


CALL_FAILED = (vmodl.MethodFault, OSError, HTTPException, Undecodable)
"""All errors of a call, for calls whose failure does not matter."""


def task_failed(operation: str, vm: str, fault: Any, localized: str) -> VSphereError:
    """Return the error for a task that failed; ``localized`` is the task's own message."""
    if isinstance(fault, vim.fault.NoPermission):
        return _no_permission(fault)
    messages = tuple(dict.fromkeys(_messages(fault, localized)))
    name = type(fault).__name__.rsplit(".", maxsplit=1)[-1]
    hint = _memory_hint(name, fault) or hint_for(name, messages)
    return TaskFailed(operation, vm, name, messages, hint=hint)


def hint_for(fault: str, messages: tuple[str, ...]) -> str | None:
    text = " ".join(messages).lower()
    for fragment, hint in _KNOWN:
        if fragment in text:
            return hint
    return _BY_TYPE.get(fault)


@contextmanager
def translated(operation: str, subject: str) -> Iterator[None]:
    """Raise gpuvm's errors for the call's faults and for a lost connection."""
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
            hint="run the command again: it checks the outcome first",
        ) from None


@contextmanager
def submitted(operation: str, subject: str) -> Iterator[None]:
    """Like ``translated``, for calls that change something: OutcomeUnknown without an answer."""
    try:
        with translated(operation, subject):
            yield
    except (Unreachable, UnreadableAnswer) as error:
        raise OutcomeUnknown(str(error), hint=error.hint) from None


def _memory_hint(name: str, fault: Any) -> str | None:
    """Return a hint with the requested and the unreserved memory, if the fault has both."""
    requested = getattr(fault, "requested", None)
    general = _BY_TYPE.get(name)
    if not requested or general is None:
        return None
    left = (getattr(fault, "unreserved", None) or 0) / 1024**3
    return f"{general}: {requested / 1024**3:.1f} GiB requested, {left:.1f} GiB unreserved"


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
    """Yield what the fault refuses, which some types have in a field and not in their text."""
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
    """Return the object's name, which needs a read, or else its id."""
    with suppress(*CALL_FAILED, AttributeError):
        return str(entity.name)
    return getattr(entity, "_moId", None) or "an object"
