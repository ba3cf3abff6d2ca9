"""The error of a stage that exceeds its deadline: what it waited for, and the likely cause."""

from typing import Literal

from gpuvm.errors import DeadlinePassed
from gpuvm.guest import Awaited
from gpuvm.vsphere import Diagnosis, NetworkAdapter

Stage = Literal["clone", "move", "configure", "power_on", "address"]


def late(
    name: str, stage: Stage, limit_s: float, expected: Awaited, now: Diagnosis | None
) -> DeadlinePassed:
    """Return the error; ``now`` is the VM's state at the deadline, None if it is unreadable."""
    what, hint = _WAITED_FOR[stage]
    text = f"waited {limit_s:g} s for {what}"
    if now and now.question:
        hint = f"answer the question on this VM in the vSphere Client: {now.question}"
    elif now and stage == "address":
        text, hint = _without_address(now, expected, text, hint)
    return DeadlinePassed(f"{name}: {text}", hint=hint)


def _without_address(now: Diagnosis, expected: Awaited, text: str, hint: str) -> tuple[str, str]:
    if now.host_state not in ("connected", ""):
        state = _HOST_STATES.get(now.host_state, now.host_state)
        return f"{text}, but its host {now.host} is {state}", "'gpuvm doctor' lists hosts"
    if not now.powered_on:
        return f"{text}, but it is powered off", "its events in vCenter say why"
    reported = ", ".join(now.addresses)
    if reported and not expected.among(now.addresses):
        return f"{text}: expected {expected}, the guest reports {reported}", _OTHER_ADDRESS
    if reported:
        return text, f"the guest reports {reported} and no host keys: {_FIRST_BOOT}"
    tools = "VMware Tools is running" if now.tools_running else "VMware Tools is not running"
    return text, "; ".join((tools, *map(_adapter, now.adapters), hint))


def _adapter(card: NetworkAdapter) -> str:
    state = "connected" if card.connected else "NOT connected"
    return f"{card.label} is {state} to {repr(card.network) if card.network else 'a network'}"


_HOST_STATES = {"notResponding": "not responding"}
_OTHER_ADDRESS = (
    "check /var/log/cloud-init.log in the guest, addresses: in gpuvm.yaml, and ssh.subnet"
)
_FIRST_BOOT = "check the first-boot unit in the guest (docs/template.md)"
_WAITED_FOR: dict[Stage, tuple[str, str]] = {
    "clone": ("its clone", "is the datastore slow? raise deadlines.clone_s in gpuvm.yaml"),
    "move": ("its move to another host", "check its recent tasks in vCenter"),
    "configure": ("its configuration", "check its recent tasks in vCenter"),
    "power_on": ("power on", "vCenter may be waiting for an answer to a question on the VM"),
    "address": (
        "an address and its SSH host keys",
        "check its console: open-vm-tools, DHCP and the first-boot unit (docs/template.md)",
    ),
}
