"""Everything that gpuvm raises, and the exit code that each becomes.

    GpuvmError                    1   failed
    ├── BadInput                  2   usage, a file's contents, an option's value
    │   ├── NotFound                  a name that does not exist; lists what exists
    │   ├── Ambiguous                 several fit and none was named; lists the choices
    │   ├── NoKeyring                 the system keeps no password for us: none there, or it refuses
    │   └── Mistakes                  several of the above in one file or command line
    ├── PreflightRefused          3   a check failed before anything was changed
    │   ├── Unplaceable               fewer GPUs are free than needed; has a table of their holders
    │   ├── NotVisible                a required object that this account cannot see
    │   ├── DeploymentBusy            another command on this machine changes it; names that one
    │   ├── GPUsBusy                  a guest's GPUs are used by another run; names it
    │   ├── SharedAddress             another VM reports the address of this one; names it
    │   └── SeveralRefused            several of the above at once; 2 if one is bad input
    ├── VSphereError              1
    │   ├── Unreachable               no connection to the vCenter
    │   │   └── OutcomeUnknown        a call got no answer: check its outcome before repeating it
    │   ├── UnreadableAnswer          a response of the vCenter cannot be decoded
    │   ├── Untrusted                 the vCenter's certificate cannot be verified
    │   ├── LoginRefused              wrong user or password
    │   ├── NoPermission              a privilege is missing; names it and the object
    │   ├── TaskFailed                a vSphere task ended in a fault; has every fault message
    │   ├── PoweredOff                a VM powered off before its guest was ready; its last events
    │   └── DeadlinePassed            a task or a guest took too long
    ├── GuestError                1
    │   ├── GuestUnreachable          no TCP connection or no SSH response
    │   ├── GuestAuthRefused          the guest does not accept the key
    │   ├── HostKeyMismatch           the guest's key is not the one that it published
    │   ├── CommandFailed             a command in a guest; has exit status and stderr
    │   └── NotReady                  a readiness requirement is not met; has its hint
    ├── RunError                  1   a workload failed
    │   ├── WorkerDied                which VM, its exit status, its last lines
    │   └── PortsBlocked              which guest cannot reach which other
    ├── LabError                  1   the simulated data centre
    ├── PartlyDone                4   some VMs succeeded, some failed
    └── Interrupted             130   Ctrl-C; says what is left and how to continue

Library code raises these; only ``gpuvm.cli.main`` turns one into text and an exit code.
"""

import signal
from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """The process exit codes, documented in docs/exit-codes.md."""

    DONE = 0
    FAILED = 1
    BAD_INPUT = 2
    PREFLIGHT_REFUSED = 3
    PARTLY_DONE = 4
    CHANGES_PENDING = 10
    INTERRUPTED = 130


class GpuvmError(Exception):
    """Base class; ``str()`` is one line, ``hint`` says what to do next."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class BadInput(GpuvmError):
    exit_code = ExitCode.BAD_INPUT


class NotFound(BadInput):
    """A name that does not exist; ``existing`` are the names that do."""

    def __init__(self, kind: str, name: str, existing: Sequence[str], *, where: str = "") -> None:
        place = f" in {where}" if where else ""
        super().__init__(f"{kind} '{name}' not found{place}", hint=_exists(kind, existing))
        self.kind, self.name, self.existing = kind, name, tuple(existing)


class Ambiguous(BadInput):
    """No name was given, or one that is not unique, and several objects fit."""

    def __init__(self, kind: str, choices: Sequence[str], *, option: str) -> None:
        super().__init__(
            f"several {_plural(kind)} fit: {', '.join(choices)}", hint=f"name one with {option}"
        )
        self.kind, self.choices = kind, tuple(choices)


class NoKeyring(BadInput):
    """No keyring, or one that does not answer or refuses."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            reason,
            hint="set password_command in the context, such as 'pass show vcenter', or "
            "GPUVM_PASSWORD: docs/configuration.md",
        )


class Mistakes(BadInput):
    """``errors`` are the mistakes, each with its own hint."""

    def __init__(self, errors: Sequence[BadInput]) -> None:
        super().__init__("; ".join(map(str, errors)))
        self.errors = tuple(errors)


class PreflightRefused(GpuvmError):
    exit_code = ExitCode.PREFLIGHT_REFUSED


