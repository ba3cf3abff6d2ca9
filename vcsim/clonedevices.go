package main

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/vim25/types"
)

// cloneDevices copies the source's devices for a clone: network cards get new MAC addresses, disks
// new ids and files.
func (lab *Lab) cloneDevices(source []types.BaseVirtualDevice, dir string) []types.BaseVirtualDevice {
	devices := slices.Clone(source)
	for i, device := range devices {
		switch device.(type) {
		case types.BaseVirtualEthernetCard:
			card := cloneDevice(device).(types.BaseVirtualEthernetCard)
			card.GetVirtualEthernetCard().MacAddress = lab.macs.next()
			card.GetVirtualEthernetCard().AddressType = string(types.VirtualEthernetCardMacTypeAssigned)
			devices[i] = card.(types.BaseVirtualDevice)
		case *types.VirtualDisk:
			disk := cloneDevice(device).(*types.VirtualDisk)
			before := fileOf(disk)
			moveDisk(disk, dir)
			lab.thin.copy(before, fileOf(disk))
			devices[i] = disk
		}
	}
	return devices
}

func moveDisk(disk *types.VirtualDisk, dir string) {
	if backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok {
		own := *backing
		own.FileName = fmt.Sprintf("%s/disk-%d.vmdk", dir, disk.Key-2000)
		own.Uuid = uuid.NewString()
		disk.Backing = &own
	}
}

// newDisk returns a disk for a template or an unrelated VM.
func newDisk(bytes int64, dir string, datastore ref) *types.VirtualDisk {
	disk := &types.VirtualDisk{CapacityInBytes: bytes, CapacityInKB: bytes >> 10}
	disk.Key, disk.ControllerKey, disk.UnitNumber = 2000, 1000, types.NewInt32(0)
	disk.DeviceInfo = &types.Description{Label: "Hard disk 1", Summary: fmt.Sprintf("%d KB", bytes>>10)}
	disk.Backing = &types.VirtualDiskFlatVer2BackingInfo{
		VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: dir + "/disk-0.vmdk", Datastore: &datastore},
		DiskMode:                     string(types.VirtualDiskModePersistent), ThinProvisioned: types.NewBool(false),
		Uuid: uuid.NewString(),
	}
	return disk
}

// newCard returns a network card on the named network.
func (lab *Lab) newCard(number int32, network string) types.BaseVirtualDevice {
	card := &types.VirtualVmxnet3{}
	card.Key, card.ControllerKey, card.UnitNumber = 4000+number, 100, types.NewInt32(7+number)
	card.DeviceInfo = &types.Description{Label: fmt.Sprintf("Network adapter %d", number+1), Summary: network}
	backing := &types.VirtualEthernetCardNetworkBackingInfo{}
	backing.DeviceName = network
	card.Backing = backing
	card.WakeOnLanEnabled = types.NewBool(true)
	lab.completeCard(&card.VirtualEthernetCard)
	return card
}

func (lab *Lab) networksOf(devices []types.BaseVirtualDevice) []ref {
	var networks []ref
	for _, device := range devices {
		card, ok := device.(types.BaseVirtualEthernetCard)
		if !ok {
			continue
		}
		if _, network := lab.networkOf(card.GetVirtualEthernetCard()); network != nil && !slices.Contains(networks, *network) {
			networks = append(networks, *network)
		}
	}
	return networks
}

// connect sets the network cards' connected state to that of the VM.
func connect(devices []types.BaseVirtualDevice, on bool) []types.BaseVirtualDevice {
	devices = slices.Clone(devices)
	for i, device := range devices {
		c := device.GetVirtualDevice().Connectable
		if c == nil || c.Connected == (on && c.StartConnected) {
			continue
		}
		now := *c
		now.Connected = on && c.StartConnected
		devices[i] = cloneDevice(device)
		devices[i].GetVirtualDevice().Connectable = &now
	}
	return devices
}

// linkDisks makes the disks children of the source's.
func linkDisks(devices, source []types.BaseVirtualDevice) {
	for i, device := range devices {
		disk, ok := device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		parent, ok := source[i].(*types.VirtualDisk).Backing.(*types.VirtualDiskFlatVer2BackingInfo)
		if !ok {
			continue
		}
		own := cloneDevice(disk).(*types.VirtualDisk)
		backing := *own.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
		backing.Parent = parent
		own.Backing = &backing
		devices[i] = own
	}
}

// cloneDevice returns a copy of which every field may be replaced. What its pointers point to is
// shared, as everywhere in the inventory.
func cloneDevice(device types.BaseVirtualDevice) types.BaseVirtualDevice {
	value := reflect.ValueOf(device).Elem()
	next := reflect.New(value.Type())
	next.Elem().Set(value)
	return next.Interface().(types.BaseVirtualDevice)
}
