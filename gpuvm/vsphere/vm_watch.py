"""Watches every VM of a vCenter and writes guestinfo, as VMware Tools and ESXi do: for the lab."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyVmomi import vim, vmodl

from gpuvm.devices import Device
from gpuvm.inventory import MoRef
from gpuvm.vsphere.faults import translated
from gpuvm.vsphere.properties import extra_config, property_spec
from gpuvm.vsphere.virtual_machines import devices_of, ip_address

LONGEST_WAIT_S = 4
_PATHS = (
    "name",
    "config.instanceUuid",
    "config.template",
    "runtime.powerState",
    "config.hardware.device",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "config.extraConfig",
    "guest.net",
)


@dataclass(frozen=True)
class WatchedVM:
    """A VM as it was last reported; ``gone`` when it was destroyed or unregistered."""

    moref: MoRef
    name: str
    instance_uuid: str
    is_template: bool
    powered_on: bool
    gpus: tuple[Device, ...]
    addresses: tuple[str, ...]
    macs: tuple[str, ...]
    extra_config: dict[str, str] = field(hash=False)
    memory_gib: float
    cpus: int
    gone: bool = False


class VMWatch:
    def __init__(self, content: Any, reference: Callable[[Any, MoRef], Any]) -> None:
        self._content, self._reference = content, reference

    def updates(self) -> Iterator[list[WatchedVM]]:
        """Yield changed VMs, all of them at first, and an empty list at least every 5 s."""
        content = self._content
        with translated("watching", "the vCenter"):
            view = content.viewManager.CreateContainerView(
                container=content.rootFolder, type=[vim.VirtualMachine], recursive=True
            )
            collector = content.propertyCollector.CreatePropertyCollector()
            collector.CreateFilter(
                spec=_spec(view, content.propertyCollector._stub.version), partialUpdates=False
            )
        rows: dict[Any, dict[str, Any]] = {}
        version, first = "", True
        while True:
            update = _wait(collector, version)
            version = update.version if update else version
            changed = list(_changed(update, rows))
            if first and update is not None and update.truncated:
                continue  # the first list is complete, however many pages it takes
            yield [_vm_from_row(ref, row) for ref, row in rows.items()] if first else changed
            first = False

    def publish_guestinfo(self, moref: MoRef, values: Mapping[str, str]) -> None:
        """Set ``guestinfo.*`` keys of a running VM, as its guest does through VMware Tools."""
        options = [vim.option.OptionValue(key=key, value=value) for key, value in values.items()]
        vm = self._reference(vim.VirtualMachine, moref)
        with translated("publishing guestinfo", moref):
            vm.ReconfigVM_Task(spec=vim.vm.ConfigSpec(extraConfig=options))


def _spec(view: Any, version: str) -> Any:
    query = vmodl.query.PropertyCollector
    walk = query.TraversalSpec(name="view", type=type(view), path="view", skip=False)
    return query.FilterSpec(
        objectSet=[query.ObjectSpec(obj=view, skip=True, selectSet=[walk])],
        propSet=[property_spec(vim.VirtualMachine, _PATHS, version)],
    )


def _wait(collector: Any, version: str) -> Any:
    options = vmodl.query.PropertyCollector.WaitOptions(maxWaitSeconds=LONGEST_WAIT_S)
    with translated("watching", "the vCenter"):
        return collector.WaitForUpdatesEx(version=version, options=options)


def _changed(update: Any, rows: dict[Any, dict[str, Any]]) -> Iterator[WatchedVM]:
    for one in update.filterSet if update else ():
        for found in one.objectSet or ():
            row = rows.setdefault(found.obj, {})
            for change in found.changeSet or ():
                row[change.name] = change.val
            gone = found.kind == "leave"
            if gone:
                del rows[found.obj]
            yield _vm_from_row(found.obj, row, gone=gone)


def _vm_from_row(ref: Any, row: dict[str, Any], *, gone: bool = False) -> WatchedVM:
    devices = row.get("config.hardware.device") or ()
    nics = [d for d in devices if isinstance(d, vim.vm.device.VirtualEthernetCard)]
    return WatchedVM(
        moref=ref._moId,
        name=row.get("name") or "",
        instance_uuid=row.get("config.instanceUuid") or "",
        is_template=bool(row.get("config.template")),
        powered_on=str(row.get("runtime.powerState")) == "poweredOn",
        gpus=devices_of(devices),
        addresses=tuple(_addresses(row.get("guest.net") or ())),
        macs=tuple(nic.macAddress for nic in nics if nic.macAddress),
        extra_config=extra_config({k: v for k, v in row.items() if v is not None}),
        memory_gib=(row.get("config.hardware.memoryMB") or 0) / 1024,
        cpus=row.get("config.hardware.numCPU") or 0,
        gone=gone,
    )


def _addresses(nets: Any) -> Iterator[str]:
    """Yield the addresses that are valid outside the guest's own link."""
    for net in nets:
        for entry in net.ipConfig.ipAddress if net.ipConfig else ():
            address = ip_address(entry.ipAddress)
            if address is not None and not address.is_link_local:
                yield entry.ipAddress
