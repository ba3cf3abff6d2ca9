package main

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// poolMethods are the methods of a resource pool that the simulator does not have.
type poolMethods struct{ methodsOf }

// MoveIntoResourcePool moves a VM to another pool on the same host, even if it holds devices there.
func (p *poolMethods) MoveIntoResourcePool(ctx *simulator.Context, req *types.MoveIntoResourcePool) soap.HasFault {
	var vms []*simulator.VirtualMachine
	for _, r := range req.List {
		vm, ok := p.lab.registry.Get(r).(*simulator.VirtualMachine)
		if !ok {
			return refusedMove(&types.ManagedObjectNotFound{Obj: r}) // moving pools is not simulated
		}
		if isTemplate(p.lab, ctx, vm) {
			return refusedMove(&types.NotSupported{})
		}
		vms = append(vms, vm)
	}
	for _, vm := range vms {
		p.lab.place(ctx, vm, *vm.Runtime.Host, &p.self, false)
	}
	return &methods.MoveIntoResourcePoolBody{Res: &types.MoveIntoResourcePoolResponse{}}
}

func refusedMove(f fault) soap.HasFault {
	return &methods.MoveIntoResourcePoolBody{Fault_: simulator.Fault(describe(f), f)}
}

func isTemplate(lab *Lab, ctx *simulator.Context, vm *simulator.VirtualMachine) bool {
	var template bool
	lab.locked(ctx, vm.Self, func() { template = vm.Config.Template })
	return template
}
