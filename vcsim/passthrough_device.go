package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
)

// below4GiBPages is the hole for devices under 4 GiB, 3.5 GiB in pages of 4 KiB.
const below4GiBPages = 917504

const mibPages = 256

// checkConfiguration looks at what a VM with passthrough devices needs whatever card it gets (R5).
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

// fixed checks a device that is named by host, address and ids (R5); the allocations is locked.
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

// whole grants a card if its BARs and those of the cards before it have room (R5).
func (a *admission) whole(g *gpu, granted map[int32]grant) (grant, fault) {
	return a.mapped(grant{gpu: g}, granted)
}

// mapped lets a grant pass if what it maps, and the grants before it, has room (R5, R7).
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

// pages of a vGPU are those of its own BARs: a large one maps its framebuffer, others 256 MiB.
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

// isLarge: NVIDIA's C-series has large BARs whatever the size, the others as their framebuffer has.
func (p *VGPUProfile) isLarge() bool {
	return computeSeries.MatchString(p.Name) || p.FramebufferGiB >= 16
}

var computeSeries = regexp.MustCompile(`-\d+(-\d+)?c(me)?$`)

// pageLimit is the room for BARs. Above 4 GiB there is some only with EFI firmware, 64-bit MMIO
// switched on, and a size given; large BARs do not fit below.
func (a *admission) pageLimit() int64 {
	on := strings.EqualFold(option(a.config, "pciPassthru.use64bitMMIO"), "TRUE")
	size, err := strconv.ParseInt(option(a.config, "pciPassthru.64bitMMIOSizeGB"), 10, 32)
	if a.config.Firmware != string(types.GuestOsDescriptorFirmwareTypeEfi) || !on || err != nil {
		return below4GiBPages
	}
	return max(size*1024*mibPages, below4GiBPages)
}

// pages is what a card maps: its BARs and two pages of its own.
func (g *gpu) pages() int64 { return g.mmioMiB()*mibPages + 2 }

func (g *gpu) mmioMiB() int64 {
	var sum int64
	for _, bar := range g.BARsMiB {
		sum += bar
	}
	return sum
}

// taken: another VM runs with the card or with a part of it, or this VM names it twice.
func (a *admission) taken(g *gpu, granted map[int32]grant) bool {
	for _, other := range granted {
		if other.gpu == g {
			return true
		}
	}
	_, held := a.lab.allocations.holder(g)
	return held || len(a.lab.allocations.shares(g)) > 0
}

// sameDeviceID reads the id as vSphere does: hexadecimal, no 0x. "5624" is 0x5624, not 5624. One that
// was left out is not compared: Terraform's provider leaves all of them out, and its VMs start.
func sameDeviceID(text string, id uint16) bool {
	if text == "" {
		return true
	}
	n, err := strconv.ParseUint(text, 16, 16)
	return err == nil && uint16(n) == id
}

// devicePowerOnFault is how vCenter wraps what a device refuses: a generic text, and the reason
// among the fault's messages.
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

// fixedDevices are the devices that tie a VM to its host.
func fixedDevices(c *types.VirtualMachineConfigInfo) []*types.VirtualPCIPassthrough {
	var devices []*types.VirtualPCIPassthrough
	for _, d := range passthroughDevices(c) {
		if _, ok := d.Backing.(*types.VirtualPCIPassthroughDeviceBackingInfo); ok {
			devices = append(devices, d)
		}
	}
	return devices
}
