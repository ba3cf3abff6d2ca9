"""What became of each VM, and of the whole."""

from dataclasses import dataclass
from typing import Literal

from gpuvm.errors import ExitCode, GpuvmError, PreflightRefused
from gpuvm.inventory import UNREADABLE_HINT, UnreadableVM
from gpuvm.planner import Plan

State = Literal["ready", "address", "powered-on", "removed", "stopped", "failed"]


@dataclass(frozen=True)
class Outcome:
    """``changed`` says whether this call did anything to the VM."""

    name: str
    host: str
    state: State
    changed: bool
    address: str | None = None
    gpus: tuple[str, ...] = ()
    """PCI addresses on the host."""
    error: GpuvmError | None = None
    left: bool = False
    """A failed VM that was kept, to look at or to continue with."""
    warnings: tuple[str, ...] = ()


def unreadable_outcome(vm: UnreadableVM) -> Outcome:
    """It is left as it is: neither ownership nor contents can be verified."""
    why = PreflightRefused(f"{vm.name} is left: {vm.why}", hint=UNREADABLE_HINT)
    return Outcome(vm.name, vm.host, state="failed", changed=False, error=why, left=True)


@dataclass(frozen=True)
class ApplyResult:
    outcomes: tuple[Outcome, ...]

    @property
    def failed(self) -> tuple[Outcome, ...]:
        return tuple(o for o in self.outcomes if o.state == "failed")

    @property
    def changed(self) -> bool:
        return any(o.changed for o in self.outcomes)

    @property
    def exit_code(self) -> ExitCode:
        if not self.failed:
            return ExitCode.DONE
        return ExitCode.FAILED if len(self.failed) == len(self.outcomes) else ExitCode.PARTLY_DONE


def continue_hint(plan: Plan, *, more: bool) -> str:
    """After Ctrl-C; ``more`` says that options were given which the plan does not know."""
    changed = plan.spec.model_dump(exclude_defaults=True).keys()
    name = f" --name {plan.spec.name}" if "name" in changed else ""
    again = "run the same command again"
    if any(step.action == "create" for step in plan.steps):
        same = " and the same options" if more or changed - {"name", "hosts"} else ""
        again = f"continue with 'gpuvm provision --hosts {plan.spec.hosts}{name}'{same}"
    return f"{again}, or remove them with 'gpuvm teardown{name}'"


Until = Literal["powered-on", "address", "ready"]
