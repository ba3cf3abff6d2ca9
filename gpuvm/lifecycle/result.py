"""The outcome of each VM and the result of the command."""

from dataclasses import dataclass
from typing import Literal

from gpuvm.errors import ExitCode, GpuvmError, PreflightRefused
from gpuvm.inventory import UNREADABLE_HINT, UnreadableVM
from gpuvm.planner import Plan

State = Literal["ready", "address", "powered-on", "removed", "stopped", "failed"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of one VM; ``changed``: this call changed the VM."""

    name: str
    host: str
    state: State
    changed: bool
    address: str | None = None
    gpus: tuple[str, ...] = ()
    """PCI addresses on the host."""
    error: GpuvmError | None = None
    left: bool = False
    """A failed VM that still exists, for inspection or to continue with."""
    warnings: tuple[str, ...] = ()


def unreadable_outcome(vm: UnreadableVM) -> Outcome:
    """Return the failure of an unreadable VM: its ownership and contents cannot be verified."""
    why = PreflightRefused(f"{vm.name} is not changed: {vm.why}", hint=UNREADABLE_HINT)
    return Outcome(vm.name, vm.host, state="failed", changed=False, error=why, left=True)


@dataclass(frozen=True)
class ApplyResult:
    outcomes: tuple[Outcome, ...]

    @property
    def failed(self) -> tuple[Outcome, ...]:
        return tuple(o for o in self.outcomes if o.state == "failed")

    @property
    def errors(self) -> tuple[GpuvmError, ...]:
        return tuple(o.error for o in self.outcomes if o.error is not None)

    @property
    def changed(self) -> bool:
        return any(o.changed for o in self.outcomes)

    @property
    def exit_code(self) -> ExitCode:
        if not self.failed:
            return ExitCode.DONE
        return ExitCode.FAILED if len(self.failed) == len(self.outcomes) else ExitCode.PARTLY_DONE


def continue_hint(plan: Plan) -> str:
    """Return the hint after Ctrl-C; the command line adds the options that were given to it."""
    creating = any(step.action == "create" for step in plan.steps)
    again = "'gpuvm provision'" if creating else "'gpuvm start'"
    return f"continue with {again}, or remove them with 'gpuvm teardown'"


Until = Literal["powered-on", "address", "ready"]
