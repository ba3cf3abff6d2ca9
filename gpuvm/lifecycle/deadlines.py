"""How long each stage may take, and what is said when it took longer."""

from gpuvm.errors import DeadlinePassed
from gpuvm.lifecycle.machine import Machine, Stage
from gpuvm.spec import Deadlines


def of(wished: Deadlines) -> dict[Stage, float]:
    """Seconds; ``ready`` has a deadline of its own, inside the check."""
    return {
        "clone": wished.clone_s,
        "move": wished.clone_s,
        "configure": wished.clone_s,
        "power_on": wished.power_on_s,
        "address": wished.address_s,
        "remove": wished.power_on_s,
    }


def late(machine: Machine, waited_s: float, question: str) -> DeadlinePassed:
    """``question`` is what vCenter waits to be answered about the VM, or empty."""
    what, hint = _WAITED_FOR[machine.stage]
    if question:
        hint = f"vCenter asks about this VM, answer it in the vSphere Client: {question}"
    return DeadlinePassed(f"{machine.name}: waited {waited_s:g} s for {what}", hint=hint)


_WAITED_FOR: dict[Stage, tuple[str, str]] = {
    "clone": ("its clone", "is the datastore slow? raise deadlines.clone_s in gpuvm.yaml"),
    "move": ("its move to another host", "look at its recent tasks in vCenter"),
    "configure": ("its configuration", "look at its recent tasks in vCenter"),
    "power_on": ("power on", "vCenter may be waiting for an answer to a question on the VM"),
    "address": (
        "an address and its SSH host keys",
        "look at its console: open-vm-tools, DHCP and the first-boot unit (docs/template.md)",
    ),
    "remove": ("its removal", "look at its recent tasks in vCenter"),
}
