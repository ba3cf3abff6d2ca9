package main

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// admit decides whether a VM may be powered on; every path to a running VM calls it. It checks the
// VM's devices and memory against its host and, if they fit, records them in the allocations.
func (lab *Lab) admit(ctx *simulator.Context, vm *simulator.VirtualMachine) fault {
	var host ref
	lab.locked(ctx, vm.Self, func() { host = *vm.Runtime.Host })
	return lab.admitOn(ctx, vm, host)
}

// admitOn is like admit, for a host to which the VM is about to be moved.
func (lab *Lab) admitOn(ctx *simulator.Context, vm *simulator.VirtualMachine, host ref) fault {
	var config *types.VirtualMachineConfigInfo
	lab.locked(ctx, vm.Self, func() { config = copied(vm.Config) })
	if fault := lab.checkHost(ctx, host); fault != nil {
		return fault
	}
	if fault := lab.checkHardware(ctx, host, config); fault != nil {
		return fault
	}
	a := &admission{lab: lab, vm: vm.Self, config: config, hardware: lab.hosts[host], active: lab.activeDevices(ctx, host)}
	a.labels = lab.hardwareLabels(ctx, host)
	a.direct = lab.sharedDirectly(ctx, host)
	if fault := a.checkConfiguration(); fault != nil {
		return fault
	}
	lab.allocations.Lock()
	defer lab.allocations.Unlock()
	devices, fault := a.grants()
	if fault != nil {
		return fault
	}
	if fault := a.checkMemory(); fault != nil {
		return fault
	}
	lab.allocations.put(holding{vm: vm.Self, host: host, devices: devices, memoryMB: a.memoryMB()})
	return nil
}

// admission is a request to run one VM on one host.
type admission struct {
	lab      *Lab
	vm       ref
	config   *types.VirtualMachineConfigInfo
	hardware *hardware
	active   map[string]bool   // PCI address -> passthroughActive
	labels   map[string]string // PCI address -> hardwareLabel
	direct   map[string]bool   // PCI address -> graphics type is sharedDirect
}

// grants decides which GPU each PCI device of the VM gets. The caller holds the lock of the
// allocations.
func (a *admission) grants() (map[int32]grant, fault) {
	granted := map[int32]grant{}
	if fault := a.groupGrants(granted); fault != nil {
		return nil, fault
	}
	for _, device := range passthroughDevices(a.config) {
		if device.DeviceGroupInfo != nil {
			continue
		}
		var g grant
		var fault fault
		switch backing := device.Backing.(type) {
		case *types.VirtualPCIPassthroughDeviceBackingInfo:
			g, fault = a.fixed(backing, granted)
		case *types.VirtualPCIPassthroughDynamicBackingInfo:
			g, fault = a.dynamic(backing, granted)
		case *types.VirtualPCIPassthroughVmiopBackingInfo:
			g, fault = a.shared(backing, granted)
		default:
			fault = &types.DeviceBackingNotSupported{}
		}
		if fault != nil {
			return nil, fault
		}
		granted[device.Key] = g
	}
	return granted, nil
}

// checkMemory checks that the reservation and the VM's overhead fit into the host's free memory
// (R9).
func (a *admission) checkMemory() fault {
	free := a.hardware.memoryForVMsMB()
	for _, h := range a.lab.allocations.onHost(a.hardware.self) {
		if h.vm != a.vm {
			free -= h.memoryMB
		}
	}
	if wanted := a.memoryMB(); wanted > free {
		return &types.InsufficientHostMemoryCapacityFault{
			InsufficientHostCapacityFault: types.InsufficientHostCapacityFault{Host: &a.hardware.self},
			Unreserved:                    free << 20,
			Requested:                     wanted << 20,
		}
	}
	return nil
}

func (a *admission) memoryMB() int64 {
	return memoryReservationMB(a.config) + overheadMB(a.config)
}

// overheadMB returns the memory that ESXi itself needs to run a VM.
func overheadMB(c *types.VirtualMachineConfigInfo) int64 {
	return 64 + int64(c.Hardware.MemoryMB)/128 + 8*int64(c.Hardware.NumCPU)
}

// memoryForVMsMB returns the host's memory without the hypervisor's own.
func (h *hardware) memoryForVMsMB() int64 {
	return h.given.MemoryGiB<<10 - int64(*h.given.HypervisorGiB*1024)
}

// checkHost checks that the host is connected and not in maintenance mode, as provisioning and
// power-on require.
func (lab *Lab) checkHost(ctx *simulator.Context, r ref) fault {
	host := lab.registry.Get(r).(*simulator.HostSystem)
	var runtime types.HostRuntimeInfo
	lab.locked(ctx, r, func() { runtime = host.Runtime })
	switch {
	case runtime.ConnectionState != types.HostSystemConnectionStateConnected,
		runtime.PowerState != types.HostSystemPowerStatePoweredOn:
		return &types.HostNotConnected{}
	case runtime.InMaintenanceMode:
		return &types.InvalidState{}
	}
	return nil
}

// activeDevices reads passthroughActive from the inventory, where UpdatePassthruConfig changes it.
func (lab *Lab) activeDevices(ctx *simulator.Context, r ref) map[string]bool {
	active := map[string]bool{}
	for _, info := range lab.passthruInfo(ctx, r) {
		active[info.Id] = info.PassthruEnabled && info.PassthruActive
	}
	return active
}

func (lab *Lab) hardwareLabels(ctx *simulator.Context, r ref) map[string]string {
	labels := map[string]string{}
	for _, info := range lab.passthruInfo(ctx, r) {
		labels[info.Id] = info.HardwareLabel
	}
	return labels
}

func (lab *Lab) passthruInfo(ctx *simulator.Context, r ref) []*types.HostPciPassthruInfo {
	host := lab.registry.Get(r).(*simulator.HostSystem)
	var infos []*types.HostPciPassthruInfo
	lab.locked(ctx, r, func() {
		for _, info := range host.Config.PciPassthruInfo {
			infos = append(infos, info.GetHostPciPassthruInfo())
		}
	})
	return infos
}

// sharedDirectly reads the graphics type of each GPU, which overrides the host's default.
func (lab *Lab) sharedDirectly(ctx *simulator.Context, r ref) map[string]bool {
	host := lab.registry.Get(r).(*simulator.HostSystem)
	cards := map[string]bool{}
	lab.locked(ctx, r, func() {
		for _, device := range host.Config.GraphicsConfig.DeviceType {
			cards[device.DeviceId] = device.GraphicsType == sharedDirect
		}
	})
	return cards
}
