package main

import (
	"github.com/vmware/govmomi/simulator"
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
