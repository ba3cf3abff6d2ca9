"""Diagnosis of a VM that reports no address: host, VMware Tools, network adapters, question."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from gpuvm.inventory import MoRef
from gpuvm.vsphere.faults import translated
from gpuvm.vsphere.properties import Objects, Row, retrieve
from gpuvm.vsphere.virtual_machines import addresses

_VM_PATHS = (
    "runtime.host",
    "runtime.powerState",
    "runtime.question",
    "config.hardware.device",
    "guest.net",
    "guest.toolsRunningStatus",
    "network",
)
_PORTGROUP = vim.dvs.DistributedVirtualPortgroup
_LAST_EVENTS = 3
_HOST_PATHS = ("name", "runtime.connectionState")


@dataclass(frozen=True)
class NetworkAdapter:
    """A network adapter of the VM; ``network`` is empty if its name cannot be read."""

    label: str
    connected: bool
    network: str


@dataclass(frozen=True)
class Diagnosis:
    """``host_state`` is the host's connectionState."""

    moref: MoRef
    host: str
    host_state: str
    powered_on: bool
    question: str
    tools_running: bool
    adapters: tuple[NetworkAdapter, ...]
    addresses: tuple[str, ...]


def read_diagnosis(content: Any, vms: Sequence[Any]) -> tuple[Diagnosis, ...]:
    """Diagnose those of the VMs that still exist."""
    rows = retrieve(content, [Objects(vim.VirtualMachine, vms, _VM_PATHS)])
    hosts = {row["runtime.host"] for row in rows.values() if row.get("runtime.host") is not None}
    nets = {net for row in rows.values() for net in row.get("network", ())}
    around = retrieve(
        content,
        [
            Objects(vim.HostSystem, sorted(hosts, key=str), _HOST_PATHS),
            Objects(_PORTGROUP, [n for n in nets if isinstance(n, _PORTGROUP)], ("name", "key")),
            Objects(
                vim.OpaqueNetwork,
                [n for n in nets if isinstance(n, vim.OpaqueNetwork)],
                ("name", "summary"),
            ),
        ],
    )
    networks = dict(_named_by_id(around.values()))
    return tuple(_diagnosis(ref, row, around, networks) for ref, row in rows.items() if row)


def recent_events(content: Any, vm: Any) -> tuple[str, ...]:
    """Return the last few, the oldest first; EventManager.QueryEvents does not sort them."""
    of_vm = vim.event.EventFilterSpec.ByEntity(entity=vm, recursion="self")
    with translated("reading events", vm._moId):
        events = content.eventManager.QueryEvents(vim.event.EventFilterSpec(entity=of_vm)) or ()
    ordered = sorted(events, key=lambda event: (event.createdTime, event.key))
    texts = [(event.fullFormattedMessage or type(event).__name__).strip() for event in ordered]
    return tuple(texts[-_LAST_EVENTS:])


def _named_by_id(rows: Iterable[Row]) -> Iterator[tuple[str, str]]:
    """Yield names of the networks that an adapter refers to by a key or an id."""
    for row in rows:
        key = row.get("key") or getattr(row.get("summary"), "opaqueNetworkId", None)
        if key is not None:
            yield key, row.get("name") or key


def _diagnosis(ref: Any, row: Row, around: dict[Any, Row], networks: dict[str, str]) -> Diagnosis:
    host = around.get(row.get("runtime.host"), {})
    devices, tools = row.get("config.hardware.device", ()), row.get("guest.toolsRunningStatus")
    return Diagnosis(
        moref=ref._moId,
        host=host.get("name", ""),
        host_state=str(host.get("runtime.connectionState", "")),
        powered_on=row.get("runtime.powerState") == "poweredOn",
        question=getattr(row.get("runtime.question"), "text", "") or "",
        tools_running=tools == "guestToolsRunning",
        adapters=tuple(_adapters(devices, networks)),
        addresses=addresses(devices, row.get("guest.net", ()), tools),
    )


def _adapters(devices: Sequence[Any], networks: dict[str, str]) -> Iterator[NetworkAdapter]:
    for device in devices:
        if isinstance(device, vim.vm.device.VirtualEthernetCard):
            label = getattr(device.deviceInfo, "label", None) or "its network adapter"
            connected = bool(device.connectable and device.connectable.connected)
            yield NetworkAdapter(label, connected, _network(device.backing, networks))


def _network(backing: Any, networks: dict[str, str]) -> str:
    port = getattr(backing, "port", None)
    if port is not None:
        return networks.get(port.portgroupKey, "")
    if isinstance(backing, vim.vm.device.VirtualEthernetCard.OpaqueNetworkBackingInfo):
        return networks.get(backing.opaqueNetworkId, "")
    return getattr(backing, "deviceName", None) or ""
