package main

import (
	"crypto/sha1"
	"fmt"
	"strconv"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// hardware is the fixed hardware of a host; its configuration is in the inventory.
type hardware struct {
	name     string
	self     ref
	given    *HostDescription
	systemID string // ESXi's own id, not the mainboard's; only QueryConfigTarget returns it
	gpus     []*gpu
	groups   []DeviceGroupDescription
	rebind   bool
	noReboot bool
}

type gpu struct {
	GPUDescription
	host *hardware
}

func (h *hardware) gpu(address string) *gpu {
	for _, g := range h.gpus {
		if g.PCIAddress == address {
			return g
		}
	}
	return nil
}

// display returns the address as ESXi's messages show it: decimal bus, slot and function.
func (g *gpu) display() string { return displayAddress(g.PCIAddress) }

func displayAddress(address string) string {
	bus, slot, function := splitAddress(address)
	return fmt.Sprintf("%d:%d.%d", bus, slot, function)
}

func splitAddress(address string) (bus, slot, function uint8) {
	if !pciAddress.MatchString(address) {
		return 0, 0, 0
	}
	parse := func(s string) uint8 {
		n, _ := strconv.ParseUint(s, 16, 8) // already checked against the pattern
		return uint8(n)
	}
	return parse(address[5:7]), parse(address[8:10]), parse(address[11:])
}

// equip turns a stock host of the simulator into the host of the description (R1).
func (lab *Lab) equip(host *simulator.HostSystem, d *HostDescription) {
	h := &hardware{name: d.Name, self: host.Self, given: d, systemID: systemID(d.SystemUUID), rebind: d.RebindWithoutReboot, noReboot: d.NoReboot, groups: d.DeviceGroups}
	for _, g := range d.GPUs {
		h.gpus = append(h.gpus, &gpu{GPUDescription: g, host: h})
	}
	lab.hosts[host.Self] = h
	lab.hostRefs = append(lab.hostRefs, host.Self)
	describeMachine(host, d)
	describeDevices(host, h)
	describeGraphics(host, h, d.GraphicsType, cardTypesOf(d))
	lab.describeCapability(host, h)
	lab.addHostManagers(host)
}

// systemID returns an id in ESXi's format: 8-8-4-12 hexadecimal digits.
func systemID(seed string) string {
	sum := sha1.Sum([]byte("gpuvm-lab/system/" + seed))
	return fmt.Sprintf("%x-%x-%x-%x", sum[0:4], sum[4:8], sum[8:10], sum[10:16])
}

func describeMachine(host *simulator.HostSystem, d *HostDescription) {
	info := *host.Hardware
	info.SystemInfo = types.HostSystemInfo{
		Vendor: d.Vendor, Model: d.Model, Uuid: d.SystemUUID,
		SerialNumber: fmt.Sprintf("%.7s", systemID("serial/"+d.SystemUUID)),
	}
	packages := int16(2)
	if d.CPUCores%2 == 1 {
		packages = 1
	}
	info.CpuInfo = types.HostCpuInfo{
		NumCpuPackages: packages, NumCpuCores: int16(d.CPUCores), NumCpuThreads: int16(2 * d.CPUCores),
		Hz: int64(d.CPUMHz) * 1_000_000,
	}
	info.MemorySize = d.MemoryGiB * gib
	host.Hardware = &info
	host.Summary.Hardware = &types.HostHardwareSummary{
		Vendor: d.Vendor, Model: d.Model, Uuid: d.SystemUUID, MemorySize: info.MemorySize,
		CpuModel: fmt.Sprintf("Intel(R) Xeon(R) CPU @ %.2fGHz", float64(d.CPUMHz)/1000),
		CpuMhz:   int32(d.CPUMHz), NumCpuPkgs: packages,
		NumCpuCores: info.CpuInfo.NumCpuCores, NumCpuThreads: info.CpuInfo.NumCpuThreads,
		NumNics: 4, NumHBAs: 1,
	}
	host.Summary.OverallStatus = types.ManagedEntityStatusGreen
	host.Summary.ManagementServerIp = "127.0.0.1"
}

// describeDevices lists the GPUs between a bridge and a NIC, so that a client fails if it takes the
// first device or does not expect negative ids.
func describeDevices(host *simulator.HostSystem, h *hardware) {
	info := *host.Hardware
	info.PciDevice = []types.HostPciDevice{
		ordinaryDevice("0000:00:01.0", 0x0604, 0x8086, 0x6f02, "Intel Corporation", "Xeon E7 v4/Xeon E5 v4 PCI Express Root Port 1"),
	}
	host.Config.PciPassthruInfo = []types.BaseHostPciPassthruInfo{
		&types.HostPciPassthruInfo{Id: "0000:00:01.0", DependentDevice: "0000:00:01.0"},
	}
	for _, g := range h.gpus {
		info.PciDevice = append(info.PciDevice, g.device())
		host.Config.PciPassthruInfo = append(host.Config.PciPassthruInfo, &types.HostPciPassthruInfo{
			Id: g.PCIAddress, DependentDevice: g.DependentDevice, HardwareLabel: g.HardwareLabel,
			PassthruCapable: g.Passthrough.Capable, PassthruEnabled: g.Passthrough.Enabled,
			PassthruActive: g.Passthrough.Active,
		})
	}
	network := "0000:01:00.0"
	info.PciDevice = append(info.PciDevice,
		ordinaryDevice(network, 0x0200, 0x8086, 0x1528, "Intel Corporation", "Ethernet Controller 10-Gigabit X540-AT2"))
	host.Config.PciPassthruInfo = append(host.Config.PciPassthruInfo,
		&types.HostPciPassthruInfo{Id: network, DependentDevice: network, PassthruCapable: true})
	host.Hardware = &info
}

func ordinaryDevice(address string, class, vendor, device uint16, vendorName, name string) types.HostPciDevice {
	bus, slot, function := splitAddress(address)
	return types.HostPciDevice{
		Id: address, ClassId: int16(class), Bus: bus, Slot: slot, Function: function,
		VendorId: int16(vendor), DeviceId: int16(device), SubVendorId: int16(vendor), SubDeviceId: 0,
		VendorName: vendorName, DeviceName: name,
	}
}

func (g *gpu) device() types.HostPciDevice {
	d := ordinaryDevice(g.PCIAddress, g.ClassID, g.VendorID, g.DeviceID, g.VendorName, g.Name)
	d.SubVendorId, d.SubDeviceId = int16(g.SubVendorID), int16(g.SubDeviceID)
	d.ParentBridge = "0000:00:01.0"
	return d
}

// The graphics types of a GPU: shared by all VMs through the hypervisor, or with a vGPU for each
// VM.
const shared, sharedDirect = "shared", "sharedDirect"

// cardTypesOf returns the graphics types of the description, keyed by PCI address.
func cardTypesOf(d *HostDescription) map[string]string {
	kinds := map[string]string{}
	for _, g := range d.GPUs {
		if g.GraphicsType != "" {
			kinds[g.PCIAddress] = g.GraphicsType
		}
	}
	return kinds
}

// describeGraphics lists the GPUs as graphics devices, with their memory, and the vGPU profiles of
// those that are shared directly. A GPU that is not in kinds has the host's default.
func describeGraphics(host *simulator.HostSystem, h *hardware, usual string, kinds map[string]string) {
	config := &types.HostGraphicsConfig{
		HostDefaultGraphicsType: usual, SharedPassthruAssignmentPolicy: "performance",
	}
	active := map[string]bool{}
	for _, base := range host.Config.PciPassthruInfo {
		info := base.GetHostPciPassthruInfo()
		active[info.Id] = info.PassthruActive
	}
	users := map[string][]ref{}
	for _, info := range host.Config.GraphicsInfo {
		users[info.PciId] = info.Vm
	}
	host.Config.GraphicsInfo = nil
	var sharing []*gpu
	for _, g := range h.gpus {
		kind, ok := kinds[g.PCIAddress]
		if !ok {
			kind = usual
		}
		config.DeviceType = append(config.DeviceType, types.HostGraphicsConfigDeviceType{
			DeviceId: g.PCIAddress, GraphicsType: kind,
		})
		if kind == sharedDirect {
			sharing = append(sharing, g)
		}
		if active[g.PCIAddress] {
			kind = "direct"
		}
		host.Config.GraphicsInfo = append(host.Config.GraphicsInfo, types.HostGraphicsInfo{
			DeviceName: g.Name, VendorName: g.VendorName, PciId: g.PCIAddress, GraphicsType: kind,
			MemorySizeInKB: g.MemoryGiB << 20, Vm: users[g.PCIAddress],
		})
	}
	host.Config.GraphicsConfig = config
	host.Config.SharedPassthruGpuTypes = nil
	host.Config.SharedGpuCapabilities = nil
	for _, profile := range profilesOf(sharing) {
		host.Config.SharedPassthruGpuTypes = append(host.Config.SharedPassthruGpuTypes, profile.Name)
		host.Config.SharedGpuCapabilities = append(host.Config.SharedGpuCapabilities, types.HostSharedGpuCapabilities{
			Vgpu: profile.Name, SuspendSupported: true, MigrateSupported: true,
		})
	}
}

// profilesOf returns the distinct vGPU profiles of the GPUs.
func profilesOf(gpus []*gpu) []VGPUProfile {
	var profiles []VGPUProfile
	seen := map[string]bool{}
	for _, g := range gpus {
		for _, p := range g.VGPUProfiles {
			if !seen[p.Name] {
				seen[p.Name] = true
				profiles = append(profiles, p)
			}
		}
	}
	return profiles
}

func (lab *Lab) describeCapability(host *simulator.HostSystem, h *hardware) {
	capability := *host.Capability
	capability.RebootSupported = !h.noReboot
	capability.MaintenanceModeSupported = true
	if lab.atLeast("7.0") {
		capability.DeviceRebindWithoutRebootSupported = types.NewBool(h.rebind)
		capability.AssignableHardwareSupported = types.NewBool(true)
		host.Config.AssignableHardwareConfig = &types.HostAssignableHardwareConfig{}
	}
	host.Capability = &capability
}

// hostManager implements HostPciPassthruSystem and HostGraphicsManager, which the simulator lacks.
func (lab *Lab) addHostManagers(host *simulator.HostSystem) {
	passthru := &mo.HostPciPassthruSystem{PciPassthruInfo: host.Config.PciPassthruInfo}
	passthru.Self = ref{Type: "HostPciPassthruSystem", Value: "pciPassthruSystem-" + host.Self.Value}
	graphics := &mo.HostGraphicsManager{
		GraphicsInfo: host.Config.GraphicsInfo, GraphicsConfig: host.Config.GraphicsConfig,
		SharedPassthruGpuTypes: host.Config.SharedPassthruGpuTypes,
		SharedGpuCapabilities:  host.Config.SharedGpuCapabilities,
	}
	graphics.Self = ref{Type: "HostGraphicsManager", Value: "graphicsManager-" + host.Self.Value}
	host.ConfigManager.PciPassthruSystem = &passthru.Self
	host.ConfigManager.GraphicsManager = &graphics.Self
	lab.registry.Put(passthru)
	lab.registry.Put(graphics)
}
