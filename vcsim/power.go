package main

import (
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	poweredOn  = types.VirtualMachinePowerStatePoweredOn
	poweredOff = types.VirtualMachinePowerStatePoweredOff
	suspended  = types.VirtualMachinePowerStateSuspended
)

func (v *vmMethods) PowerOnVMTask(ctx *simulator.Context, req *types.PowerOnVM_Task) soap.HasFault {
	task := v.begin(ctx, "PowerOnVM_Task", "VirtualMachine.powerOn",
		func(op *operation) (types.AnyType, fault) {
			op.started()
			return nil, v.lab.powerOn(op, v.vm, req.Host)
		})
	return &methods.PowerOnVM_TaskBody{Res: &types.PowerOnVM_TaskResponse{Returnval: task}}
}

func (v *vmMethods) PowerOffVMTask(ctx *simulator.Context, _ *types.PowerOffVM_Task) soap.HasFault {
	task := v.begin(ctx, "PowerOffVM_Task", "VirtualMachine.powerOff",
		func(op *operation) (types.AnyType, fault) {
			op.started()
			return nil, v.lab.powerOff(op, v.vm)
		})
	return &methods.PowerOffVM_TaskBody{Res: &types.PowerOffVM_TaskResponse{Returnval: task}}
}

// ResetVMTask keeps the VM's devices, because the VM is not powered off.
func (v *vmMethods) ResetVMTask(ctx *simulator.Context, _ *types.ResetVM_Task) soap.HasFault {
	task := v.begin(ctx, "ResetVM_Task", "VirtualMachine.reset",
		func(op *operation) (types.AnyType, fault) {
			op.started()
			if fault := v.lab.expect(op.ctx, v.vm, poweredOn, poweredOn); fault != nil {
				return nil, fault
			}
			v.lab.restartGuest(op.ctx, v.vm)
			return nil, nil
		})
	return &methods.ResetVM_TaskBody{Res: &types.ResetVM_TaskResponse{Returnval: task}}
}

func (v *vmMethods) ShutdownGuest(ctx *simulator.Context, _ *types.ShutdownGuest) soap.HasFault {
	if fault := v.needsTools(ctx); fault != nil {
		return &methods.ShutdownGuestBody{Fault_: simulator.Fault("", fault)}
	}
	own := v.lab.context(ctx.Session)
	time.AfterFunc(seconds(v.lab.description.Timings.PowerOffS), func() { v.lab.switchOff(own, v.vm) })
	return &methods.ShutdownGuestBody{Res: &types.ShutdownGuestResponse{}}
}

func (v *vmMethods) RebootGuest(ctx *simulator.Context, _ *types.RebootGuest) soap.HasFault {
	if fault := v.needsTools(ctx); fault != nil {
		return &methods.RebootGuestBody{Fault_: simulator.Fault("", fault)}
	}
	v.lab.restartGuest(v.lab.context(ctx.Session), v.vm)
	return &methods.RebootGuestBody{Res: &types.RebootGuestResponse{}}
}

// needsTools returns a fault unless VMware Tools runs in the guest.
func (v *vmMethods) needsTools(ctx *simulator.Context) fault {
	if fault := v.lab.expect(ctx, v.vm, poweredOn, poweredOn); fault != nil {
		return fault
	}
	var running bool
	v.lab.locked(ctx, v.vm.Self, func() { running = v.vm.Guest.ToolsRunningStatus == toolsRunning })
	if !running {
		return &types.ToolsUnavailable{}
	}
	return nil
}

// powerOn checks the VM, takes the configured time and powers it on, also for a clone with powerOn.
func (lab *Lab) powerOn(op *operation, vm *simulator.VirtualMachine, requested *ref) fault {
	var template bool
	lab.locked(op.ctx, vm.Self, func() { template = vm.Config.Template })
	if template {
		return &types.InvalidState{}
	}
	if fault := lab.bootTimers.begin(vm.Self, op.task.Self); fault != nil {
		return fault
	}
	defer lab.bootTimers.end(vm.Self)
	if fault := lab.expectNot(op.ctx, vm, poweredOn); fault != nil {
		return fault
	}
	if fault := lab.admit(op.ctx, vm); fault != nil && !lab.startElsewhere(op.ctx, vm) {
		lab.postPowerOnFailed(op.ctx, vm, fault)
		return fault
	}
	fault := op.work(seconds(lab.description.Timings.PowerOnS), 0, 95)
	if fault == nil {
		fault = lab.checkHost(op.ctx, *vm.Runtime.Host) // it may have disconnected meanwhile
	}
	if fault != nil {
		lab.allocations.release(vm.Self)
		return fault
	}
	lab.switchOn(op.ctx, vm)
	lab.startGuest(op.ctx, vm)
	return nil
}

