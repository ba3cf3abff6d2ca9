package main

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// deviceChanges applies deviceChange to a list of devices and returns the new list. It does not
// modify its arguments. Added devices get keys as on ESXi: 2000 for disks, 4000 for network cards,
// 13000 for PCI devices.
func (lab *Lab) deviceChanges(devices []types.BaseVirtualDevice, changes []types.BaseVirtualDeviceConfigSpec) ([]types.BaseVirtualDevice, fault) {
	devices = slices.Clone(devices)
	keys := map[int32]int32{}
	for i, change := range changes {
		spec := change.GetVirtualDeviceConfigSpec()
		invalid := &types.InvalidDeviceSpec{DeviceIndex: int32(i)}
		if spec.Device == nil {
			return nil, invalid
		}
		if fault := lab.checkBacking(spec.Device, i); fault != nil {
			return nil, fault
		}
		key := spec.Device.GetVirtualDevice().Key
		at := slices.IndexFunc(devices, func(d types.BaseVirtualDevice) bool { return d.GetVirtualDevice().Key == key })
		switch spec.Operation {
		case types.VirtualDeviceConfigSpecOperationAdd:
			device := lab.addedDevice(devices, spec.Device, keys)
			keys[key] = device.GetVirtualDevice().Key
			devices = append(devices, device)
		case types.VirtualDeviceConfigSpecOperationEdit:
			if at < 0 {
				return nil, invalid
			}
			devices[at] = lab.editedDevice(devices[at], spec.Device)
		case types.VirtualDeviceConfigSpecOperationRemove:
			if at < 0 {
				return nil, invalid
			}
			devices = slices.Delete(devices, at, at+1)
		default:
			return nil, invalid
		}
	}
	return devices, nil
}

// addedDevice completes a device from a client's spec: key, label, controller, MAC address.
func (lab *Lab) addedDevice(devices []types.BaseVirtualDevice, device types.BaseVirtualDevice, keys map[int32]int32) types.BaseVirtualDevice {
	device = cloneDevice(device)
	d := device.GetVirtualDevice()
	kind, controller, base := deviceKind(device)
	if now, ok := keys[d.ControllerKey]; ok && d.ControllerKey != 0 {
		d.ControllerKey = now
	}
	d.Key = freeKey(devices, base)
	if d.ControllerKey == 0 {
		d.ControllerKey = controller
	}
	if d.UnitNumber == nil || *d.UnitNumber < 0 {
		d.UnitNumber = types.NewInt32(d.Key - base)
	}
	label := fmt.Sprintf("%s %d", kind, d.Key-base+1)
	if base == 13000 {
		label = fmt.Sprintf("%s %d", kind, d.Key-base)
	}
	summary := label
	switch x := device.(type) {
	case types.BaseVirtualEthernetCard:
		card := x.GetVirtualEthernetCard()
		lab.completeCard(card)
		if name, _ := lab.networkOf(card); name != "" {
			summary = name
		}
	case *types.VirtualDisk:
		completeDisk(x)
		summary = fmt.Sprintf("%d KB", x.CapacityInKB)
	case *types.VirtualPCIPassthrough:
		summary = passthroughSummary(d.Backing)
	}
	d.DeviceInfo = &types.Description{Label: label, Summary: summary}
	return device
}

func (lab *Lab) completeCard(card *types.VirtualEthernetCard) {
	if card.MacAddress == "" || card.AddressType != string(types.VirtualEthernetCardMacTypeManual) {
		card.MacAddress = lab.macs.next()
		card.AddressType = string(types.VirtualEthernetCardMacTypeAssigned)
	}
	if card.Connectable == nil {
		card.Connectable = &types.VirtualDeviceConnectInfo{StartConnected: true, AllowGuestControl: true}
	}
	if card.ResourceAllocation == nil {
		card.ResourceAllocation = &types.VirtualEthernetCardResourceAllocation{
			Reservation: types.NewInt64(0),
			Share:       types.SharesInfo{Shares: 50, Level: types.SharesLevelNormal},
			Limit:       types.NewInt64(-1),
		}
	}
	lab.completeBacking(card)
}

// completeBacking accepts a network by name or by reference and sets the other.
func (lab *Lab) completeBacking(card *types.VirtualEthernetCard) {
	backing, ok := card.Backing.(*types.VirtualEthernetCardNetworkBackingInfo)
	if !ok {
		return
	}
	own := *backing
	if network, found := lab.networks[own.DeviceName]; found {
		own.Network = &network
	} else if own.Network != nil {
		if network, found := lab.registry.Get(*own.Network).(*mo.Network); found {
			own.DeviceName = network.Name
		}
	}
	card.Backing = &own
}

func completeDisk(disk *types.VirtualDisk) {
	if disk.CapacityInBytes == 0 {
		disk.CapacityInBytes = disk.CapacityInKB << 10
	}
	disk.CapacityInKB = disk.CapacityInBytes >> 10
}

