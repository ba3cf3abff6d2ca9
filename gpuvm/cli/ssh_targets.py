"""The guests that ssh, exec, cp, forward and export speak to, asked about as a person would.

In this order: does the VM exist, is it powered on, has it an address; ``guest.ssh_config.pinned``
and ``guest.locate`` then ask whether the port answers and the key is accepted.
"""

from collections.abc import Sequence

from gpuvm.cli import targets
from gpuvm.cli.session import Session
from gpuvm.errors import Ambiguous, NotFound, PreflightRefused
from gpuvm.guest import Endpoint
from gpuvm.inventory import VM, Deployment
from gpuvm.lifecycle import endpoint
from gpuvm.planner import check_readable


def named(session: Session, deployment: str, names: Sequence[str]) -> list[Endpoint]:
    """Each of the VMs once. Raises for the first that cannot be spoken to."""
    found = session.vsphere.read_deployment(deployment)
    places = [_running(_find(found, deployment, name), session) for name in dict.fromkeys(names)]
    targets.require_key(session.context)
    return places


def chosen(
    session: Session, deployment: str, names: Sequence[str] | None, *, every: bool
) -> list[Endpoint]:
    """Those of the names, else every running VM; without both the only one there is."""
    if names:
        return named(session, deployment, names)
    there = running(session, deployment)
    if not there:
        raise PreflightRefused(
            f"no VM of '{deployment}' is running",
            hint="gpuvm start, or gpuvm provision --hosts N makes some",
        )
    if len(there) > 1 and not every:
        raise Ambiguous("VM", [one.name for one in there], option="--vm, or take all with --all")
    targets.require_key(session.context)
    return there


def running(session: Session, deployment: str) -> list[Endpoint]:
    """Every VM that is powered on and has an address, in the order of their numbers."""
    ours = sorted(session.vsphere.read_deployment(deployment).ours, key=lambda vm: vm.index or 0)
    return [endpoint(vm, session.context) for vm in ours if vm.powered_on and vm.address]


def _find(found: Deployment, deployment: str, name: str) -> VM:
    check_readable([vm for vm in found.unreadable if vm.name == name])
    for vm in found.ours:
        if vm.name == name:
            return vm
    there = [vm.name for vm in found.ours]
    raise NotFound("VM", name, there, where=f"deployment '{deployment}'")


def _running(vm: VM, session: Session) -> Endpoint:
    if not vm.powered_on:
        raise PreflightRefused(f"{vm.name} is powered off", hint=f"gpuvm start {vm.name}")
    if not vm.address:
        tools = "" if vm.tools_running else "; VMware Tools do not run in it yet"
        raise PreflightRefused(
            f"{vm.name} has no address yet{tools}", hint="'gpuvm status' shows when it has one"
        )
    return endpoint(vm, session.context)
