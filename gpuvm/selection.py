"""Which template and network: the named one, else the only one that fits.

Nothing is guessed: several that fit are an error that lists them.
"""

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from gpuvm.accelerators import VGPU, DeviceGroup, DynamicPassthrough
from gpuvm.errors import Ambiguous, BadInput, NotFound, PreflightRefused
from gpuvm.fitting import needs_efi
from gpuvm.inventory import (
    UNREADABLE_HINT,
    Cluster,
    Datastore,
    Host,
    Inventory,
    Network,
    Snapshot,
    VMTemplate,
    is_called,
)
from gpuvm.spec import ClusterSpec

Named = TypeVar("Named", VMTemplate, Datastore, Network)


def check_names(spec: ClusterSpec, inventory: Inventory) -> None:
    """A misspelt name is said before anything else is looked at; raises NotFound."""
    if spec.network is not None:
        choose("network", spec.network, inventory.networks, (), inventory.cluster)
    storage_policy(spec, inventory)


def check_device_group(spec: ClusterSpec, inventory: Inventory) -> None:
    """Raises NotFound for a group that no host offers, PreflightRefused for one that is not GPUs.

    Which hosts have one free is the planner's to find.
    """
    wanted, api = spec.accelerator, inventory.vcenter.api_version
    if not isinstance(wanted, DeviceGroup):
        return
    if major(api) < 8:
        raise PreflightRefused(f"device groups need vSphere 8.0, this vCenter's API is {api}")
    offered = {group.name: group for host in inventory.hosts for group in host.device_groups}
    if wanted.group not in offered:
        raise NotFound("device group", wanted.group, sorted(offered), where="the cluster's hosts")
    others = offered[wanted.group].others
    if others:
        raise PreflightRefused(
            f"device group {wanted.group} has devices that are no GPU: {', '.join(others)}",
            hint="gpuvm gives GPUs only: choose a group of GPUs, 'gpuvm gpus' lists them",
        )


def template(spec: ClusterSpec, inventory: Inventory) -> VMTemplate:
    """Raises NotFound, Ambiguous, BadInput, and PreflightRefused for one that does not fit."""
    for vm in inventory.unreadable:
        if spec.template in (vm.name, vm.moref):
            raise PreflightRefused(f"VM template {vm.name}: {vm.why}", hint=UNREADABLE_HINT)
    unfit = {t.moref: unfit_for(t, spec, inventory) for t in inventory.templates}
    fitting = [t for t in inventory.templates if unfit[t.moref] is None]
    if inventory.templates and not fitting and spec.template is None:
        reasons = "; ".join(f"{t.name}: {unfit[t.moref]}" for t in inventory.templates)
        raise BadInput("no fitting VM template", hint=reasons)
    chosen = choose("VM template", spec.template, inventory.templates, fitting, inventory.cluster)
    why = unfit[chosen.moref] or _addresses(spec, chosen)
    if why is not None:
        raise PreflightRefused(f"VM template {chosen.name}: {why}", hint="see docs/template.md")
    return chosen


def network(spec: ClusterSpec, inventory: Inventory, hosts: Sequence[Host]) -> Network | None:
    """None leaves the clone on its template's network."""
    if spec.network is None:
        return None
    everywhere = [n for n in inventory.networks if all(n.moref in h.networks for h in hosts)]
    chosen = choose("network", spec.network, inventory.networks, everywhere, inventory.cluster)
    if chosen not in everywhere:
        raise PreflightRefused(f"network {chosen.name} is not there on every host of the plan")
    return chosen


def check_template_network(
    spec: ClusterSpec, template: VMTemplate, inventory: Inventory, hosts: Sequence[Host]
) -> None:
    """Cards stay on the template's networks, but for the first where ``network`` is given.

    Raises PreflightRefused when a network is on none of the hosts, as one of another datacenter is.
    """
    reached = {moref for host in hosts for moref in host.networks}
    there = [one for one in inventory.networks if one.moref in reached]
    if not there or reached.intersection(template.networks):
        return
    known = {word for one in there for word in (one.name, one.portgroup_key)}
    kept = template.nics[1:] if spec.network else template.nics
    for nic in kept:
        if nic.network and nic.network not in known:
            raise PreflightRefused(
                f"VM template {template.path or template.name}: its network is on none of these "
                f"hosts: {', '.join(sorted({host.name for host in hosts}))}",
                hint="name one of theirs with --network: "
                + ", ".join(sorted(distinct(one, there) for one in there)),
            )


