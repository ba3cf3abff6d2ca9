"""gpuvm status: the deployment as it is, in vCenter and in the guests, against what was wished."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from gpuvm import guest, lifecycle, planner, spec
from gpuvm.cli import output, wish
from gpuvm.cli.options import (
    ClusterOption,
    ContextOption,
    DebugOption,
    FileOption,
    JsonOption,
    NameOption,
)
from gpuvm.cli.session import Session, open_session
from gpuvm.cli.state import State
from gpuvm.errors import GpuvmError
from gpuvm.inventory import VM, Inventory

TIMEOUT_S = 10
AT_ONCE = 16


@dataclass(frozen=True)
class Seen:
    """``in_guest`` is what the guest's nvidia-smi names, or why that is not known."""

    vm: VM
    gpus: tuple[str, ...]
    in_guest: str
    drift: tuple[str, ...]


def status(
    ctx: typer.Context,
    guests: Annotated[
        bool, typer.Option("--guests/--no-guests", help="Look into running guests over SSH too.")
    ] = True,
    name: NameOption = None,
    cluster: ClusterOption = None,
    file: FileOption = None,
    context: ContextOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show the deployment's VMs: power, address, GPUs in vCenter and in the guest, and drift.

    [bold]Examples[/]

        gpuvm status

        gpuvm status --no-guests --json

    It works from any machine that has the vCenter's credentials; looking into guests needs a key
    that they accept.
    """
    wanted = spec.load(file, name=name, cluster=cluster)
    with open_session(ctx, context) as session:
        inventory = wish.read_inventory(session, wanted)
        ours = inventory.ours(wanted.name)
        inside = _inside(session, ours) if guests else {}
    seen = [_seen(vm, inventory, wanted, inside.get(vm.name, "-")) for vm in ours]
    copies = inventory.copies(wanted.name)
    if not ctx.ensure_object(State).json:
        _show(seen, copies, wanted.name)
    data = {
        "deployment": wanted.name,
        "vms": [_described(one) for one in seen],
        "copies": [vm.name for vm in copies],
    }
    output.finish(ctx, output.Result("status", data))


def _inside(session: Session, vms: Sequence[VM]) -> dict[str, str]:
    running = [vm for vm in vms if vm.powered_on and vm.address]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        told = pool.map(lambda vm: _look(session, vm), running)
    return {vm.name: text for vm, text in zip(running, told, strict=True)}


def _look(session: Session, vm: VM) -> str:
    try:
        with guest.connect(lifecycle.endpoint(vm, session.context), timeout_s=TIMEOUT_S) as shell:
            found = guest.look_at_gpus(shell)
    except GpuvmError as error:
        return f"unknown: {error}"
    return ", ".join(found.gpu_names) or "no GPU"


def _seen(vm: VM, inventory: Inventory, wanted: spec.ClusterSpec, in_guest: str) -> Seen:
    drifted = planner.drift(vm, inventory)
    given = spec.FILE.exists() and vm.spec_digest != wanted.digest()
    if given:
        drifted = (*drifted, f"made from another wish than {spec.FILE}")
    missing = _missing(vm, in_guest)
    return Seen(vm, planner.assigned(vm), in_guest, (*drifted, *([missing] if missing else [])))


def _missing(vm: VM, in_guest: str) -> str | None:
    if vm.devices and in_guest == "no GPU":
        return "the guest sees no GPU: its driver, or the 64-bit MMIO window"
    return None


def _show(seen: Sequence[Seen], copies: Sequence[VM], deployment: str) -> None:
    if not seen:
        output.line(f"no VM of '{deployment}' exists: gpuvm provision --hosts N makes some")
    else:
        rows = [
            (
                one.vm.name,
                one.vm.host,
                "on" if one.vm.powered_on else "off",
                one.vm.address or "-",
                ", ".join(one.gpus) or "-",
                one.in_guest,
                "; ".join(one.drift) or "none",
            )
            for one in seen
        ]
        columns = ("VM", "HOST", "POWER", "ADDRESS", "GPU IN VCENTER", "IN THE GUEST", "DRIFT")
        output.table(columns, rows)
    for vm in copies:
        output.line(f"note: {vm.name} is a copy of one of our VMs; it is left alone")


def _described(seen: Seen) -> dict[str, Any]:
    vm = seen.vm
    return {
        "vm": vm.name,
        "host": vm.host,
        "powered_on": vm.powered_on,
        "address": vm.address,
        "accelerator": vm.accelerator,
        "gpus": seen.gpus,
        "in_guest": seen.in_guest,
        "drift": seen.drift,
    }
