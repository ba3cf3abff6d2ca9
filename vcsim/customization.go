package main

import (
	"net"
	"net/netip"
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// customize keeps a specification for the next power-on. Until it has been applied, the VM's
// network cards are disconnected: vCenter clears startConnected, and the agent in the guest
// connects them again.
func (lab *Lab) customize(ctx *simulator.Context, vm *simulator.VirtualMachine, spec *types.CustomizationSpec) {
	lab.guests.customize(vm.Self, spec)
	lab.connectCards(ctx, vm, false)
}

// pendingCustomization returns the customization that the guest applies now. It is nil if there is
// none, or if cloud-init uses guestinfo and never sees it: it then stays pending, and the network
// cards stay disconnected.
func (lab *Lab) pendingCustomization(ctx *simulator.Context, vm *simulator.VirtualMachine) *types.CustomizationSpec {
	swallowed := false
	lab.locked(ctx, vm.Self, func() { swallowed = readsGuestinfo(vm.Config) })
	if swallowed {
		return nil
	}
	return lab.guests.take(vm.Self)
}

// connectCards connects or disconnects all network cards of a VM, now and at power-on.
func (lab *Lab) connectCards(ctx *simulator.Context, vm *simulator.VirtualMachine, on bool) {
	lab.changeVM(ctx, vm, func(m *mo.VirtualMachine) {
		devices := slices.Clone(m.Config.Hardware.Device)
		for i, device := range devices {
			card, ok := device.(types.BaseVirtualEthernetCard)
			if !ok || card.GetVirtualEthernetCard().Connectable == nil {
				continue
			}
			now := *card.GetVirtualEthernetCard().Connectable
			now.Connected, now.StartConnected = on && m.Runtime.PowerState == poweredOn, on
			devices[i] = cloneDevice(device)
			devices[i].GetVirtualDevice().Connectable = &now
		}
		m.Config.Hardware.Device = devices
	})
}

// checkCustomization checks that there is exactly one setting for each network card.
func (lab *Lab) checkCustomization(spec *types.CustomizationSpec, config *types.VirtualMachineConfigInfo) fault {
	if spec == nil {
		return nil
	}
	actual, mapped := len(lab.cards(config)), len(spec.NicSettingMap)
	if actual == mapped {
		return nil
	}
	return &types.NicSettingMismatch{NumberOfNicsInSpec: int32(mapped), NumberOfNicsInVM: int32(actual)}
}

// fixedAddresses returns the addresses in the customization, by the position of the network card.
func fixedAddresses(spec *types.CustomizationSpec) map[int]netip.Prefix {
	fixed := map[int]netip.Prefix{}
	for i, mapping := range spec.NicSettingMap {
		ip, ok := mapping.Adapter.Ip.(*types.CustomizationFixedIp)
		if !ok {
			continue
		}
		address, err := netip.ParseAddr(ip.IpAddress)
		mask := net.ParseIP(mapping.Adapter.SubnetMask)
		if err != nil || mask == nil {
			continue
		}
		bits, _ := net.IPMask(mask.To4()).Size()
		fixed[i] = netip.PrefixFrom(address, bits)
	}
	return fixed
}