def storage_policy(spec: ClusterSpec, inventory: Inventory) -> str | None:
    """Its id. Raises NotFound and Ambiguous, and PreflightRefused where none can be read."""
    if spec.storage_policy is None or not spec.names_a_policy:
        return spec.storage_policy
    wanted, kind = spec.storage_policy, "storage policy"
    if inventory.policies_hidden:
        raise PreflightRefused(
            f"{kind} '{wanted}': {inventory.policies_hidden}",
            hint="storage_policy: with its id, a UUID, needs no look-up",
        )
    found = [policy for policy in inventory.policies if policy.name == wanted]
    if not found:
        raise NotFound(kind, wanted, [policy.name for policy in inventory.policies])
    if len(found) > 1:
        labels = sorted(f"{policy.name} ({policy.id})" for policy in found)
        raise Ambiguous(kind, labels, option="storage_policy: and its id")
    return found[0].id


def snapshot(spec: ClusterSpec, source: VMTemplate) -> Snapshot | None:
    """What linked clones are made from; None for full ones. Never falls back to a full clone."""
    if spec.clone_mode == "full":
        return None
    if not source.snapshots:
        raise PreflightRefused(
            f"VM template {source.name} has no snapshot, and linked clones are made from one",
            hint="--create-snapshot makes one, once; or clone_mode: full",
        )
    if spec.snapshot is None:
        return next((s for s in source.snapshots if s.current), source.snapshots[-1])
    for one in source.snapshots:
        if one.name == spec.snapshot:
            return one
    names = [one.name for one in source.snapshots]
    raise NotFound("snapshot", spec.snapshot, names, where=f"VM template {source.name}")


def unfit_for(template: VMTemplate, spec: ClusterSpec, inventory: Inventory) -> str | None:
    """Why clones of it could not match the spec, or None."""
    api_version = inventory.vcenter.api_version
    if template.hidden:
        return template.hidden
    away = _host_is_away(template, inventory)
    if away is not None:
        return away
    if template.has_gpu:
        return "it has a GPU attached; clones would all name the same device"
    if template.vtpm and major(api_version) < 8:
        return "it has a virtual TPM, whose secrets all clones would share before vSphere 8.0"
    if template.guest_id.lower().startswith(_NOT_LINUX):
        return f"its guest operating system is {template.guest_id}; gpuvm needs Linux"
    return _unfit_for_gpus(template, spec, inventory) if spec.has_gpu else None


NEWEST_HARDWARE = {
    (6, 5, 0): 13,
    (6, 7, 0): 15,
    (7, 0, 0): 17,
    (7, 0, 1): 18,
    (7, 0, 2): 19,
    (8, 0, 0): 20,
    (8, 0, 2): 21,
    (9, 0, 0): 22,
}
"""The newest virtual hardware version that an ESXi runs, from the release on (Broadcom's article
1003746). 6.7 U2 calls itself 6.7.0 too, so all of 6.7 is taken for it."""


