package main

import (
	"github.com/vmware/govmomi/simulator"
)

// startElsewhere is DRS's initial placement: if a VM's own host has not enough memory or no free
// GPU for it, it is started on the first host that has. A VM with a fixed device stays on its host.
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
