"""The template, snapshot, network and storage policy: the named one, else the only one that fits.

Nothing is guessed: if several fit, the error lists them.
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
from gpuvm.text import counted

Named = TypeVar("Named", VMTemplate, Datastore, Network)


def check_names(spec: ClusterSpec, inventory: Inventory) -> None:
    """Raise NotFound or Ambiguous for the names of the network and the storage policy."""
    if spec.network is not None:
        choose("network", spec.network, inventory.networks, (), inventory.cluster)
    storage_policy(spec, inventory)


def check_device_group(spec: ClusterSpec, inventory: Inventory) -> None:
    """Raise NotFound for a group that no host offers, PreflightRefused for one with other devices.

    Placement finds the hosts where the group is free.
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
            f"device group {wanted.group} has devices that are not GPUs: {', '.join(others)}",
            hint="choose a group of GPUs only: 'gpuvm gpus' lists them",
        )


def template(spec: ClusterSpec, inventory: Inventory) -> VMTemplate:
    """Return the template. Raises NotFound, Ambiguous, BadInput, and PreflightRefused if unfit."""
    for vm in inventory.unreadable:
        if spec.template in (vm.name, vm.moref):
            raise PreflightRefused(f"VM template {vm.name}: {vm.why}", hint=UNREADABLE_HINT)
    unfit = {t.moref: unfit_for(t, spec, inventory) for t in inventory.templates}
    fitting = [t for t in inventory.templates if unfit[t.moref] is None]
    if inventory.templates and not fitting and spec.template is None:
        reasons = "; ".join(f"{t.name}: {unfit[t.moref]}" for t in inventory.templates)
        raise BadInput("no suitable VM template", hint=reasons)
    chosen = choose("VM template", spec.template, inventory.templates, fitting, inventory.cluster)
    addresses = spec.addresses
    if addresses is not None and addresses.size < spec.vms:
        raise PreflightRefused(
            f"addresses: the range {addresses.first} to {addresses.last} has "
            f"{counted(addresses.size, 'address', 'addresses')} for {counted(spec.vms, 'VM')}",
            hint="extend the range, or ask for fewer VMs",
        )
    why = unfit[chosen.moref] or _without_adapter(spec, chosen)
    if why is not None:
        raise PreflightRefused(f"VM template {chosen.name}: {why}", hint="see docs/template.md")
    return chosen


def network(spec: ClusterSpec, inventory: Inventory, hosts: Sequence[Host]) -> Network | None:
    """Return the network; None keeps the template's networks."""
    if spec.network is None:
        return None
    on_all = [n for n in inventory.networks if all(n.moref in h.networks for h in hosts)]
    chosen = choose("network", spec.network, inventory.networks, on_all, inventory.cluster)
    if chosen not in on_all:
        raise PreflightRefused(f"network {chosen.name} is not available on every host of the plan")
    return chosen


def check_template_network(
    spec: ClusterSpec, template: VMTemplate, inventory: Inventory, hosts: Sequence[Host]
) -> None:
    """Raise PreflightRefused if the template's network is on none of the hosts.

    That is so for a template of another datacenter. ``network`` replaces the network of the first
    adapter; the others keep theirs.
    """
    reached = {moref for host in hosts for moref in host.networks}
    available = [one for one in inventory.networks if one.moref in reached]
    if not available or reached.intersection(template.networks):
        return
    known = {key for one in available for key in (one.name, one.portgroup_key)}
    kept = template.nics[1:] if spec.network else template.nics
    for nic in kept:
        if nic.network and nic.network not in known:
            raise PreflightRefused(
                f"VM template {template.path or template.name}: none of these hosts has its "
                f"network: {', '.join(sorted({host.name for host in hosts}))}",
                hint="choose one of their networks with --network: "
                + ", ".join(sorted(distinct(one, available) for one in available)),
            )


def storage_policy(spec: ClusterSpec, inventory: Inventory) -> str | None:
    """Its id. Raises NotFound and Ambiguous, and PreflightRefused where none can be read.

    An id is looked for as well, where this account can read policies.
    """
    if spec.storage_policy is None:
        return None
    wanted, kind = spec.storage_policy, "storage policy"
    if not spec.names_a_policy:
        ids = {policy.id.lower(): policy.id for policy in inventory.policies}
        if ids and wanted.lower() not in ids:
            raise NotFound(kind, wanted, [f"{p.name} ({p.id})" for p in inventory.policies])
        return ids.get(wanted.lower(), wanted)
    if inventory.policies_hidden:
        raise PreflightRefused(
            f"{kind} '{wanted}': {inventory.policies_hidden}",
            hint="set storage_policy: to its id, a UUID, which needs no privilege",
        )
    found = [policy for policy in inventory.policies if policy.name == wanted]
    if not found:
        raise NotFound(kind, wanted, [policy.name for policy in inventory.policies])
    if len(found) > 1:
        labels = sorted(f"{policy.name} ({policy.id})" for policy in found)
        raise Ambiguous(kind, labels, option="storage_policy: and its id")
    return found[0].id


