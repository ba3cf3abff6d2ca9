"""A clone's network: another one than its template's, and fixed addresses by customization."""

from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from gpuvm.inventory import NIC, Network


@dataclass(frozen=True)
class FixedAddress:
    """IPv4, for the first network card; the others keep DHCP."""

    address: str
    netmask: str
    gateway: str | None
    dns: tuple[str, ...]
    domain: str


def connected(nic: NIC, network: Network, reference: Any) -> Any:
    """The change that puts the template's card on ``network``, everything else about it kept."""
    card = getattr(vim.vm.device, nic.kind)(key=nic.key, backing=_backing(network, reference))
    card.connectable = vim.vm.device.VirtualDevice.ConnectInfo(
        startConnected=True, allowGuestControl=True, connected=False
    )
    return vim.vm.device.VirtualDeviceSpec(operation="edit", device=card)


def customization(hostname: str, wanted: FixedAddress, nics: int) -> Any:
    """One mapping for each card of the VM: vCenter refuses any other number."""
    kinds = vim.vm.customization
    first = kinds.IPSettings(
        ip=kinds.FixedIp(ipAddress=wanted.address),
        subnetMask=wanted.netmask,
        gateway=[wanted.gateway] if wanted.gateway else [],
    )
    others = [kinds.IPSettings(ip=kinds.DhcpIpGenerator()) for _ in range(nics - 1)]
    return kinds.Specification(
        identity=kinds.LinuxPrep(
            hostName=kinds.FixedName(name=hostname), domain=wanted.domain, hwClockUTC=True
        ),
        globalIPSettings=kinds.GlobalIPSettings(
            dnsServerList=list(wanted.dns), dnsSuffixList=[wanted.domain]
        ),
        nicSettingMap=[kinds.AdapterMapping(adapter=one) for one in (first, *others)],
    )


def _backing(network: Network, reference: Any) -> Any:
    """A distributed port group is named by its key and its switch, a standard one by itself."""
    kinds = vim.vm.device.VirtualEthernetCard
    if network.portgroup_key is None:
        named = reference(vim.Network, network.moref)
        return kinds.NetworkBackingInfo(deviceName=network.name, network=named)
    port = vim.dvs.PortConnection(
        portgroupKey=network.portgroup_key, switchUuid=network.switch_uuid
    )
    return kinds.DistributedVirtualPortBackingInfo(port=port)
