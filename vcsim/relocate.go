package main

import (
	"slices"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// relocate moves a VM to another host or pool of the cluster. Its datastore is mounted there too,
// so nothing is copied. A fixed device stays in the configuration and is no longer valid. A running
// VM must be admitted there: its memory and its vGPUs must fit.
func (lab *Lab) relocate(op *operation, vm *simulator.VirtualMachine, host, pool *ref) fault {
	ctx := op.ctx
	if host == nil {
		host = vm.Runtime.Host
	}
	if *host != *vm.Runtime.Host && lab.powerState(ctx, vm) == poweredOn && lab.pinned(ctx, vm) {
		return passthroughForbids("vMotion")
	}
	if lab.hosts[*host] == nil {
		return &types.ManagedObjectNotFound{Obj: *host}
	}
	if fault := lab.checkHost(ctx, *host); fault != nil {
		return fault
	}
	var template bool
	lab.locked(ctx, vm.Self, func() {
		if template = vm.Config.Template; pool == nil {
			pool = vm.ResourcePool
		}
	})
	if template {
		pool = nil
	}
	if *host == *vm.Runtime.Host || lab.powerState(ctx, vm) != poweredOn {
		lab.place(ctx, vm, *host, pool, template)
		return nil
	}
	return lab.migrate(ctx, vm, *host, pool)
}

// migrate moves a running VM with its allocations. If the VM is not admitted, nothing changes.
func (lab *Lab) migrate(ctx *simulator.Context, vm *simulator.VirtualMachine, host ref, pool *ref) fault {
	from := *vm.Runtime.Host
	if fault := lab.admitOn(ctx, vm, host); fault != nil {
		return fault
	}
	lab.place(ctx, vm, host, pool, false)
	lab.showBindings(ctx, from)
	lab.showBindings(ctx, host)
	return nil
}

// place puts a VM under another host and pool, or under none as a template.
func (lab *Lab) place(ctx *simulator.Context, vm *simulator.VirtualMachine, host ref, pool *ref, template bool) {
	without := func(list []ref) []ref {
		return slices.DeleteFunc(slices.Clone(list), func(r ref) bool { return r == vm.Self })
	}
	with := func(list []ref) []ref { return append(without(list), vm.Self) }
	lab.editOwners(ctx, vm, without)
	lab.changeVM(ctx, vm, func(m *mo.VirtualMachine) {
		m.Runtime.Host = &host
		m.ResourcePool = pool
		m.Config.Template = template
	})
	lab.editOwners(ctx, vm, with)
	lab.allocations.move(vm.Self, host)
}

// showSuspended marks a VM that was switched off as suspended.
func (lab *Lab) showSuspended(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	now := time.Now()
	lab.changeVM(ctx, vm, func(m *mo.VirtualMachine) {
		m.Runtime.PowerState = suspended
		m.Runtime.SuspendTime = &now
	})
}
