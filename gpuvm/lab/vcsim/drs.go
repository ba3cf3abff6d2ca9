package main

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// startElsewhere is DRS's initial placement: a VM whose own host has no room or no card for it is
// started on the first host that has. A fixed device ties a VM to its host.
func (lab *Lab) startElsewhere(ctx *simulator.Context, vm *simulator.VirtualMachine) bool {
	var home ref
	var pool *ref
	var fixed bool
	lab.locked(ctx, vm.Self, func() {
		home, pool, fixed = *vm.Runtime.Host, vm.ResourcePool, len(fixedDevices(vm.Config)) > 0
	})
	if !lab.description.DRS || fixed {
		return false
	}
	for _, host := range lab.hostRefs {
		if host == home {
			continue
		}
		lab.place(ctx, vm, host, pool, false)
		if lab.admit(ctx, vm) == nil {
			return true
		}
	}
	lab.place(ctx, vm, home, pool, false)
	return false
}

// checkCustomization: one setting for each network card, no more and no fewer.
func checkCustomization(spec *types.CustomizationSpec, config *types.VirtualMachineConfigInfo) fault {
	if spec == nil {
		return nil
	}
	actual, mapped := len(cards(config)), len(spec.NicSettingMap)
	if actual == mapped {
		return nil
	}
	return &types.NicSettingMismatch{NumberOfNicsInSpec: int32(mapped), NumberOfNicsInVM: int32(actual)}
}

// fixedAddresses are those that the customization gives, by the position of the card.
func fixedAddresses(spec *types.CustomizationSpec) map[int]string {
	fixed := map[int]string{}
	if spec == nil {
		return fixed
	}
	for i, mapping := range spec.NicSettingMap {
		if ip, ok := mapping.Adapter.Ip.(*types.CustomizationFixedIp); ok {
			fixed[i] = ip.IpAddress
		}
	}
	return fixed
}
