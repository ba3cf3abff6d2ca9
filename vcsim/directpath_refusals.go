package main

import (
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// What DirectPath I/O does not allow (R8): suspend, snapshots with memory, vMotion. A VM with vGPUs
// only can be suspended and moved like any other; vCenter reports this in sharedGpuCapabilities.

func (v *vmMethods) SuspendVMTask(ctx *simulator.Context, _ *types.SuspendVM_Task) soap.HasFault {
	task := v.begin(ctx, "SuspendVM_Task", "VirtualMachine.suspend",
		func(op *operation) (types.AnyType, fault) {
			op.started()
			return nil, v.suspend(op.ctx)
		})
	return &methods.SuspendVM_TaskBody{Res: &types.SuspendVM_TaskResponse{Returnval: task}}
}

func (v *vmMethods) StandbyGuest(ctx *simulator.Context, _ *types.StandbyGuest) soap.HasFault {
	fault := v.needsTools(ctx)
	if fault == nil {
		fault = v.suspend(v.lab.context(ctx.Session))
	}
	if fault != nil {
		return &methods.StandbyGuestBody{Fault_: simulator.Fault(describe(fault), fault)}
	}
	return &methods.StandbyGuestBody{Res: &types.StandbyGuestResponse{}}
}

func (v *vmMethods) suspend(ctx *simulator.Context) fault {
	if fault := v.lab.expect(ctx, v.vm, poweredOn, poweredOn); fault != nil {
		return fault
	}
	if v.lab.pinned(ctx, v.vm) {
		return passthroughForbids("suspend")
	}
	v.lab.switchOff(ctx, v.vm)
	v.lab.showSuspended(ctx, v.vm)
	return nil
}

func (v *vmMethods) CreateSnapshotTask(ctx *simulator.Context, req *types.CreateSnapshot_Task) soap.HasFault {
	if v.isTemplate(ctx) {
		f := &types.NotSupported{}
		return &methods.CreateSnapshot_TaskBody{Fault_: simulator.Fault(describe(f), f)}
	}
	if req.Memory && v.runsWithDevice(ctx) {
		task := v.refuse(ctx, "CreateSnapshot_Task", "VirtualMachine.createSnapshot", "snapshot with memory")
		return &methods.CreateSnapshot_TaskBody{Res: &types.CreateSnapshot_TaskResponse{Returnval: task}}
	}
	return v.vm.CreateSnapshotTask(ctx, req)
}

// isTemplate reports whether the VM is a template, which must be converted to a VM before a
// snapshot can be taken.
func (v *vmMethods) isTemplate(ctx *simulator.Context) bool {
	var template bool
	v.lab.locked(ctx, v.vm.Self, func() { template = v.vm.Config.Template })
	return template
}

func (v *vmMethods) CreateSnapshotExTask(ctx *simulator.Context, req *types.CreateSnapshotEx_Task) soap.HasFault {
	if req.Memory && v.runsWithDevice(ctx) {
		task := v.refuse(ctx, "CreateSnapshotEx_Task", "VirtualMachine.createSnapshot", "snapshot with memory")
		return &methods.CreateSnapshotEx_TaskBody{Res: &types.CreateSnapshotEx_TaskResponse{Returnval: task}}
	}
	return v.vm.CreateSnapshotExTask(ctx, req)
}

// RelocateVMTask refuses to move a running VM with a whole GPU.
func (v *vmMethods) RelocateVMTask(ctx *simulator.Context, req *types.RelocateVM_Task) soap.HasFault {
	task := v.begin(ctx, "RelocateVM_Task", "VirtualMachine.relocate",
		func(op *operation) (types.AnyType, fault) {
			op.started()
			return nil, v.lab.relocate(op, v.vm, req.Spec.Host, req.Spec.Pool)
		})
	return &methods.RelocateVM_TaskBody{Res: &types.RelocateVM_TaskResponse{Returnval: task}}
}

func (v *vmMethods) MigrateVMTask(ctx *simulator.Context, req *types.MigrateVM_Task) soap.HasFault {
	task := v.begin(ctx, "MigrateVM_Task", "VirtualMachine.migrate",
		func(op *operation) (types.AnyType, fault) {
			op.started()
			return nil, v.lab.relocate(op, v.vm, req.Host, req.Pool)
		})
	return &methods.MigrateVM_TaskBody{Res: &types.MigrateVM_TaskResponse{Returnval: task}}
}

func (v *vmMethods) refuse(ctx *simulator.Context, name, description, what string) ref {
	return v.begin(ctx, name, description, func(op *operation) (types.AnyType, fault) {
		op.started()
		return nil, passthroughForbids(what)
	})
}

func (v *vmMethods) runsWithDevice(ctx *simulator.Context) bool {
	return v.lab.powerState(ctx, v.vm) == poweredOn && v.lab.hasPCIDevice(ctx, v.vm)
}

// pinned reports whether the VM has a whole GPU, fixed or dynamic, whose state cannot be saved.
func (lab *Lab) pinned(ctx *simulator.Context, vm *simulator.VirtualMachine) bool {
	var pinned bool
	lab.locked(ctx, vm.Self, func() {
		pinned = slices.ContainsFunc(passthroughDevices(vm.Config), func(d *types.VirtualPCIPassthrough) bool {
			_, shared := d.Backing.(*types.VirtualPCIPassthroughVmiopBackingInfo)
			return !shared
		})
	})
	return pinned
}

// hasPCIDevice reports whether the VM has a passthrough device of any kind, including vGPUs.
func (lab *Lab) hasPCIDevice(ctx *simulator.Context, vm *simulator.VirtualMachine) bool {
	var has bool
	lab.locked(ctx, vm.Self, func() { has = len(passthroughDevices(vm.Config)) > 0 })
	return has
}

func passthroughForbids(what string) fault {
	f := &types.GenericVmConfigFault{Reason: "The virtual machine has a PCI passthrough device: " + what + " is not possible."}
	f.FaultMessage = []types.LocalizableMessage{message("msg.pciPassthru.notAllowed", f.Reason)}
	return f
}