def too_new_for(template: VMTemplate, host: Host) -> str | None:
    """Why the host cannot run the template's virtual hardware; None when it can, or may."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", host.version)[:3])
    newest = max((hw for since, hw in NEWEST_HARDWARE.items() if since <= numbers), default=None)
    if newest is None or template.hardware_version <= newest:
        return None
    return (
        f"ESXi {host.version} runs virtual hardware up to version {newest}, the template has "
        f"{template.hardware_version}"
    )


def _host_is_away(template: VMTemplate, inventory: Inventory) -> str | None:
    """Its disks are read by the host that it is registered on, wherever its clones go."""
    host = next((h for h in inventory.hosts if h.moref == template.host), None)
    if host is None or host.away is None:
        return None
    return f"it is registered on {host.name}, which is {host.away}: move it to another host"


def _unfit_for_gpus(template: VMTemplate, spec: ClusterSpec, inventory: Inventory) -> str | None:
    if template.nested_hv:
        return "nested virtualization is on, which excludes GPUs"
    why = None
    if isinstance(spec.accelerator, (DynamicPassthrough, DeviceGroup)):
        why = _unfit_for_dynamic(template, inventory.vcenter.api_version)
    elif isinstance(spec.accelerator, VGPU):
        why = _too_old(template, 11, "vGPU")
    return why or _not_efi(template, spec, inventory)


_NOT_LINUX = ("win", "vmkernel", "darwin", "dos", "solaris", "freebsd")
"""How the guestId of Windows, nested ESXi and others begins (VirtualMachineGuestOsIdentifier)."""


def major(version: str) -> int:
    """Return the major version of ``8.0.3``; 0 if unknown."""
    first = version.partition(".")[0]
    return int(first) if first.isdecimal() else 0


def _unfit_for_dynamic(template: VMTemplate, api_version: str) -> str | None:
    if major(api_version) < 7:
        return f"Dynamic DirectPath I/O needs vSphere 7.0, this vCenter's API is {api_version}"
    return _too_old(template, 17, "Dynamic DirectPath I/O")


def _too_old(template: VMTemplate, wanted: int, what: str) -> str | None:
    if template.hardware_version >= wanted:
        return None
    return f"{what} needs hardware version {wanted}, it has {template.hardware_version}"


def _not_efi(template: VMTemplate, spec: ClusterSpec, inventory: Inventory) -> str | None:
    needing = "" if template.firmware == "efi" else needs_efi(spec, inventory)
    return f"its firmware is {template.firmware}; {needing} needs EFI" if needing else None


def _addresses(spec: ClusterSpec, template: VMTemplate) -> str | None:
    """Each VM needs an address of the range, and a card to have it on."""
    if spec.addresses is None:
        return None
    if not template.nics:
        return "it has no network card to give a fixed address to"
    if spec.addresses.size < spec.vms:
        return f"addresses: the range has {spec.addresses.size}, {spec.vms} VMs are wanted"
    return None


def is_named(one: VMTemplate | Datastore | Network, wanted: str) -> bool:
    return is_called(wanted, name=one.name, path=one.path, moref=one.moref)


def named(wanted: str, everything: Iterable[Named], cluster: Cluster) -> list[Named]:
    """Those that are called so: where datacenters have twins, the ones of the cluster's own."""
    return _at_home([one for one in everything if is_named(one, wanted)], cluster)


def _at_home(found: list[Named], cluster: Cluster) -> list[Named]:
    home = f"{cluster.datacenter_path}/"
    return [one for one in found if one.path.startswith(home)] or found


def distinct(one: Named, everything: Iterable[Named]) -> str:
    """Its name, or its path where another one has that name too."""
    twins = sum(other.name == one.name for other in everything) > 1
    return (one.path or one.moref) if twins else one.name


def choose(
    kind: str,
    name: str | None,
    known: Iterable[Named],
    fitting: Iterable[Named],
    cluster: Cluster,
) -> Named:
    """The one that is called so; without a name the only one that fits.

    A name is unique in its folder only: one that is there twice is Ambiguous. Those of other
    datacenters count where the cluster's own has none.
    """
    everything = tuple(known)
    choices = named(name, everything, cluster) if name else _at_home(list(fitting), cluster)
    if name and not choices:
        raise NotFound(kind, name, [one.name for one in everything])
    if not choices:
        raise BadInput(f"no fitting {kind}", hint=_none_fits(kind, everything))
    if len(choices) > 1:
        labels = sorted(distinct(one, choices) for one in choices)
        raise Ambiguous(kind, labels, option=f"--{kind.removeprefix('VM ')}")
    return choices[0]


def _none_fits(kind: str, everything: Sequence[Named]) -> str:
    names = ", ".join(one.name for one in everything)
    return f"the {kind}s are: {names}" if names else f"there is no {kind} at all"