def snapshot(spec: ClusterSpec, source: VMTemplate) -> Snapshot | None:
    """Return the snapshot for linked clones, None for full ones; never fall back to full clones."""
    if spec.clone_mode == "full":
        return None
    if not source.snapshots:
        raise PreflightRefused(
            f"VM template {source.name} has no snapshot, which linked clones need",
            hint="create one with --create-snapshot, or use clone_mode: full",
        )
    if spec.snapshot is None:
        return next((s for s in source.snapshots if s.current), source.snapshots[-1])
    for one in source.snapshots:
        if one.name == spec.snapshot:
            return one
    names = [one.name for one in source.snapshots]
    raise NotFound("snapshot", spec.snapshot, names, where=f"VM template {source.name}")


def unfit_for(template: VMTemplate, spec: ClusterSpec, inventory: Inventory) -> str | None:
    """Return why clones of the template could not match the spec, or None."""
    api_version = inventory.vcenter.api_version
    if template.hidden:
        return template.hidden
    unreachable = _host_unreachable(template, inventory)
    if unreachable is not None:
        return unreachable
    if template.has_gpu:
        return "it has a GPU attached; all clones would get the same device"
    if template.vtpm and major(api_version) < 8:
        return "it has a virtual TPM; before vSphere 8.0, clones share its secrets"
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
"""The newest virtual hardware version that ESXi runs, from this release on (Broadcom's article
1003746). 6.7 U2 reports 6.7.0 too, so all of 6.7 counts as U2."""


def too_new_for(template: VMTemplate, host: Host) -> str | None:
    """Return why the host cannot run the template's virtual hardware; None if it can, or may."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", host.version)[:3])
    newest = max((hw for since, hw in NEWEST_HARDWARE.items() if since <= numbers), default=None)
    if newest is None or template.hardware_version <= newest:
        return None
    return (
        f"ESXi {host.version} runs virtual hardware up to version {newest}, the template has "
        f"{template.hardware_version}"
    )


def _host_unreachable(template: VMTemplate, inventory: Inventory) -> str | None:
    """The host that the template is registered on reads its disks, also for clones elsewhere."""
    host = next((h for h in inventory.hosts if h.moref == template.host), None)
    if host is None or host.unreachable is None:
        return None
    return f"it is registered on {host.name}, which is {host.unreachable}: move it to another host"


def _unfit_for_gpus(template: VMTemplate, spec: ClusterSpec, inventory: Inventory) -> str | None:
    if template.nested_hv:
        return "nested virtualization is enabled, which excludes GPU passthrough"
    why = None
    if isinstance(spec.accelerator, (DynamicPassthrough, DeviceGroup)):
        why = _unfit_for_dynamic(template, inventory.vcenter.api_version)
    elif isinstance(spec.accelerator, VGPU):
        why = _too_old(template, 11, "vGPU")
    return why or _not_efi(template, spec, inventory)


_NOT_LINUX = ("win", "vmkernel", "darwin", "dos", "solaris", "freebsd")
"""Prefixes of the guestId of Windows, nested ESXi and others (VirtualMachineGuestOsIdentifier)."""


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


def _without_adapter(spec: ClusterSpec, template: VMTemplate) -> str | None:
    if spec.addresses is not None and not template.nics:
        return "it has no network adapter for a fixed address"
    return None


def is_named(one: VMTemplate | Datastore | Network, wanted: str) -> bool:
    return is_called(wanted, name=one.name, path=one.path, moref=one.moref)


def named(wanted: str, everything: Iterable[Named], cluster: Cluster) -> list[Named]:
    """Return those of that name: the ones in the cluster's datacenter, if there are any."""
    return _in_datacenter([one for one in everything if is_named(one, wanted)], cluster)


def _in_datacenter(found: list[Named], cluster: Cluster) -> list[Named]:
    own = f"{cluster.datacenter_path}/"
    return [one for one in found if one.path.startswith(own)] or found


def distinct(one: Named, everything: Iterable[Named]) -> str:
    """Return its name, or its path if another one has the same name."""
    ambiguous = sum(other.name == one.name for other in everything) > 1
    return (one.path or one.moref) if ambiguous else one.name


def choose(
    kind: str,
    name: str | None,
    known: Iterable[Named],
    fitting: Iterable[Named],
    cluster: Cluster,
) -> Named:
    """Return the one of that name; without a name, the only one that fits.

    A name is unique in its folder only, so a name can be Ambiguous. Other datacenters count only if
    the cluster's own has none.
    """
    everything = tuple(known)
    choices = named(name, everything, cluster) if name else _in_datacenter(list(fitting), cluster)
    if name and not choices:
        raise NotFound(kind, name, [one.name for one in everything])
    if not choices:
        raise BadInput(f"no suitable {kind}", hint=_none_fits(kind, everything))
    if len(choices) > 1:
        labels = sorted(distinct(one, choices) for one in choices)
        raise Ambiguous(kind, labels, option=f"--{kind.removeprefix('VM ')}")
    return choices[0]


def _none_fits(kind: str, everything: Sequence[Named]) -> str:
    names = ", ".join(one.name for one in everything)
    return f"the {kind}s are: {names}" if names else f"there is no {kind}"
