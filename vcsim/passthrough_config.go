package main

import (
	"maps"
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// passthruMethods switch passthrough of a host's devices on and off (R3).
type passthruMethods struct {
	methodsOf
	system *mo.HostPciPassthruSystem
}

// UpdatePassthruConfig enables or disables passthrough. It takes effect at once only if the host
// can rebind devices and the caller requests it, else after a reboot.
func (p *passthruMethods) UpdatePassthruConfig(ctx *simulator.Context, req *types.UpdatePassthruConfig) soap.HasFault {
	host := p.lab.hostOfManager(p.self)
	infos := p.lab.passthruInfo(ctx, host.Self)
	for _, config := range req.Config {
		if f := p.lab.checkPassthruConfig(ctx, host, infos, config.GetHostPciPassthruConfig()); f != nil {
			return &methods.UpdatePassthruConfigBody{Fault_: simulator.Fault(describe(f), f)}
		}
	}
	for _, config := range req.Config {
		p.lab.configurePassthru(ctx, host, config.GetHostPciPassthruConfig())
	}
	return &methods.UpdatePassthruConfigBody{Res: &types.UpdatePassthruConfigResponse{}}
}

func (p *passthruMethods) Refresh(*simulator.Context, *types.Refresh) soap.HasFault {
	return &methods.RefreshBody{Res: &types.RefreshResponse{}}
}

func (lab *Lab) hostOfManager(manager ref) *simulator.HostSystem {
	for _, r := range lab.hostRefs {
		host := lab.registry.Get(r).(*simulator.HostSystem)
		if *host.ConfigManager.PciPassthruSystem == manager || *host.ConfigManager.GraphicsManager == manager {
			return host
		}
	}
	return nil // a manager always has a host
}

func (lab *Lab) checkPassthruConfig(ctx *simulator.Context, host *simulator.HostSystem,
	infos []*types.HostPciPassthruInfo, config *types.HostPciPassthruConfig) fault {
	if fault := lab.checkReachableHost(ctx, host); fault != nil {
		return fault
	}
	for _, info := range infos {
		if info.Id != config.Id {
			continue
		}
		if !info.PassthruCapable {
			return hostConfigFault("Device " + displayAddress(info.Id) + " cannot be passed through.")
		}
		if info.DependentDevice != info.Id {
			return hostConfigFault("Device " + displayAddress(info.Id) + " depends on " + info.DependentDevice + ": configure that one.")
		}
		return lab.checkUnused(host, infos, config)
	}
	return hostConfigFault("There is no device " + config.Id + ".")
}

// checkUnused checks that no running VM uses the device or one that depends on it, because they are
// switched together.
func (lab *Lab) checkUnused(host *simulator.HostSystem, infos []*types.HostPciPassthruInfo,
	config *types.HostPciPassthruConfig) fault {
	for _, info := range infos {
		changes := info.DependentDevice == config.Id && info.PassthruCapable && info.PassthruEnabled != config.PassthruEnabled
		if changes && lab.deviceInUse(host.Self, info.Id) {
			return hostConfigFault("Device " + displayAddress(info.Id) + " is in use by a virtual machine.")
		}
	}
	return nil
}

func hostConfigFault(text string) fault {
	f := &types.HostConfigFault{}
	f.FaultMessage = []types.LocalizableMessage{message("msg.pciPassthru.config", text)}
	return f
}

func (lab *Lab) deviceInUse(host ref, address string) bool {
	for _, holding := range lab.allocations.holdings(host) {
		for _, grant := range holding.devices {
			if grant.gpu.PCIAddress == address {
				return true
			}
		}
	}
	return false
}

// configurePassthru changes the device and all that depend on it.
func (lab *Lab) configurePassthru(ctx *simulator.Context, host *simulator.HostSystem, config *types.HostPciPassthruConfig) {
	rebinds := isTrue(host.Capability.DeviceRebindWithoutRebootSupported)
	now := rebinds && (config.ApplyNow == nil || *config.ApplyNow)
	lab.changePassthru(ctx, host, func(info *types.HostPciPassthruInfo) {
		if info.DependentDevice != config.Id || !info.PassthruCapable {
			return
		}
		info.PassthruEnabled = config.PassthruEnabled
		if config.HardwareLabel != "" && info.Id == config.Id && lab.atLeast("7.0") {
			info.HardwareLabel = config.HardwareLabel
		}
		if now {
			info.PassthruActive = config.PassthruEnabled
		}
	})
}

// activatePassthru activates the pending configuration, as a reboot does.
func (lab *Lab) activatePassthru(ctx *simulator.Context, host *simulator.HostSystem) {
	lab.changePassthru(ctx, host, func(info *types.HostPciPassthruInfo) { info.PassthruActive = info.PassthruEnabled })
}

func (lab *Lab) changePassthru(ctx *simulator.Context, host *simulator.HostSystem, edit func(*types.HostPciPassthruInfo)) {
	var infos []types.BaseHostPciPassthruInfo
	lab.changeHost(ctx, host, func(m *mo.HostSystem) {
		var overrides []types.HostAssignableHardwareConfigAttributeOverride
		for _, base := range m.Config.PciPassthruInfo {
			info := *base.GetHostPciPassthruInfo()
			edit(&info)
			infos = append(infos, &info)
			if info.HardwareLabel != "" {
				overrides = append(overrides, types.HostAssignableHardwareConfigAttributeOverride{
					InstanceId: "pcipassthru:" + info.Id, Name: "hardwareLabel", Value: info.HardwareLabel,
				})
			}
		}
		m.Config.PciPassthruInfo = infos
		next := &simulator.HostSystem{HostSystem: *m}
		describeGraphics(next, lab.hosts[host.Self], m.Config.GraphicsConfig.HostDefaultGraphicsType, typesOf(m.Config.GraphicsConfig.DeviceType))
		*m = next.HostSystem
		if m.Config.AssignableHardwareConfig != nil {
			m.Config.AssignableHardwareConfig = &types.HostAssignableHardwareConfig{AttributeOverride: overrides}
		}
	})
	system := lab.registry.Get(*host.ConfigManager.PciPassthruSystem)
	lab.locked(ctx, system, func() {
		lab.registry.Update(ctx, system, []types.PropertyChange{{Name: "pciPassthruInfo", Val: infos}})
	})
}

// graphicsMethods change how a host shares its GPUs (R7).
type graphicsMethods struct {
	methodsOf
	manager *mo.HostGraphicsManager
}

// UpdateGraphicsConfig sets the host's default graphics type, and that of the named GPUs; the
// others get the default. The offered profiles change accordingly.
func (g *graphicsMethods) UpdateGraphicsConfig(ctx *simulator.Context, req *types.UpdateGraphicsConfig) soap.HasFault {
	body := &methods.UpdateGraphicsConfigBody{}
	kind, kinds := req.Config.HostDefaultGraphicsType, typesOf(req.Config.DeviceType)
	for _, one := range append(slices.Collect(maps.Values(kinds)), kind) {
		if one != shared && one != sharedDirect {
			f := &types.InvalidArgument{InvalidProperty: "config.graphicsType"}
			body.Fault_ = simulator.Fault(describe(f), f)
			return body
		}
	}
	host := g.lab.hostOfManager(g.self)
	g.lab.changeHost(ctx, host, func(m *mo.HostSystem) {
		next := &simulator.HostSystem{HostSystem: *m}
		describeGraphics(next, g.lab.hosts[host.Self], kind, kinds)
		*m = next.HostSystem
	})
	g.lab.locked(ctx, g.manager, func() {
		g.lab.registry.Update(ctx, g.manager, []types.PropertyChange{
			{Name: "graphicsInfo", Val: host.Config.GraphicsInfo},
			{Name: "graphicsConfig", Val: *host.Config.GraphicsConfig},
			{Name: "sharedPassthruGpuTypes", Val: host.Config.SharedPassthruGpuTypes},
			{Name: "sharedGpuCapabilities", Val: host.Config.SharedGpuCapabilities},
		})
	})
	body.Res = &types.UpdateGraphicsConfigResponse{}
	return body
}

func typesOf(devices []types.HostGraphicsConfigDeviceType) map[string]string {
	kinds := map[string]string{}
	for _, device := range devices {
		kinds[device.DeviceId] = device.GraphicsType
	}
	return kinds
}

func (g *graphicsMethods) RefreshGraphicsManager(*simulator.Context, *types.RefreshGraphicsManager) soap.HasFault {
	return &methods.RefreshGraphicsManagerBody{Res: &types.RefreshGraphicsManagerResponse{}}
}

func (g *graphicsMethods) IsSharedGraphicsActive(*simulator.Context, *types.IsSharedGraphicsActive) soap.HasFault {
	return &methods.IsSharedGraphicsActiveBody{Res: &types.IsSharedGraphicsActiveResponse{Returnval: len(g.manager.GraphicsInfo) > 0}}
}

// snapshotMethods refuse to revert a running VM that has a PCI device (R8).
type snapshotMethods struct {
	methodsOf
	snapshot *simulator.VirtualMachineSnapshot
}

func (s *snapshotMethods) RevertToSnapshotTask(ctx *simulator.Context, req *types.RevertToSnapshot_Task) soap.HasFault {
	vm, ok := s.lab.registry.Get(s.snapshot.Vm).(*simulator.VirtualMachine)
	if ok && s.lab.powerState(ctx, vm) == poweredOn && s.lab.hasPCIDevice(ctx, vm) {
		of := &vmMethods{methodsOf: methodsOf{lab: s.lab, self: vm.Self}, vm: vm}
		task := of.refuse(ctx, "RevertToSnapshot_Task", "VirtualMachine.revertToSnapshot", "reverting to a snapshot")
		return &methods.RevertToSnapshot_TaskBody{Res: &types.RevertToSnapshot_TaskResponse{Returnval: task}}
	}
	return s.snapshot.RevertToSnapshotTask(ctx, req)
}
