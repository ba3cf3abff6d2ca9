package main

import (
	"slices"
	"testing"

	"github.com/vmware/govmomi/vim25/types"
)

// A network card is connected to an opaque network by the network's id and type; other backings are
// refused.
func TestOpaqueNetworksAreNamedByIDAndType(t *testing.T) {
	r := newRig(t, func(d *Description) { d.Opaque = []string{"segment"} })
	id := stableUUID("opaque network", "segment")
	self := r.lab.opaque[id].self
	right := &types.VirtualEthernetCardOpaqueNetworkBackingInfo{OpaqueNetworkId: id, OpaqueNetworkType: opaqueType}
	byName := &types.VirtualEthernetCardNetworkBackingInfo{}
	byName.DeviceName = "segment"
	byReference := &types.VirtualEthernetCardNetworkBackingInfo{Network: &self}
	byReference.DeviceName = r.lab.description.Networks[0]
	for what, backing := range map[string]types.BaseVirtualDeviceBackingInfo{
		"by name":      byName,
		"by reference": byReference,
		"unknown id":   &types.VirtualEthernetCardOpaqueNetworkBackingInfo{OpaqueNetworkId: "x", OpaqueNetworkType: opaqueType},
		"unknown type": &types.VirtualEthernetCardOpaqueNetworkBackingInfo{OpaqueNetworkId: id, OpaqueNetworkType: "x"},
	} {
		task := r.startClone("refused", r.onNetwork(backing))
		if refused, ok := r.fails(task, nil).(*types.InvalidDeviceBacking); !ok {
			t.Errorf("%s: %#v", what, refused)
		}
	}
	vm := r.clone("accepted", r.onNetwork(right))
	if m := r.readVM(vm, "network"); !slices.Equal(m.Network, []ref{self}) {
		t.Errorf("%+v", m.Network)
	}
}

// onNetwork is a plain clone whose card gets this backing.
func (r *rig) onNetwork(backing types.BaseVirtualDeviceBackingInfo) types.VirtualMachineCloneSpec {
	spec := r.plainSpec("esx-01")
	card := &types.VirtualVmxnet3{}
	card.Key, card.Backing = 4000, backing
	edit := &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: card}
	if spec.Config == nil {
		spec.Config = &types.VirtualMachineConfigSpec{}
	}
	spec.Config.DeviceChange = append(spec.Config.DeviceChange, edit)
	return spec
}
