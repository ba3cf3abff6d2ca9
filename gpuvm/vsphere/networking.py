"""A clone's network: another one than its template's."""

from typing import Any

from pyVmomi import vim

from gpuvm.inventory import NIC, Network


def connected(nic: NIC, network: Network, reference: Any) -> Any:
    """The change that puts the template's card on ``network``, everything else about it kept."""
    card = getattr(vim.vm.device, nic.kind)(key=nic.key, backing=_backing(network, reference))
    card.connectable = vim.vm.device.VirtualDevice.ConnectInfo(
        startConnected=True, allowGuestControl=True, connected=False
    )
    return vim.vm.device.VirtualDeviceSpec(operation="edit", device=card)


def _backing(network: Network, reference: Any) -> Any:
    """By what vCenter knows each kind of network; it refuses any other backing.

    A distributed port group is named by its key and its switch, an opaque network by its id and
    its type, a standard network by itself.
    """
    kinds = vim.vm.device.VirtualEthernetCard
    if network.opaque_id is not None:
        return kinds.OpaqueNetworkBackingInfo(
            opaqueNetworkId=network.opaque_id, opaqueNetworkType=network.opaque_type
        )
    if network.portgroup_key is None:
        named = reference(vim.Network, network.moref)
        return kinds.NetworkBackingInfo(deviceName=network.name, network=named)
    port = vim.dvs.PortConnection(
        portgroupKey=network.portgroup_key, switchUuid=network.switch_uuid
    )
    return kinds.DistributedVirtualPortBackingInfo(port=port)
