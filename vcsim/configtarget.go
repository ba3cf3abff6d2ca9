package main

import (
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// browserMethods adds the passthrough devices to the simulator's answer, and the VM's own version.
type browserMethods struct {
	methodsOf
	browser *simulator.EnvironmentBrowser // of the cluster
	vm      ref                           // whose browser this is, if it is not the cluster's
}

// QueryConfigTarget returns a host's devices with that host's systemId; without a host, those of
// all hosts (R2).
func (b *browserMethods) QueryConfigTarget(ctx *simulator.Context, req *types.QueryConfigTarget) soap.HasFault {
	hosts := b.lab.hostRefs
	if req.Host != nil {
		if b.lab.hosts[*req.Host] == nil {
			f := &types.ManagedObjectNotFound{Obj: *req.Host}
			return &methods.QueryConfigTargetBody{Fault_: simulator.Fault(describe(f), f)}
		}
		hosts = []ref{*req.Host}
	}
	body := b.browser.QueryConfigTarget(ctx, req).(*methods.QueryConfigTargetBody)
	target := body.Res.Returnval
	for _, host := range hosts {
		b.lab.addPassthrough(ctx, target, host)
	}
	return body
}

func (lab *Lab) addPassthrough(ctx *simulator.Context, target *types.ConfigTarget, host ref) {
	h := lab.hosts[host]
	for _, info := range lab.passthruInfo(ctx, host) {
		device, ok := lab.pciDevice(h, info.Id)
		if !ok || !info.PassthruEnabled {
			continue
		}
		target.PciPassthrough = append(target.PciPassthrough, &types.VirtualMachinePciPassthroughInfo{
			VirtualMachineTargetInfo: types.VirtualMachineTargetInfo{Name: device.DeviceName, ConfigurationTag: []string{"DirectPath"}},
			PciDevice:                device,
			SystemId:                 h.systemID,
		})
		if lab.atLeast("7.0") && info.PassthruActive {
			target.DynamicPassthrough = append(target.DynamicPassthrough, types.VirtualMachineDynamicPassthroughInfo{
				VirtualMachineTargetInfo: types.VirtualMachineTargetInfo{Name: device.DeviceName},
				VendorName:               device.VendorName, DeviceName: device.DeviceName, CustomLabel: info.HardwareLabel,
				VendorId: int32(uint16(device.VendorId)), DeviceId: int32(uint16(device.DeviceId)),
			})
		}
	}
	cards := lab.sharedDirectly(ctx, host)
	lab.addGroups(target, h, cards)
	for _, profile := range profilesOf(slices.DeleteFunc(slices.Clone(h.gpus), func(g *gpu) bool { return !cards[g.PCIAddress] })) {
		known := slices.ContainsFunc(target.SharedGpuPassthroughTypes, func(i types.VirtualMachinePciSharedGpuPassthroughInfo) bool {
			return i.Vgpu == profile.Name
		})
		if !known {
			target.SharedGpuPassthroughTypes = append(target.SharedGpuPassthroughTypes, types.VirtualMachinePciSharedGpuPassthroughInfo{
				VirtualMachineTargetInfo: types.VirtualMachineTargetInfo{Name: profile.Name}, Vgpu: profile.Name,
			})
		}
	}
}

func (lab *Lab) pciDevice(h *hardware, address string) (types.HostPciDevice, bool) {
	if g := h.gpu(address); g != nil {
		return g.device(), true
	}
	host := lab.registry.Get(h.self).(*simulator.HostSystem)
	for _, device := range host.Hardware.PciDevice { // fixed after start
		if device.Id == address {
			return device, true
		}
	}
	return types.HostPciDevice{}, false
}
