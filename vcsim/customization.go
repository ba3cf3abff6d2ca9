package main

import (
	"net"
	"net/netip"
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// customize keeps a specification for the next power-on. Until it has been applied the VM's network
// cards are off: vCenter clears startConnected, and the guest's own agent switches them on again.
func (lab *Lab) customize(ctx *simulator.Context, vm *simulator.VirtualMachine, spec *types.CustomizationSpec) {
	lab.guests.customize(vm.Self, spec)
	lab.connectCards(ctx, vm, false)
}

// pendingCustomization is what the guest applies now; nil where there is none, or where cloud-init has
// guestinfo and so never sees it: then it stays pending, and the cards stay off.
func (lab *Lab) pendingCustomization(ctx *simulator.Context, vm *simulator.VirtualMachine) *types.CustomizationSpec {
	swallowed := false
	lab.locked(ctx, vm.Self, func() { swallowed = readsGuestinfo(vm.Config) })
	if swallowed {
		return nil
	}
	return lab.guests.take(vm.Self)
}

// connectCards switches all of a VM's network cards, at power-on and now.
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

// checkCustomization: one setting for each network card, no more and no fewer.
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

// fixedAddresses are those that the customization gives, by the position of the card.
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