class Unplaceable(PreflightRefused):
    """The spec needs more than the cluster has free.

    ``table`` has one row (host, PCI address, model, state) for every GPU of the cluster.
    """

    def __init__(
        self,
        message: str,
        *,
        table: Sequence[tuple[str, str, str, str]] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.table = tuple(table)


class NotVisible(PreflightRefused):
    """An object that the account has no permission on, so that vCenter does not show it."""

    def __init__(self, what: str, instead: str = "") -> None:
        super().__init__(
            f"this account cannot see {what}",
            hint="it needs System.View and System.Read there: docs/permissions.md has the roles"
            + (f"; or {instead}" if instead else ""),
        )


class SeveralRefused(PreflightRefused):
    """``errors`` are the refusals, each with its own hint."""

    def __init__(self, errors: Sequence[GpuvmError]) -> None:
        super().__init__("; ".join(map(str, errors)))
        self.errors = tuple(errors)
        if any(isinstance(error, BadInput) for error in errors):
            self.exit_code = ExitCode.BAD_INPUT


class DeploymentBusy(PreflightRefused):
    """``holder`` says which command it is, whose and since when."""

    def __init__(self, deployment: str, holder: str) -> None:
        super().__init__(
            f"'{deployment}' is being changed by another command on this machine: {holder}",
            hint="--wait waits for its end",
        )
        self.holder = holder


class GPUsBusy(PreflightRefused):
    """``run`` has the GPUs of ``vm``, or is next in the queue; ``about`` says whose run it is."""

    def __init__(self, vm: str, run: str, about: str) -> None:
        super().__init__(
            f"{vm} is busy with run {run}{f' ({about})' if about else ''}",
            hint=f"'gpuvm attach {run}' follows it and 'gpuvm cancel {run}' ends it; --queue waits "
            "for its end, --share runs beside it",
        )
        self.vm, self.run = vm, run


class SharedAddress(PreflightRefused):
    """``others`` report the ``address`` of ``vm`` too: a connection may reach any of them."""

    def __init__(self, vm: str, address: str, others: Sequence[str]) -> None:
        has = "has" if len(others) == 1 else "have"
        super().__init__(
            f"{vm} has the address {address}, and {' and '.join(others)} {has} it too: gpuvm "
            "connects to none of them",
            hint="clones of a template that was not sealed have one machine-id, for which DHCP has "
            "one address: run gpuvm-seal in the template (docs/template.md) and make the VMs "
            "again; if they are no such clones, give one of them another address",
        )
        self.vm, self.address, self.others = vm, address, tuple(others)


class VSphereError(GpuvmError):
    pass


class Unreachable(VSphereError):
    pass


class OutcomeUnknown(Unreachable):
    pass


class UnreadableAnswer(VSphereError):
    pass


class Untrusted(VSphereError):
    pass


class LoginRefused(VSphereError):
    """``wrong_password``: or a wrong user name; vCenter does not say which.

    ``source`` is where the password came from.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        wrong_password: bool = False,
        source: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.wrong_password, self.source = wrong_password, source


class NoPermission(VSphereError):
    """``privilege`` is missing on ``entity``."""

    def __init__(self, privilege: str, entity: str) -> None:
        super().__init__(
            f"this account lacks the privilege {privilege} on {entity}",
            hint="docs/permissions.md lists what each command needs",
        )
        self.privilege, self.entity = privilege, entity


class TaskFailed(VSphereError):
    """A task ended in a fault.

    ``fault`` is the fault's type (``GenericVmConfigFault``), ``messages`` the task's own message
    followed by every ``fault.faultMessage``, which often has the only reason.
    """

    def __init__(
        self, operation: str, vm: str, fault: str, messages: Sequence[str], *, hint: str | None
    ) -> None:
        reason = "; ".join(m.strip().rstrip(".") for m in messages if m.strip()) or fault
        super().__init__(f"{vm}: {operation} failed: {reason}", hint=hint)
        self.operation, self.vm, self.fault, self.messages = operation, vm, fault, tuple(messages)

    @property
    def no_gpu_left(self) -> bool:
        """Whether another VM may have the GPU; no fault type of power-on means only that."""
        return self.operation == "power on" and self.fault in _NO_GPU_LEFT

    @property
    def transient(self) -> bool:
        """Whether the vCenter lost contact with a host, so that a retry may succeed."""
        return self.fault in _TRANSIENT


class DeadlinePassed(VSphereError):
    pass


class PoweredOff(VSphereError):
    """A VM powered off by itself; ``events`` are the texts of its last events."""

    def __init__(self, vm: str, waiting_for: str, host: str, events: Sequence[str]) -> None:
        last = f"; its last events: {'; '.join(events)}" if events else ""
        super().__init__(
            f"{vm} powered off while gpuvm waited for {waiting_for}{last}",
            hint="likely causes: its 64-bit MMIO window is too small (mmio_gib in gpuvm.yaml); "
            "'above 4 GB decoding' is off in the host's firmware; see vmware.log in the VM's "
            f"folder and vmkernel.log on {host}",
        )
        self.vm, self.events = vm, tuple(events)


class GuestError(GpuvmError):
    pass


class GuestUnreachable(GuestError):
    pass


class GuestAuthRefused(GuestError):
    pass


class HostKeyMismatch(GuestError):
    pass


class CommandFailed(GuestError):
    def __init__(self, guest: str, command: str, exit_status: int, stderr_tail: str) -> None:
        last = "".join(f": {line}" for line in stderr_tail.strip().splitlines()[-1:])
        super().__init__(f"{guest}: '{command}' ended with status {exit_status}{last}")
        self.guest, self.command = guest, command
        self.exit_status, self.stderr_tail = exit_status, stderr_tail


class NotReady(GuestError):
    """``requirement`` of ``guest`` was not met before the deadline."""

    def __init__(self, guest: str, requirement: str, seen: str, *, hint: str) -> None:
        super().__init__(f"{guest} is not ready: {requirement}: {seen}", hint=hint)
        self.guest, self.requirement, self.seen = guest, requirement, seen


class RunError(GpuvmError):
    pass


class WorkerDied(RunError):
    """``tail`` holds the last lines of the worker's log."""

    def __init__(
        self,
        vm: str,
        exit_status: int | None,
        tail: Sequence[str],
        *,
        rebooted: bool = False,
        cancelled: bool = False,
        how: str | None = None,
    ) -> None:
        how = how or ("vanished" if exit_status is None else _ended(exit_status))
        if rebooted:
            how = "ended when the VM was rebooted"
        if cancelled:
            how = "was cancelled"
        super().__init__(f"the worker on {vm} {how}")
        self.vm, self.exit_status, self.tail, self.reason = vm, exit_status, tuple(tail), how
        self.cancelled = cancelled


def _ended(exit_status: int) -> str:
    """Describe an exit status; a shell returns 128 + n for a program that signal n ended."""
    try:
        name = signal.Signals(exit_status - 128).name
    except ValueError:
        return f"ended with status {exit_status}"
    return f"was killed by {name} (status {exit_status})"


class PortsBlocked(RunError):
    """``pairs`` are (from, to, port) that could not be opened."""

    def __init__(self, pairs: Sequence[tuple[str, str, int]]) -> None:
        first = pairs[0]
        rest = len(pairs) - 1
        more = f" (and {rest} more pair{'s' if rest > 1 else ''})" if rest else ""
        super().__init__(
            f"{first[0]} cannot open a TCP connection to {first[1]} port {first[2]}{more}",
            hint=f"on {first[1]}: sudo firewall-cmd --add-port={first[2]}/tcp, or set "
            "distributed.ports in gpuvm.yaml to a range that is open",
        )
        self.pairs = tuple(pairs)


class LabError(GpuvmError):
    pass


class PartlyDone(GpuvmError):
    exit_code = ExitCode.PARTLY_DONE


class Interrupted(GpuvmError):
    """Ctrl-C; ``left`` are the names of unfinished objects that exist."""

    exit_code = ExitCode.INTERRUPTED

    def __init__(self, message: str, *, left: Sequence[str] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.left = tuple(left)


_NO_GPU_LEFT = {
    "GenericVmConfigFault",
    "InsufficientGraphicsResourcesFault",
    "NoCompatibleHost",
}

_TRANSIENT = {
    "HostCommunication",
    "HostNotConnected",
    "HostNotReachable",
    "InvalidHostConnectionState",
    "Timedout",
}


def _plural(kind: str) -> str:
    return f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"


def _exists(kind: str, existing: Sequence[str]) -> str:
    if not existing:
        return f"there is no {kind}"
    return "available: " + ", ".join(sorted(set(existing))[:20])
