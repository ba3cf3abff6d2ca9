"""How long each stage may take, and what is said when it took longer."""

from gpuvm.errors import DeadlinePassed
from gpuvm.lifecycle.addresses import Awaited
from gpuvm.lifecycle.machine import Machine, Stage
from gpuvm.spec import Deadlines
from gpuvm.vsphere import Diagnosis, NetworkAdapter

CANCEL_S = 30.0
"""How long a cancelled clone may take to end."""


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


def late(machine: Machine, waited_s: float, now: Diagnosis | None = None) -> DeadlinePassed:
    """``now`` is how the VM was found when its time was over, None when that could not be read."""
    what, hint = _WAITED_FOR[machine.stage]
    told = f"waited {waited_s:g} s for {what}"
    if now and now.question:
        hint = f"vCenter asks about this VM, answer it in the vSphere Client: {now.question}"
    elif now and machine.stage == "address":
        told, hint = _unheard(now, machine.awaited, told, hint)
    return DeadlinePassed(f"{machine.name}: {told}", hint=hint)


def _unheard(now: Diagnosis, awaited: Awaited, told: str, hint: str) -> tuple[str, str]:
    if now.host_state not in ("connected", ""):
        state = _HOST_STATES.get(now.host_state, now.host_state)
        return f"{told}, but its host {now.host} is {state}", "'gpuvm doctor' lists hosts"
    if not now.powered_on:
        return f"{told}, but it is powered off", "its events in vCenter say why"
    reported = ", ".join(now.addresses)
    if reported and not awaited.among(now.addresses):
        return f"{told}: {awaited} is awaited, it reports {reported}", _OTHER_ADDRESS
    if reported:
        return told, f"it reports {reported} and no host keys: {_FIRST_BOOT}"
    tools = "VMware Tools run" if now.tools_running else "VMware Tools do not run in the guest"
    return told, "; ".join((tools, *map(_adapter, now.cards), hint))


def _adapter(card: NetworkAdapter) -> str:
    state = "connected" if card.connected else "NOT connected"
    return f"{card.label} is {state} to {repr(card.network) if card.network else 'a network'}"


_HOST_STATES = {"notResponding": "not responding"}
_OTHER_ADDRESS = (
    "look at /var/log/cloud-init.log in the guest, at addresses: in gpuvm.yaml and at ssh.subnet"
)
_FIRST_BOOT = "look at the first-boot unit in the guest (docs/template.md)"
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
