"""Templates, datastores and networks, from their rows of properties."""

from collections.abc import Iterable, Iterator
from typing import Any

from pyVmomi import vim

from gpuvm.inventory import NIC, Datastore, MoRef, Network, Snapshot, VMTemplate
from gpuvm.vsphere import template_snapshot, visibility
from gpuvm.vsphere.capacity import used_gib
from gpuvm.vsphere.gpus import name_of
from gpuvm.vsphere.inventory_paths import Tree
from gpuvm.vsphere.properties import Objects, Row, is_visible, not_shown

Rows = dict[Any, Row]

_PORTGROUP = vim.dvs.DistributedVirtualPortgroup
SWITCH = "config.distributedVirtualSwitch"
TEMPLATE_PATHS = (
    "name",
    "config.firmware",
    "config.version",
    "config.guestId",
    "config.bootOptions",
    "config.keyId",
    "config.nestedHVEnabled",
    "config.hardware.numCPU",
    "config.hardware.numCoresPerSocket",
    "config.hardware.memoryMB",
    "config.hardware.device",
    "summary.storage.committed",
    "guest.toolsVersionStatus2",
    "snapshot",
    "runtime.host",
    "datastore",
    "network",
    template_snapshot.ANNOTATION,
)
DATASTORE_PATHS = (
    "name",
    "parent",
    "host",
    "summary.freeSpace",
    "summary.accessible",
    "summary.maintenanceMode",
)


def template(ref: Any, rows: Rows, tree: Tree) -> VMTemplate:
    row, host = rows[ref], rows[ref].get("runtime.host")
    name = name_of(ref, row)
    devices = row.get("config.hardware.device", ())
    disks = [d for d in devices if isinstance(d, vim.vm.device.VirtualDisk)]
    nics = [d for d in devices if isinstance(d, vim.vm.device.VirtualEthernetCard)]
    return VMTemplate(
        name=name,
        moref=ref._moId,
        path=tree.path(ref),
        firmware=row.get("config.firmware", "bios"),
        hardware_version=_hardware_version(row.get("config.version")),
        cpus=row.get("config.hardware.numCPU", 1),
        memory_gib=row.get("config.hardware.memoryMB", 0) / 1024,
        disk_gib=sum(d.capacityInKB or 0 for d in disks) / 1024**2,
        disks=len(disks),
        used_gib=used_gib(row, disks),
        networks=tuple(ref._moId for ref in row.get("network", ())),
        nics=tuple(map(_nic, nics)),
        has_gpu=any(isinstance(d, vim.vm.device.VirtualPCIPassthrough) for d in devices),
        guest_id=row.get("config.guestId", ""),
        snapshots=tuple(_snapshots(row.get("snapshot"))),
        unfinished=template_snapshot.has_note(ref, row),
        host=host._moId if host is not None else "",
        datastores=tuple(ref._moId for ref in row.get("datastore", ())),
        tools=row.get("guest.toolsVersionStatus2", ""),
        secure_boot=bool(getattr(row.get("config.bootOptions"), "efiSecureBootEnabled", False)),
        vtpm=any(isinstance(d, vim.vm.device.VirtualTPM) for d in devices),
        encrypted=row.get("config.keyId") is not None,
        nested_hv=bool(row.get("config.nestedHVEnabled")),
        cores_per_socket=row.get("config.hardware.numCoresPerSocket") or 1,
        hidden=not_shown(row, visibility.OF_TEMPLATES),
    )


def datastores(rows: Rows, tree: Tree) -> tuple[Datastore, ...]:
    return tuple(
        Datastore(
            name=name_of(ref, row),
            moref=ref._moId,
            free_gib=row.get("summary.freeSpace", 0) / 1024**3,
            accessible=bool(row.get("summary.accessible", True)),
            path=_path(ref, row, tree),
            hidden=not_shown(row, visibility.OF_DATASTORES),
            maintenance=row.get("summary.maintenanceMode", "normal") != "normal",
            host_problems=tuple(_host_problems(row.get("host", ()))),
        )
        for ref, row in rows.items()
        if isinstance(ref, vim.Datastore) and is_visible(row)
    )


def networks(rows: Rows, tree: Tree) -> tuple[Network, ...]:
    return tuple(
        Network(
            name=name_of(ref, row),
            moref=ref._moId,
            portgroup_key=row.get("key"),
            switch_uuid=rows.get(row.get(SWITCH), {}).get("uuid"),
            path=_path(ref, row, tree),
            opaque_id=getattr(row.get("summary"), "opaqueNetworkId", None),
            opaque_type=getattr(row.get("summary"), "opaqueNetworkType", None),
        )
        for ref, row in rows.items()
        if isinstance(ref, vim.Network) and is_visible(row)
    )


def networks_asked(nets: Iterable[Any]) -> list[Objects]:
    """Return what to read of each kind of network.

    Distributed port groups have a key and a switch, opaque networks an id in their summary. The
    declared type of the summary does not have that id, so the whole summary is read.
    """
    ordered = sorted(nets, key=str)
    special = (_PORTGROUP, vim.OpaqueNetwork)
    return [
        Objects(
            _PORTGROUP,
            [n for n in ordered if isinstance(n, _PORTGROUP)],
            ("name", "parent", "key", SWITCH),
        ),
        Objects(
            vim.OpaqueNetwork,
            [n for n in ordered if isinstance(n, vim.OpaqueNetwork)],
            ("name", "parent", "summary"),
        ),
        Objects(
            vim.Network, [n for n in ordered if not isinstance(n, special)], ("name", "parent")
        ),
    ]


def _hardware_version(version: str | None) -> int:
    """Return the number in ``vmx-17``; 0, which counts as too old, if unknown."""
    number = (version or "").removeprefix("vmx-")
    return int(number) if number.isdecimal() else 0


def _nic(device: Any) -> NIC:
    kind = type(device).__name__.rsplit(".", maxsplit=1)[-1]
    port = getattr(device.backing, "port", None)
    named = getattr(port, "portgroupKey", None) or getattr(device.backing, "deviceName", None)
    return NIC(device.key, kind, named or "")


def _snapshots(info: Any) -> Iterator[Snapshot]:
    """Yield all snapshots of the tree."""
    nodes = list(info.rootSnapshotList) if info else []
    while nodes:
        node = nodes.pop(0)
        nodes += node.childSnapshotList or ()
        yield Snapshot(node.name, node.snapshot._moId, node.snapshot == info.currentSnapshot)


def _host_problems(mounts: Iterable[Any]) -> Iterator[tuple[MoRef, str]]:
    """Yield hosts that cannot write to the datastore; ``accessible`` is optional."""
    for mount in mounts:
        info = mount.mountInfo
        if info.mounted is False or info.accessible is False:
            why = info.inaccessibleReason
            yield mount.key._moId, "the host cannot access it" + (f" ({why})" if why else "")
        elif info.accessMode == "readOnly":
            yield mount.key._moId, "it is mounted read-only there"


def _path(ref: Any, row: Row, tree: Tree) -> str:
    """Return the inventory path of an object below a folder of the tree."""
    return f"{tree.path(row.get('parent')).rstrip('/')}/{name_of(ref, row)}"