func (lab *Lab) powerOff(op *operation, vm *simulator.VirtualMachine) fault {
	if fault := lab.expectNot(op.ctx, vm, poweredOff); fault != nil {
		return fault
	}
	if fault := lab.checkReachable(op.ctx, vm); fault != nil {
		return fault
	}
	if fault := op.work(seconds(lab.description.Timings.PowerOffS), 0, 95); fault != nil {
		return fault
	}
	lab.switchOff(op.ctx, vm)
	return nil
}

// switchOn publishes that an admitted VM is powered on, before its guest reports anything.
func (lab *Lab) switchOn(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	now := time.Now()
	lab.changeVM(ctx, vm, func(m *mo.VirtualMachine) {
		m.Runtime.PowerState = poweredOn
		m.Runtime.BootTime = &now
		m.Runtime.CleanPowerOff = types.NewBool(false)
		m.Runtime.MemoryOverhead = overheadMB(m.Config) << 20
		m.Runtime.MaxMemoryUsage = m.Config.Hardware.MemoryMB
		m.Guest = guestOff()
		m.Config.Hardware.Device = lab.assign(vm.Self, connect(m.Config.Hardware.Device, true), true)
	})
	lab.showBindings(ctx, *vm.Runtime.Host)
	lab.showMemory(ctx)
	lab.postPowerEvent(ctx, vm, poweredOn)
}

// switchOff publishes that the VM is powered off, and then releases what it held.
func (lab *Lab) switchOff(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	lab.bootTimers.stop(vm.Self)
	lab.changeVM(ctx, vm, func(m *mo.VirtualMachine) {
		m.Runtime.PowerState = poweredOff
		m.Runtime.BootTime = nil
		m.Runtime.SuspendTime = nil
		m.Runtime.CleanPowerOff = types.NewBool(true)
		m.Runtime.MemoryOverhead = 0
		m.Runtime.MaxMemoryUsage = 0
		m.Guest = guestOff()
		m.GuestHeartbeatStatus = types.ManagedEntityStatusGray
		m.Summary.QuickStats.GuestHeartbeatStatus = types.ManagedEntityStatusGray
		m.Config.Hardware.Device = lab.assign(vm.Self, connect(m.Config.Hardware.Device, false), false)
	})
	lab.allocations.release(vm.Self)
	lab.showBindings(ctx, *vm.Runtime.Host)
	lab.showMemory(ctx)
	lab.postPowerEvent(ctx, vm, poweredOff)
}

func (lab *Lab) powerState(ctx *simulator.Context, vm *simulator.VirtualMachine) types.VirtualMachinePowerState {
	var state types.VirtualMachinePowerState
	lab.locked(ctx, vm.Self, func() { state = vm.Runtime.PowerState })
	return state
}

// expect returns InvalidPowerState unless the VM is in this state; wanted is the state that the
// fault names.
func (lab *Lab) expect(ctx *simulator.Context, vm *simulator.VirtualMachine, state, wanted types.VirtualMachinePowerState) fault {
	if now := lab.powerState(ctx, vm); now != state {
		return &types.InvalidPowerState{RequestedState: wanted, ExistingState: now}
	}
	return nil
}

func (lab *Lab) expectNot(ctx *simulator.Context, vm *simulator.VirtualMachine, state types.VirtualMachinePowerState) fault {
	if lab.powerState(ctx, vm) == state {
		return &types.InvalidPowerState{RequestedState: state, ExistingState: state}
	}
	return nil
}

// checkReachable checks that the VM's host is connected.
func (lab *Lab) checkReachable(ctx *simulator.Context, vm *simulator.VirtualMachine) fault {
	host := lab.registry.Get(*vm.Runtime.Host).(*simulator.HostSystem)
	var state types.HostSystemConnectionState
	lab.locked(ctx, host.Self, func() { state = host.Runtime.ConnectionState })
	if state != types.HostSystemConnectionStateConnected {
		return &types.HostNotConnected{}
	}
	return nil
}

// showMemory publishes the unreserved memory in the resource pool.
func (lab *Lab) showMemory(ctx *simulator.Context) {
	pool := lab.registry.Get(lab.pool).(*simulator.ResourcePool)
	used := lab.allocations.reservedMB() << 20
	lab.locked(ctx, pool.Self, func() {
		memory := pool.Runtime.Memory
		memory.ReservationUsed, memory.ReservationUsedForVm = used, used
		memory.UnreservedForPool, memory.UnreservedForVm = memory.MaxUsage-used, memory.MaxUsage-used
		lab.registry.Update(ctx, pool, []types.PropertyChange{{Name: "runtime.memory", Val: memory}})
	})
}
