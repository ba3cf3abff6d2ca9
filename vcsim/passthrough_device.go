package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
)

// below4GiBPages is the address space for devices below 4 GiB: 3.5 GiB in pages of 4 KiB.
const below4GiBPages = 917504

const mibPages = 256

// checkConfiguration checks what a VM with passthrough devices needs for any GPU (R5).
func (a *admission) checkConfiguration() fault {
	if len(passthroughDevices(a.config)) == 0 {
		return nil
	}
	if size := int64(a.config.Hardware.MemoryMB); memoryReservationMB(a.config) < size {
		return devicePowerOnFault(message("msg.pciPassthru.memoryReservation", fmt.Sprintf(
			"Invalid memory setting: memory reservation (sched.mem.min) should be equal to memsize(%d).", size)))
	}
	return nil
}

// fixed checks a device that is given by host, address and ids (R5). The caller holds the lock of
// the allocations.
func (a *admission) fixed(b *types.VirtualPCIPassthroughDeviceBackingInfo, granted map[int32]grant) (grant, fault) {
	g := a.hardware.gpu(b.Id)
	if g == nil || b.SystemId != a.hardware.systemID || !sameDeviceID(b.DeviceId, g.DeviceID) || uint16(b.VendorId) != g.VendorID {
		return grant{}, devicePowerOnFault(message("msg.pciPassthru.mismatchedDevices", fmt.Sprintf(
			"PCI passthrough device id invalid. The systemId does not match the current system or the deviceId, "+
				"and the vendorId does not match the device currently at %s.", displayAddress(b.Id))))
	}
	if !a.active[g.PCIAddress] {
		return grant{}, devicePowerOnFault(message("msg.pciPassthru.notPassthrough",
			fmt.Sprintf("Device %s is not a passthrough device.", g.display())))
	}
	if a.taken(g, granted) {
		return grant{}, devicePowerOnFault(message("msg.pciPassthru.inUse",
			fmt.Sprintf("Device %s is already in use by another virtual machine.", g.display())))
	}
	return a.whole(g, granted)
}

// whole grants a GPU if there is space for its BARs and those of the previous GPUs (R5).
func (a *admission) whole(g *gpu, granted map[int32]grant) (grant, fault) {
	return a.mapped(grant{gpu: g}, granted)
}

// mapped accepts a grant if there is space for what it and the previous grants map (R5, R7).
func (a *admission) mapped(wanted grant, granted map[int32]grant) (grant, fault) {
	needed := wanted.pages()
	for _, other := range granted {
		needed += other.pages()
	}
	if limit := a.pageLimit(); needed > limit {
		return grant{}, devicePowerOnFault(message("msg.pciPassthru.pagesExceeded",
			fmt.Sprintf("PCIPassthru: total number of pages needed (%d) exceeds limit (%d), failing", needed, limit)))
	}
	return wanted, nil
}

// pages returns the pages of a vGPU's BARs: a large one maps its framebuffer, others 256 MiB.
func (g grant) pages() int64 {
	if g.profile == nil {
		return g.gpu.pages()
	}
	bar := int64(256)
	if g.gpu.pages() > below4GiBPages && g.profile.isLarge() {
		bar = powerOfTwo(g.profile.FramebufferGiB * 1024)
	}
	return (bar+48)*mibPages + 2
}

// isLarge reports whether a vGPU has large BARs: always for NVIDIA's C-series, else depending on
// the framebuffer.
func (p *VGPUProfile) isLarge() bool {
	return computeSeries.MatchString(p.Name) || p.FramebufferGiB >= 16
}

var computeSeries = regexp.MustCompile(`-\d+(-\d+)?c(me)?$`)

// pageLimit returns the address space for BARs. There is space above 4 GiB only with EFI firmware,
// 64-bit MMIO and its size set; large BARs do not fit below 4 GiB.
func (a *admission) pageLimit() int64 {
	on := strings.EqualFold(option(a.config, "pciPassthru.use64bitMMIO"), "TRUE")
	size, err := strconv.ParseInt(option(a.config, "pciPassthru.64bitMMIOSizeGB"), 10, 32)
	if a.config.Firmware != string(types.GuestOsDescriptorFirmwareTypeEfi) || !on || err != nil {
		return below4GiBPages
	}
	return max(size*1024*mibPages, below4GiBPages)
}

// pages returns what a GPU maps: its BARs and two more pages.
func (g *gpu) pages() int64 { return g.mmioMiB()*mibPages + 2 }

func (g *gpu) mmioMiB() int64 {
	var sum int64
	for _, bar := range g.BARsMiB {
		sum += bar
	}
	return sum
}

// taken reports whether another VM runs with the GPU or with a part of it, or this VM names it
// twice.
func (a *admission) taken(g *gpu, granted map[int32]grant) bool {
	for _, other := range granted {
		if other.gpu == g {
			return true
		}
	}
	_, held := a.lab.allocations.holder(g)
	return held || len(a.lab.allocations.shares(g)) > 0
}

// sameDeviceID parses the id as vSphere does: hexadecimal, without 0x. "5624" is 0x5624, not 5624.
// An empty id is not compared: Terraform's provider sets no ids, and its VMs start.
func sameDeviceID(text string, id uint16) bool {
	if text == "" {
		return true
	}
	n, err := strconv.ParseUint(text, 16, 16)
	return err == nil && uint16(n) == id
}

// devicePowerOnFault wraps a device's refusal as vCenter does: a generic text, with the reason in
// the fault's messages.
func devicePowerOnFault(reason types.LocalizableMessage) fault {
	const generic = "Module 'DevicePowerOn' power on failed."
	f := &types.GenericVmConfigFault{Reason: generic}
	f.FaultMessage = []types.LocalizableMessage{
		message("msg.vmx.poweron.failed", "Failed to start the virtual machine."),
		message("msg.moduletable.powerOnFailed", generic),
		reason,
	}
	return f
}

func message(key, text string) types.LocalizableMessage {
	return types.LocalizableMessage{Key: key, Message: text}
}

func passthroughDevices(c *types.VirtualMachineConfigInfo) []*types.VirtualPCIPassthrough {
	var devices []*types.VirtualPCIPassthrough
	for _, device := range c.Hardware.Device {
		if d, ok := device.(*types.VirtualPCIPassthrough); ok {
			devices = append(devices, d)
		}
	}
	return devices
}

// fixedDevices returns the devices that bind a VM to its host.
func fixedDevices(c *types.VirtualMachineConfigInfo) []*types.VirtualPCIPassthrough {
	var devices []*types.VirtualPCIPassthrough
	for _, d := range passthroughDevices(c) {
		if _, ok := d.Backing.(*types.VirtualPCIPassthroughDeviceBackingInfo); ok {
			devices = append(devices, d)
		}
	}
	return devices
}
