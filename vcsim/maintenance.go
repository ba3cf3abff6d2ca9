package main

import (
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// hostMethods are a host's maintenance and reboot (R4).
type hostMethods struct {
	methodsOf
	host *simulator.HostSystem
}

// EnterMaintenanceModeTask waits until no VM runs on the host. Where DRS is fully automated it
// moves the VMs that can be moved, once. The others have to be powered off or moved by a client.
func (h *hostMethods) EnterMaintenanceModeTask(ctx *simulator.Context, req *types.EnterMaintenanceMode_Task) soap.HasFault {
	task := h.begin(ctx, "EnterMaintenanceMode_Task", "HostSystem.enterMaintenanceMode",
		func(op *operation) (types.AnyType, fault) {
			op.started()
			if fault := h.lab.checkHost(op.ctx, h.host.Self); fault != nil {
				return nil, fault
			}
			h.lab.evacuate(op.ctx, h.host.Self)
			if fault := h.waitEmpty(op, time.Duration(req.Timeout)*time.Second); fault != nil {
				return nil, fault
			}
			h.lab.changeHost(op.ctx, h.host, func(m *mo.HostSystem) { m.Runtime.InMaintenanceMode = true })
			return nil, nil
		})
	return &methods.EnterMaintenanceMode_TaskBody{Res: &types.EnterMaintenanceMode_TaskResponse{Returnval: task}}
}

func (h *hostMethods) waitEmpty(op *operation, timeout time.Duration) fault {
	const interval = 50 * time.Millisecond
	for begun := time.Now(); len(h.lab.allocations.holdings(h.host.Self)) > 0; {
		if timeout > 0 && time.Since(begun) > timeout {
			return &types.Timedout{}
		}
		if fault := op.pause(interval); fault != nil {
			return fault
		}
	}
	return nil
}

func (h *hostMethods) ExitMaintenanceModeTask(ctx *simulator.Context, _ *types.ExitMaintenanceMode_Task) soap.HasFault {
	task := h.begin(ctx, "ExitMaintenanceMode_Task", "HostSystem.exitMaintenanceMode",
		func(op *operation) (types.AnyType, fault) {
			op.started()
			if !h.lab.inMaintenance(op.ctx, h.host) {
				return nil, &types.InvalidState{}
			}
			h.lab.changeHost(op.ctx, h.host, func(m *mo.HostSystem) { m.Runtime.InMaintenanceMode = false })
			h.lab.restartAgents(op.ctx, h.host)
			return nil, nil
		})
	return &methods.ExitMaintenanceMode_TaskBody{Res: &types.ExitMaintenanceMode_TaskResponse{Returnval: task}}
}

// RebootHostTask ends when the reboot has started, as in vCenter. The host is disconnected for
// reboot_s.
func (h *hostMethods) RebootHostTask(ctx *simulator.Context, req *types.RebootHost_Task) soap.HasFault {
	task := h.begin(ctx, "RebootHost_Task", "HostSystem.reboot",
		func(op *operation) (types.AnyType, fault) {
			op.started()
			if fault := h.lab.checkReachableHost(op.ctx, h.host); fault != nil {
				return nil, fault
			}
			if h.lab.hosts[h.host.Self].noReboot {
				return nil, &types.NotSupported{}
			}
			if !req.Force && !h.lab.inMaintenance(op.ctx, h.host) {
				return nil, &types.InvalidState{}
			}
			h.lab.rebootHost(op.ctx, h.host)
			return nil, nil
		})
	return &methods.RebootHost_TaskBody{Res: &types.RebootHost_TaskResponse{Returnval: task}}
}

func (h *hostMethods) DisconnectHostTask(ctx *simulator.Context, _ *types.DisconnectHost_Task) soap.HasFault {
	task := h.begin(ctx, "DisconnectHost_Task", "HostSystem.disconnect",
		func(op *operation) (types.AnyType, fault) {
			op.started()
			h.lab.connectHost(op.ctx, h.host, false)
			return nil, nil
		})
	return &methods.DisconnectHost_TaskBody{Res: &types.DisconnectHost_TaskResponse{Returnval: task}}
}

func (h *hostMethods) ReconnectHostTask(ctx *simulator.Context, _ *types.ReconnectHost_Task) soap.HasFault {
	task := h.begin(ctx, "ReconnectHost_Task", "HostSystem.reconnect",
		func(op *operation) (types.AnyType, fault) {
			op.started()
			h.lab.connectHost(op.ctx, h.host, true)
			return nil, nil
		})
	return &methods.ReconnectHost_TaskBody{Res: &types.ReconnectHost_TaskResponse{Returnval: task}}
}

func (lab *Lab) inMaintenance(ctx *simulator.Context, host *simulator.HostSystem) bool {
	var in bool
	lab.locked(ctx, host.Self, func() { in = host.Runtime.InMaintenanceMode })
	return in
}

func (lab *Lab) checkReachableHost(ctx *simulator.Context, host *simulator.HostSystem) fault {
	var state types.HostSystemConnectionState
	lab.locked(ctx, host.Self, func() { state = host.Runtime.ConnectionState })
	if state != types.HostSystemConnectionStateConnected {
		return &types.HostNotConnected{}
	}
	return nil
}

// rebootHost disconnects the host, powers off its VMs, and connects it again with every passthrough
// setting active.
func (lab *Lab) rebootHost(ctx *simulator.Context, host *simulator.HostSystem) {
	lab.powerOffHost(ctx, host, types.HostSystemConnectionStateNotResponding)
	own := lab.context(ctx.Session)
	time.AfterFunc(seconds(lab.description.Timings.RebootS), func() {
		lab.activatePassthru(own, host)
		lab.connectHost(own, host, true)
		lab.restartAgents(own, host)
	})
}

// powerOffHost powers off the host and the VMs that ran on it.
func (lab *Lab) powerOffHost(ctx *simulator.Context, host *simulator.HostSystem, state types.HostSystemConnectionState) {
	for _, holding := range lab.allocations.holdings(host.Self) {
		if vm, ok := lab.registry.Get(holding.vm).(*simulator.VirtualMachine); ok {
			lab.switchOff(ctx, vm)
		}
	}
	lab.changeHost(ctx, host, func(m *mo.HostSystem) {
		m.Runtime.ConnectionState = state
		m.Runtime.PowerState = types.HostSystemPowerStatePoweredOff
		if state == types.HostSystemConnectionStateNotResponding {
			m.Runtime.PowerState = types.HostSystemPowerStateUnknown
		}
	})
	lab.connectVMs(ctx, host, types.VirtualMachineConnectionStateDisconnected)
}

// connectHost connects or disconnects a host. VMs on a disconnected host keep running, but cannot
// be changed.
func (lab *Lab) connectHost(ctx *simulator.Context, host *simulator.HostSystem, connected bool) {
	vmState := types.VirtualMachineConnectionStateDisconnected
	lab.changeHost(ctx, host, func(m *mo.HostSystem) {
		m.Runtime.ConnectionState = types.HostSystemConnectionStateDisconnected
		if connected {
			m.Runtime.ConnectionState = types.HostSystemConnectionStateConnected
			if m.Runtime.PowerState != types.HostSystemPowerStatePoweredOn {
				now := time.Now()
				m.Runtime.PowerState = types.HostSystemPowerStatePoweredOn
				m.Runtime.BootTime = &now
			}
		}
	})
	if connected {
		vmState = types.VirtualMachineConnectionStateConnected
	}
	lab.connectVMs(ctx, host, vmState)
}

func (lab *Lab) connectVMs(ctx *simulator.Context, host *simulator.HostSystem, state types.VirtualMachineConnectionState) {
	var vms []ref
	lab.locked(ctx, host.Self, func() { vms = host.Vm })
	for _, r := range vms {
		if vm, ok := lab.registry.Get(r).(*simulator.VirtualMachine); ok {
			lab.changeVM(ctx, vm, func(m *mo.VirtualMachine) { m.Runtime.ConnectionState = state })
		}
	}
}
