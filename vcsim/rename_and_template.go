package main

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// The simulator can rename VMs and convert them to templates, but does not report it to waiting
// clients.

func (v *vmMethods) RenameTask(ctx *simulator.Context, req *types.Rename_Task) soap.HasFault {
	task := v.begin(ctx, "Rename_Task", "VirtualMachine.rename", func(op *operation) (types.AnyType, fault) {
		op.started()
		if fault := v.lab.checkName(op.ctx, *v.vm.Parent, req.NewName); fault != nil {
			return nil, fault
		}
		v.lab.changeVM(op.ctx, v.vm, func(m *mo.VirtualMachine) { m.Name, m.Config.Name = req.NewName, req.NewName })
		return nil, nil
	})
	return &methods.Rename_TaskBody{Res: &types.Rename_TaskResponse{Returnval: task}}
}

func (v *vmMethods) MarkAsTemplate(ctx *simulator.Context, _ *types.MarkAsTemplate) soap.HasFault {
	if fault := v.canBeMarked(ctx, false); fault != nil {
		return &methods.MarkAsTemplateBody{Fault_: simulator.Fault(describe(fault), fault)}
	}
	v.lab.place(ctx, v.vm, *v.vm.Runtime.Host, nil, true)
	return &methods.MarkAsTemplateBody{Res: &types.MarkAsTemplateResponse{}}
}

func (v *vmMethods) MarkAsVirtualMachine(ctx *simulator.Context, req *types.MarkAsVirtualMachine) soap.HasFault {
	fault := v.canBeMarked(ctx, true)
	host := *v.vm.Runtime.Host
	if req.Host != nil {
		host = *req.Host
	}
	if fault == nil && v.lab.hosts[host] == nil {
		fault = &types.ManagedObjectNotFound{Obj: host}
	}
	if fault != nil {
		return &methods.MarkAsVirtualMachineBody{Fault_: simulator.Fault(describe(fault), fault)}
	}
	v.lab.place(ctx, v.vm, host, &req.Pool, false)
	return &methods.MarkAsVirtualMachineBody{Res: &types.MarkAsVirtualMachineResponse{}}
}

func (v *vmMethods) canBeMarked(ctx *simulator.Context, isTemplate bool) fault {
	var template bool
	v.lab.locked(ctx, v.vm.Self, func() { template = v.vm.Config.Template })
	if template != isTemplate {
		return &types.NotSupported{}
	}
	return v.lab.expect(ctx, v.vm, poweredOff, poweredOff)
}
