package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// dynamic returns a free, active GPU that matches (R6). The caller holds the lock of the
// allocations.
func (a *admission) dynamic(b *types.VirtualPCIPassthroughDynamicBackingInfo, granted map[int32]grant) (grant, fault) {
	if hardwareVersion(a.config) < 17 {
		return grant{}, devicePowerOnFault(message("msg.pciPassthru.ahHardwareVersion", fmt.Sprintf(
			"Dynamic DirectPath I/O needs hardware version 17 or later, not %s.", a.config.Version)))
	}
	for _, g := range a.hardware.gpus {
		if a.active[g.PCIAddress] && !a.taken(g, granted) && allows(b, g) && (b.CustomLabel == "" || b.CustomLabel == a.labels[g.PCIAddress]) {
			return a.whole(g, granted)
		}
	}
	return grant{}, devicePowerOnFault(message("msg.pciPassthru.ahNoDevice",
		fmt.Sprintf("AH Failed to find a suitable device for pciPassthru%d.", len(granted))))
}

// allows compares ids as numbers; ids that the client does not set match any device.
func allows(b *types.VirtualPCIPassthroughDynamicBackingInfo, g *gpu) bool {
	for _, d := range b.AllowedDevice {
		if d.VendorId == int32(g.VendorID) && d.DeviceId == int32(g.DeviceID) &&
			(d.SubVendorId == 0 || d.SubVendorId == int32(g.SubVendorID)) &&
			(d.SubDeviceId == 0 || d.SubDeviceId == int32(g.SubDeviceID)) {
			return true
		}
	}
	return false
}

func hardwareVersion(c *types.VirtualMachineConfigInfo) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(c.Version, "vmx-")) // version 0, too old, if it is not a number
	return n
}

// showBindings publishes which VM has which GPU: assignableHardwareBinding on the host, assignedId
// in the VM's device, and the VMs of the graphics device.
func (lab *Lab) showBindings(ctx *simulator.Context, host ref) {
	h := lab.registry.Get(host).(*simulator.HostSystem)
	holdings := lab.allocations.holdings(host)
	lab.changeHost(ctx, h, func(m *mo.HostSystem) {
		m.Config.AssignableHardwareBinding = nil
		users := map[string][]ref{}
		for _, holding := range holdings {
			for _, grant := range holding.devices {
				if grant.profile != nil { // a whole GPU is not a graphics device of the host
					users[grant.gpu.PCIAddress] = append(users[grant.gpu.PCIAddress], holding.vm)
				}
				if lab.atLeast("7.0") && grant.profile == nil {
					m.Config.AssignableHardwareBinding = append(m.Config.AssignableHardwareBinding,
						types.HostAssignableHardwareBinding{InstanceId: "pcipassthru:" + grant.gpu.PCIAddress, Vm: holding.vm})
				}
			}
		}
		graphics := make([]types.HostGraphicsInfo, 0, len(m.Config.GraphicsInfo))
		for _, info := range m.Config.GraphicsInfo {
			info.Vm = users[info.PciId]
			graphics = append(graphics, info)
		}
		m.Config.GraphicsInfo = graphics
	})
}

// assign shows the assigned GPU in a dynamic device while the VM runs.
func (lab *Lab) assign(vm ref, devices []types.BaseVirtualDevice, on bool) []types.BaseVirtualDevice {
	holding, _ := lab.allocations.of(vm)
	assigned := make([]types.BaseVirtualDevice, 0, len(devices))
	for _, device := range devices {
		if d, ok := device.(*types.VirtualPCIPassthrough); ok {
			if backing, ok := d.Backing.(*types.VirtualPCIPassthroughDynamicBackingInfo); ok {
				own, next := *d, *backing
				next.AssignedId = ""
				if grant, ok := holding.devices[d.Key]; ok && on {
					next.AssignedId = grant.gpu.PCIAddress
				}
				own.Backing = &next
				device = &own
			}
		}
		assigned = append(assigned, device)
	}
	return assigned
}
