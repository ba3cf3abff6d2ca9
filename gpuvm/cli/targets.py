"""The VMs of a deployment that a command works with, and the key that opens them.

Asked about as a person would: does the VM exist, is it powered on, has it an address, is there a
key. ``guest.ssh_config.pinned`` and ``guest.locate`` then ask whether the port answers and the key
is accepted.
"""

import os
from collections.abc import Sequence
from dataclasses import replace

from gpuvm import planner
from gpuvm.cli import output
from gpuvm.cli.session import Session
from gpuvm.errors import (
    Ambiguous,
    BadInput,
    NotFound,
    PreflightRefused,
    SeveralRefused,
    SharedAddress,
)
from gpuvm.guest import Endpoint, endpoint
from gpuvm.inventory import VM, Inventory
from gpuvm.runs import Member
from gpuvm.settings import Context
from gpuvm.spec import ClusterSpec
from gpuvm.text import typed_word


def members(
    session: Session,
    inventory: Inventory,
    wanted: ClusterSpec,
    names: Sequence[str] | None,
    *,
    every: bool,
) -> list[Member]:
    """Those of the names; without names all that are running, or the first of them alone."""
    ours = inventory.ours(wanted.name)
    hidden = planner.unreadable(wanted.name, inventory).values()
    planner.check_readable([vm for vm in hidden if vm.name in (names or ())])
    for vm in hidden if every and not names else ():
        output.warn(f"{vm.name} takes no part: {vm.why}")
    if names:
        chosen = [_find(ours, wanted.name, name) for name in dict.fromkeys(names)]
    else:
        there = _all_running(ours, wanted.name)
        chosen = there if every else there[:1]
    places = _places(chosen, session)
    _require_key(session.context)
    return [
        Member(endpoint=place, vm=vm, gpus=tuple(gpu for gpu in inventory.gpus if vm.has(gpu)))
        for place, vm in zip(places, chosen, strict=True)
    ]


def endpoints(
    session: Session, deployment: str, names: Sequence[str] | None, *, every: bool
) -> list[Endpoint]:
    """Those of the names, else every running VM; without both the only one there is."""
    found = session.vsphere.read_deployment(deployment)
    if names:
        planner.check_readable([vm for vm in found.unreadable if vm.name in names])
        chosen = [_find(found.ours, deployment, name) for name in dict.fromkeys(names)]
    else:
        chosen = _all_running(found.ours, deployment)
        if len(chosen) > 1 and not every:
            there = [vm.name for vm in chosen]
            raise Ambiguous("VM", there, option="--vm, or take all with --all")
    places = _places(chosen, session)
    _require_key(session.context)
    return places


def all_endpoints(session: Session, deployment: str, *, some: bool = False) -> list[Endpoint]:
    """Of every running VM; raises PreflightRefused for none, if there must be ``some``."""
    ours = session.vsphere.read_deployment(deployment).ours
    running = _all_running(ours, deployment) if some else _running(ours)
    return [endpoint(vm, session.context) for vm in unshared(running, session)]


def unshared(vms: Sequence[VM], session: Session) -> list[VM]:
    """Those whose address no other VM has; warns of the others, to which nothing connects."""
    found = session.vsphere.others_at(vms)
    for vm in vms:
        for address, names in found.get(vm.moref, {}).items():
            output.warn(str(SharedAddress(vm.name, address, names)))
    return [vm for vm in vms if vm.moref not in found]


def _running(ours: Sequence[VM]) -> list[VM]:
    """In the order of their numbers."""
    there = [vm for vm in ours if vm.powered_on and vm.address]
    return sorted(there, key=lambda vm: vm.index or 0)


def _all_running(ours: Sequence[VM], deployment: str) -> list[VM]:
    there = _running(ours)
    if not there:
        raise _none_running(ours, deployment)
    return there


def _none_running(ours: Sequence[VM], deployment: str) -> PreflightRefused:
    """Why no VM of the deployment can be spoken to, the first cause first."""
    if not ours:
        return PreflightRefused(
            f"no VM of '{deployment}' exists", hint="'gpuvm provision' makes some"
        )
    on = [vm for vm in ours if vm.powered_on]
    if not on:
        which = f"{ours[0].name} is" if len(ours) == 1 else f"all VMs of '{deployment}' are"
        them = "it" if len(ours) == 1 else "them"
        return PreflightRefused(f"{which} powered off", hint=f"'gpuvm start' powers {them} on")
    return _no_address(on[0])


def too_few(
    ours: Sequence[VM], deployment: str, named: Sequence[str] | None = None
) -> PreflightRefused | BadInput:
    """Why a distributed run cannot be made up of the deployment's VMs, or of those named."""
    if named:
        return BadInput(
            f"--distributed needs at least two VMs, and --vm names {named[0]} alone",
            hint="name others with --vm too, or leave it out: then it is on all of them",
        )
    off = [vm.name for vm in ours if not vm.powered_on]
    silent = [vm for vm in ours if vm.powered_on and not vm.address]
    text = "--distributed needs at least two VMs"
    if off and len(ours) > 1:
        are = "is" if len(off) == 1 else "are"
        return PreflightRefused(
            f"{text}: {', '.join(off)} {are} powered off",
            hint=f"'gpuvm start {' '.join(map(typed_word, off))}' powers "
            f"{'it' if are == 'is' else 'them'} on",
        )
    if silent:
        return _no_address(silent[0])
    return BadInput(
        f"{text}, and '{deployment}' has {len(ours)}", hint="'gpuvm provision --hosts 2' makes two"
    )


def _find(ours: Sequence[VM], deployment: str, name: str) -> VM:
    if not ours:
        raise _none_running(ours, deployment)
    for vm in ours:
        if vm.name == name:
            return vm
    there = [vm.name for vm in ours]
    raise NotFound("VM", name, there, where=f"deployment '{deployment}'")


def _places(chosen: Sequence[VM], session: Session) -> list[Endpoint]:
    """Raises SharedAddress for a VM whose address another VM has too."""
    places = [_place(vm, session) for vm in chosen]
    used = [
        replace(vm, addresses=(place.address, *place.others))
        for vm, place in zip(chosen, places, strict=True)
    ]
    found = session.vsphere.others_at(used)
    shared = [
        SharedAddress(vm.name, address, names)
        for vm in used
        for address, names in found.get(vm.moref, {}).items()
    ]
    if len(shared) > 1:
        raise SeveralRefused(shared)
    if shared:
        raise shared[0]
    return places


def _place(vm: VM, session: Session) -> Endpoint:
    """Raises PreflightRefused for a VM that cannot be spoken to."""
    if not vm.powered_on:
        raise PreflightRefused(
            f"{vm.name} is powered off", hint=f"'gpuvm start {typed_word(vm.name)}' powers it on"
        )
    if not vm.address:
        raise _no_address(vm)
    return endpoint(vm, session.context)


def _no_address(vm: VM) -> PreflightRefused:
    tools = "" if vm.tools_running else "; VMware Tools is not running in it yet"
    return PreflightRefused(
        f"{vm.name} has no address yet{tools}", hint="'gpuvm status' shows when it has one"
    )


def has_key(context: Context) -> bool:
    return context.key_file.exists() or "SSH_AUTH_SOCK" in os.environ


def _require_key(context: Context) -> None:
    if not has_key(context):
        raise PreflightRefused(
            f"no SSH key for these guests: {context.key_file} does not exist and no ssh-agent runs",
            hint="run from the machine that provisioned, or add your public key to "
            "ssh.authorized_keys in the context before the VMs are made",
        )
