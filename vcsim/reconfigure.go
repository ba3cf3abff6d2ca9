package main

import (
	"reflect"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// vmMethods are the methods of a virtual machine that have rules.
type vmMethods struct {
	methodsOf
	vm *simulator.VirtualMachine
}

// ReconfigVMTask applies the whole spec or nothing.
func (v *vmMethods) ReconfigVMTask(ctx *simulator.Context, req *types.ReconfigVM_Task) soap.HasFault {
	task := v.begin(ctx, "ReconfigVM_Task", "VirtualMachine.reconfigure",
		func(op *operation) (types.AnyType, fault) {
			op.started()
			if fault := op.work(seconds(v.lab.description.Timings.ReconfigureS), 0, 95); fault != nil {
				return nil, fault
			}
			return nil, v.lab.reconfigure(op.ctx, v.vm, &req.Spec)
		})
	return &methods.ReconfigVM_TaskBody{Res: &types.ReconfigVM_TaskResponse{Returnval: task}}
}

func (lab *Lab) reconfigure(ctx *simulator.Context, vm *simulator.VirtualMachine, spec *types.VirtualMachineConfigSpec) fault {
	if fault := lab.checkReachable(ctx, vm); fault != nil {
		return fault
	}
	if name := spec.Name; name != "" && name != lab.nameOf(vm.Self) {
		if fault := lab.checkName(ctx, *vm.Parent, name); fault != nil {
			return fault
		}
	}
	var result fault
	lab.changeVM(ctx, vm, func(m *mo.VirtualMachine) {
		if result = checkReconfigure(m, spec); result != nil {
			return
		}
		if result = lab.checkPolicies(m, spec); result != nil {
			return
		}
		before := copyVM(m)
		if result = lab.applySpec(m, spec); result != nil {
			*m = before
			return
		}
		if m.Runtime.PowerState == poweredOn {
			m.Config.Hardware.Device = connect(m.Config.Hardware.Device, true)
		}
	})
	if result == nil {
		lab.policies.apply(vm.Self, spec.VmProfile, spec.DeviceChange)
		lab.post(ctx, &types.VmReconfiguredEvent{VmEvent: lab.vmEvent(ctx, vm), ConfigSpec: *spec})
	}
	return result
}

// onlyNamed reports whether the spec changes only the name and the annotation, as a template
// allows.
func onlyNamed(spec types.VirtualMachineConfigSpec) bool {
	spec.Name, spec.Annotation, spec.ChangeVersion = "", "", ""
	return reflect.DeepEqual(spec, types.VirtualMachineConfigSpec{})
}

// checkReconfigure refuses changes that a template, or a running VM, does not allow.
func checkReconfigure(vm *mo.VirtualMachine, spec *types.VirtualMachineConfigSpec) fault {
	if vm.Config.Template && !onlyNamed(*spec) {
		return &types.NotSupported{}
	}
	if vm.Runtime.PowerState == poweredOff {
		return nil
	}
	for _, change := range spec.DeviceChange {
		if device, ok := change.GetVirtualDeviceConfigSpec().Device.(*types.VirtualPCIPassthrough); ok {
			_ = device // R8: PCI devices are not hot-plugged
			return &types.InvalidPowerState{RequestedState: poweredOff, ExistingState: vm.Runtime.PowerState}
		}
	}
	cpus := spec.NumCPUs != 0 && spec.NumCPUs != vm.Config.Hardware.NumCPU && !isTrue(vm.Config.CpuHotAddEnabled)
	memory := spec.MemoryMB != 0 && int32(spec.MemoryMB) != vm.Config.Hardware.MemoryMB && !isTrue(vm.Config.MemoryHotAddEnabled)
	cold := spec.Firmware != "" || spec.CpuHotAddEnabled != nil || spec.MemoryHotAddEnabled != nil || spec.Version != ""
	if cpus || memory || cold {
		return &types.InvalidPowerState{RequestedState: poweredOff, ExistingState: vm.Runtime.PowerState}
	}
	return nil
}

// DestroyTask removes the VM from the inventory and releases its resources.
func (v *vmMethods) DestroyTask(ctx *simulator.Context, _ *types.Destroy_Task) soap.HasFault {
	task := v.begin(ctx, "Destroy_Task", "VirtualMachine.destroy",
		func(op *operation) (types.AnyType, fault) {
			op.started()
			if fault := v.lab.checkRemovable(op.ctx, v.vm); fault != nil {
				return nil, fault
			}
			if fault := op.work(seconds(v.lab.description.Timings.DestroyS), 0, 95); fault != nil {
				return nil, fault
			}
			return nil, v.lab.remove(op.ctx, v.vm, op.task.Self, true)
		})
	return &methods.Destroy_TaskBody{Res: &types.Destroy_TaskResponse{Returnval: task}}
}

// UnregisterVM waits for its task, because clients of vCenter see a task too.
func (v *vmMethods) UnregisterVM(ctx *simulator.Context, _ *types.UnregisterVM) soap.HasFault {
	body := &methods.UnregisterVMBody{}
	ended := make(chan fault, 1)
	v.begin(ctx, "UnregisterVM", "VirtualMachine.unregister", func(op *operation) (types.AnyType, fault) {
		op.started()
		fault := v.lab.checkRemovable(op.ctx, v.vm)
		if fault == nil {
			fault = v.lab.remove(op.ctx, v.vm, op.task.Self, false)
		}
		ended <- fault
		return nil, fault
	})
	if fault := <-ended; fault != nil {
		body.Fault_ = simulator.Fault(describe(fault), fault)
		return body
	}
	body.Res = &types.UnregisterVMResponse{}
	return body
}

func (lab *Lab) checkRemovable(ctx *simulator.Context, vm *simulator.VirtualMachine) fault {
	if lab.registry.Get(vm.Self) == nil {
		return &types.ManagedObjectNotFound{Obj: vm.Self}
	}
	if state := lab.powerState(ctx, vm); state == poweredOn {
		return &types.InvalidPowerState{RequestedState: poweredOff, ExistingState: state}
	}
	return lab.checkReachable(ctx, vm)
}

// remove removes the VM from the inventory. Of two concurrent calls the later one fails.
func (lab *Lab) remove(ctx *simulator.Context, vm *simulator.VirtualMachine, task ref, files bool) fault {
	if fault := lab.bootTimers.begin(vm.Self, task); fault != nil {
		return fault
	}
	defer lab.bootTimers.end(vm.Self)
	if fault := lab.checkRemovable(ctx, vm); fault != nil {
		return fault
	}
	event := lab.vmEvent(ctx, vm)
	lab.unregister(ctx, vm)
	lab.post(ctx, &types.VmRemovedEvent{VmEvent: event})
	lab.allocations.release(vm.Self)
	lab.addresses.forget(vm.Self)
	lab.policies.forget(vm.Self)
	lab.guests.forget(vm.Self, event.Vm.Name)
	if files {
		lab.deleted.add(vm.Config)
		lab.names.forgetFolder(vm.Config.Files.VmPathName)
		lab.releaseSpace(ctx, vm.Datastore[0], lab.ownDiskBytes(vm.Config))
		lab.thin.forget(vm.Config)
	} else {
		lab.unregistered.keep(vm.Config)
	}
	return nil
}

// CustomizeVMTask keeps a customization for the next power-on.
func (v *vmMethods) CustomizeVMTask(ctx *simulator.Context, req *types.CustomizeVM_Task) soap.HasFault {
	task := v.begin(ctx, "CustomizeVM_Task", "VirtualMachine.customize",
		func(op *operation) (types.AnyType, fault) {
			op.started()
			if fault := v.lab.expect(op.ctx, v.vm, poweredOff, poweredOff); fault != nil {
				return nil, fault
			}
			v.lab.customize(op.ctx, v.vm, &req.Spec)
			return nil, nil
		})
	return &methods.CustomizeVM_TaskBody{Res: &types.CustomizeVM_TaskResponse{Returnval: task}}
}
