"""The running VMs of a deployment that a command works with, and the key that opens them."""

import os
from collections.abc import Sequence

from gpuvm import planner
from gpuvm.cli import output
from gpuvm.cli.session import Session
from gpuvm.errors import NotFound, PreflightRefused
from gpuvm.inventory import VM, Inventory
from gpuvm.lifecycle import endpoint
from gpuvm.runs import Member
from gpuvm.settings import Context
from gpuvm.spec import ClusterSpec


def require_key(context: Context) -> None:
    if not context.key_file.exists() and "SSH_AUTH_SOCK" not in os.environ:
        raise PreflightRefused(
            f"no SSH key for these guests: {context.key_file} does not exist and no ssh-agent runs",
            hint="run from the machine that provisioned, or add your public key to "
            "ssh.authorized_keys in the context before the VMs are made",
        )


def running(
    session: Session,
    inventory: Inventory,
    wanted: ClusterSpec,
    names: Sequence[str] | None,
    *,
    every: bool,
) -> list[Member]:
    """Those of the names; without names all of them, or the first alone."""
    there = [vm for vm in inventory.ours(wanted.name) if vm.powered_on and vm.address]
    hidden = planner.unreadable(wanted.name, inventory).values()
    planner.check_readable([vm for vm in hidden if vm.name in (names or ())])
    for vm in hidden if every and not names else ():
        output.warn(f"{vm.name} takes no part: {vm.why}")
    if not there:
        raise PreflightRefused(
            f"no VM of '{wanted.name}' is running", hint="gpuvm provision --hosts N makes some"
        )
    chosen = _named(there, names) if names else there if every else there[:1]
    return [
        Member(
            endpoint=endpoint(vm, session.context),
            vm=vm,
            gpus=tuple(gpu for gpu in inventory.gpus if vm.has(gpu)),
        )
        for vm in chosen
    ]


def _named(there: Sequence[VM], names: Sequence[str]) -> list[VM]:
    by_name = {vm.name: vm for vm in there}
    for name in names:
        if name not in by_name:
            raise NotFound("running VM", name, sorted(by_name))
    return [by_name[name] for name in dict.fromkeys(names)]
