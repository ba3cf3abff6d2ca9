"""gpuvm gpus: lists every GPU of the cluster and the VMs that hold it."""

from collections.abc import Iterator, Sequence
from typing import Any

import typer

from gpuvm import lifecycle
from gpuvm.cli import output
from gpuvm.cli.options import ClusterOptions, grouped
from gpuvm.cli.output import State
from gpuvm.cli.session import open_session
from gpuvm.cli.tables import Prose, unbroken
from gpuvm.devices import GPU, VGPUProfile
from gpuvm.inventory import Host, Inventory
from gpuvm.selection import major
from gpuvm.text import counted


@grouped
def gpus(
    ctx: typer.Context,
    *,
    options: ClusterOptions,
) -> None:
    """List every GPU of the cluster: host, model, state, and the VM that holds it.

    [bold]Examples[/]

        gpuvm gpus

        gpuvm gpus --json

    gpuvm never takes a GPU from a VM, no matter who created the VM.
    """
    wanted = options.spec()
    with open_session(ctx, options.context, wanted.context) as session:
        inventory = lifecycle.read_inventory(wanted, session.vsphere)
        inventory = session.vsphere.with_config_targets(inventory, _to_ask(inventory))
    if not ctx.ensure_object(State).json:
        _print_gpus(inventory)
    output.finish(ctx, output.Result("gpus", listed(inventory)))


def _to_ask(inventory: Inventory) -> list[str]:
    """Hosts that may have a device group, which API 8 brought, or a vGPU of unknown size."""
    groups = major(inventory.vcenter.api_version) >= 8
    return [
        host.name
        for host in inventory.hosts
        if host.unreachable is None
        and host.gpus
        and (
            (groups and len(host.gpus) > 1)
            or any(one.memory_gib is None for gpu in host.gpus for one in gpu.profiles)
        )
    ]


def listed(inventory: Inventory) -> dict[str, Any]:
    """Return the data of ``--json``."""
    return {
        "cluster": inventory.cluster.path,
        "gpus": [
            {**gpu_json(gpu), "host_unusable": host.unusable}
            for host in inventory.hosts
            for gpu in host.gpus
        ],
        "nvswitches": [
            {"host": host.name, "pci_addresses": list(host.nvswitches)}
            for host in inventory.hosts
            if host.nvswitches
        ],
        "device_groups": [
            {"host": host.name, "name": group.name, "devices": len(group.devices)}
            for host in inventory.hosts
            for group in host.device_groups
        ],
        "notes": list(notes(inventory)),
    }


def notes(inventory: Inventory) -> Iterator[str]:
    """Yield notes on unusable hosts, NVSwitches and missing permissions."""
    for host in inventory.hosts:
        if host.unusable:
            yield f"{host.name}: {host.unusable}"
        if host.nvswitches:
            yield (
                f"{host.name}: {counted(len(host.switched_gpus), 'GPU')} of an HGX board, behind "
                f"{counted(len(host.nvswitches), 'NVSwitch', 'NVSwitches')} "
                f"({', '.join(host.nvswitches)}): a VM can have one of them, or a vendor "
                "device group; several without the switches do not start"
            )
    yield from inventory.notes


def gpu_json(gpu: GPU) -> dict[str, Any]:
    """Return a GPU for ``--json``; ids are hex, as in lspci."""
    return {
        "host": gpu.host,
        "pci_address": gpu.pci_address,
        "vendor_id": f"{gpu.vendor_id:04x}",
        "device_id": f"{gpu.device_id:04x}",
        "model": gpu.name,
        "memory_gib": gpu.memory_gib,
        "label": gpu.label or None,
        "state": gpu.state,
        "free": gpu.free,
        "shared_direct": gpu.shared_direct,
        "passthrough": {
            "capable": gpu.capable,
            "enabled": gpu.enabled,
            "active": gpu.active,
            "dependent_device": gpu.dependent_device,
        },
        "holders": [
            {"vm": h.vm, "powered_on": h.powered_on, "profile": h.profile} for h in gpu.holders
        ],
        "may_be_held_by": [h.vm for h in gpu.possible_holders],
        "vgpu_profiles": [
            {"name": p.name, "memory_gib": p.memory_gib, "left": gpu.vgpus_left(p.name)}
            for p in gpu.profiles
        ],
    }


def _print_gpus(inventory: Inventory) -> None:
    if not inventory.gpus:
        output.line(
            f"no NVIDIA GPU in {inventory.cluster.path}, which has "
            f"{counted(len(inventory.hosts), 'host')}; '--accelerator none' creates VMs without one"
        )
    else:
        _table(inventory)
    for note in notes(inventory):
        output.line(f"note: {note}")
    for text in _profile_lines(inventory):
        output.line(text)
    for name, hosts in _device_groups(inventory.hosts).items():
        output.line(f"device group {name} on {', '.join(hosts)}")


def _table(inventory: Inventory) -> None:
    labels = any(gpu.label for gpu in inventory.gpus)
    columns = (
        "HOST",
        "GPU",
        Prose("MODEL"),
        "MEMORY",
        Prose("STATE"),
        *(("LABEL",) if labels else ()),
    )
    output.table(columns, [row(gpu, labels=labels) for gpu in inventory.gpus])


def _profile_lines(inventory: Inventory) -> Iterator[str]:
    """Each vGPU profile that is to be had, as ``--accelerator`` takes it, and where."""
    left: dict[VGPUProfile, dict[str, int]] = {}
    for gpu in inventory.gpus:
        for profile in gpu.profiles:
            on = left.setdefault(profile, {})
            on[gpu.host] = on.get(gpu.host, 0) + gpu.vgpus_left(profile.name)
    for profile, on in sorted(left.items(), key=lambda one: (one[0].memory_gib or 0, one[0].name)):
        size = f" ({profile.memory_gib} GiB each)" if profile.memory_gib else ""
        there = [host for host, number in on.items() if number]
        where = ", ".join(there[:4]) + (f" and {len(there) - 4} more" if len(there) > 4 else "")
        number = sum(on.values())
        yield (
            f"vgpu:{profile.name}{size}: {number} left on {where}"
            if number
            else f"vgpu:{profile.name}{size}: none left"
        )


def _device_groups(hosts: Sequence[Host]) -> dict[str, list[str]]:
    """Return host names by device group."""
    found: dict[str, list[str]] = {}
    for host in hosts:
        for group in host.device_groups:
            found.setdefault(group.name, []).append(host.name)
    return found


def row(gpu: GPU, *, labels: bool) -> tuple[str, ...]:
    memory = f"{gpu.memory_gib} GiB" if gpu.memory_gib else "?"
    state = gpu.state
    for holder in gpu.holders:
        state = state.replace(holder.vm, unbroken(holder.vm))
    cells = (gpu.host, gpu.pci_address, gpu.name, memory, state)
    return (*cells, gpu.label or "-") if labels else cells
