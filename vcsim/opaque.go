package main

import (
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// opaqueNetwork is a network that is not managed by vCenter, such as an NSX segment.
type opaqueNetwork struct {
	self ref
	name string
}

const opaqueType = "nsx.LogicalSwitch"

func (b *builder) addOpaqueNetworks(datacenter *simulator.Datacenter, folder *simulator.Folder) error {
	for _, name := range b.lab.description.Opaque {
		id := stableUUID("opaque network", name)
		summary := types.OpaqueNetworkSummary{OpaqueNetworkId: id, OpaqueNetworkType: opaqueType}
		summary.Name = name
		if err := folder.AddOpaqueNetwork(b.lab.root, summary); err != nil {
			return err
		}
		self := folder.ChildEntity[len(folder.ChildEntity)-1]
		b.lab.registry.Get(self).(*mo.OpaqueNetwork).ManagedEntity.Name = name
		if !slices.Contains(datacenter.Network, self) {
			datacenter.Network = append(datacenter.Network, self)
		}
		b.lab.opaque[id] = opaqueNetwork{self, name}
	}
	return nil
}

// checkBacking checks that a network card names an opaque network by id and type, and any other
// network by name or reference.
func (lab *Lab) checkBacking(device types.BaseVirtualDevice, index int) fault {
	invalid := &types.InvalidDeviceBacking{InvalidDeviceSpec: types.InvalidDeviceSpec{DeviceIndex: int32(index)}}
	switch backing := device.GetVirtualDevice().Backing.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		for _, network := range lab.opaque {
			named := backing.Network != nil && *backing.Network == network.self
			if _, plain := lab.networks[backing.DeviceName]; named || (!plain && backing.DeviceName == network.name) {
				return invalid
			}
		}
	case *types.VirtualEthernetCardOpaqueNetworkBackingInfo:
		if _, known := lab.opaque[backing.OpaqueNetworkId]; !known || backing.OpaqueNetworkType != opaqueType {
			return invalid
		}
	}
	return nil
}

// networkOf returns the name and reference of a card's network, or empty values if it has none.
func (lab *Lab) networkOf(card *types.VirtualEthernetCard) (string, *ref) {
	switch backing := card.Backing.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		return backing.DeviceName, backing.Network
	case *types.VirtualEthernetCardOpaqueNetworkBackingInfo:
		network := lab.opaque[backing.OpaqueNetworkId]
		return network.name, &network.self
	}
	return "", nil
}