// placeDisks names the file of disks for which the client named none, or a datastore only, and the
// datastore of each.
func (lab *Lab) placeDisks(c *types.VirtualMachineConfigInfo, devices []types.BaseVirtualDevice) {
	for i, device := range devices {
		disk, ok := device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
		if !ok || backing.Datastore != nil && strings.HasSuffix(backing.FileName, ".vmdk") {
			continue
		}
		own := *backing
		folder := path.Dir(c.Files.VmPathName)
		if store := lab.storeOfDisk(backing); store != "" {
			_, below, _ := strings.Cut(folder, "] ")
			folder = "[" + store + "] " + below
		}
		if !strings.HasSuffix(own.FileName, ".vmdk") {
			own.FileName = fmt.Sprintf("%s/%s_%d.vmdk", folder, c.Name, disk.Key-2000)
		}
		if datastore := lab.datastoreOf(own.FileName); datastore.Value != "" {
			own.Datastore = &datastore
		}
		placed := cloneDevice(disk).(*types.VirtualDisk)
		placed.Backing = &own
		devices[i] = placed
	}
}

// storeOfDisk returns the name of the datastore that the client named, or "".
func (lab *Lab) storeOfDisk(backing *types.VirtualDiskFlatVer2BackingInfo) string {
	for name, r := range lab.datastores {
		if strings.HasPrefix(backing.FileName, "["+name+"]") || backing.Datastore != nil && *backing.Datastore == r {
			return name
		}
	}
	return ""
}

func passthroughSummary(backing types.BaseVirtualDeviceBackingInfo) string {
	switch b := backing.(type) {
	case *types.VirtualPCIPassthroughDeviceBackingInfo:
		return b.DeviceName
	case *types.VirtualPCIPassthroughDynamicBackingInfo:
		return "Dynamic DirectPath IO"
	case *types.VirtualPCIPassthroughVmiopBackingInfo:
		return "NVIDIA GRID vGPU " + b.Vgpu
	}
	return ""
}

// editedDevice applies the fields that the client set and keeps the others.
func (lab *Lab) editedDevice(old, edited types.BaseVirtualDevice) types.BaseVirtualDevice {
	device := cloneDevice(edited)
	d, was := device.GetVirtualDevice(), old.GetVirtualDevice()
	d.DeviceInfo = was.DeviceInfo
	orElse(&d.ControllerKey, was.ControllerKey)
	if d.UnitNumber == nil {
		d.UnitNumber = was.UnitNumber
	}
	if d.Backing == nil {
		d.Backing = was.Backing
	}
	if d.Connectable == nil {
		d.Connectable = was.Connectable
	}
	switch x := device.(type) {
	case types.BaseVirtualEthernetCard:
		if before, ok := old.(types.BaseVirtualEthernetCard); ok {
			orElse(&x.GetVirtualEthernetCard().MacAddress, before.GetVirtualEthernetCard().MacAddress)
			orElse(&x.GetVirtualEthernetCard().AddressType, before.GetVirtualEthernetCard().AddressType)
			if x.GetVirtualEthernetCard().ResourceAllocation == nil {
				x.GetVirtualEthernetCard().ResourceAllocation = before.GetVirtualEthernetCard().ResourceAllocation
			}
		}
		lab.completeBacking(x.GetVirtualEthernetCard())
	case *types.VirtualDisk:
		completeDisk(x)
	}
	return device
}

func deviceKind(device types.BaseVirtualDevice) (kind string, controller, base int32) {
	switch device.(type) {
	case *types.VirtualDisk:
		return "Hard disk", 1000, 2000
	case types.BaseVirtualEthernetCard:
		return "Network adapter", 100, 4000
	case *types.VirtualPCIPassthrough:
		return "PCI device", 100, 13000
	case *types.VirtualCdrom:
		return "CD/DVD drive", 200, 3000
	case types.BaseVirtualSCSIController:
		return "SCSI controller", 100, 1000
	case *types.VirtualSerialPort:
		return "Serial port", 400, 9000
	}
	return "Device", 100, 15000
}

type macs struct {
	sync.Mutex
	last uint32
}

// next returns an unused MAC address of vCenter's own range.
func (m *macs) next() string {
	m.Lock()
	defer m.Unlock()
	m.last++
	return fmt.Sprintf("00:50:56:%02x:%02x:%02x", 0x80|(m.last>>16)&0x3f, (m.last>>8)&0xff, m.last&0xff)
}

func freeKey(devices []types.BaseVirtualDevice, base int32) int32 {
	key := base
	for slices.ContainsFunc(devices, func(d types.BaseVirtualDevice) bool { return d.GetVirtualDevice().Key == key }) {
		key++
	}
	return key
}
