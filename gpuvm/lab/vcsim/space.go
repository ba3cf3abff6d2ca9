package main

import (
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// takeSpace reserves space on a datastore (R9).
func (lab *Lab) takeSpace(ctx *simulator.Context, datastore ref, bytes int64) fault {
	store := lab.registry.Get(datastore).(*simulator.Datastore)
	var full bool
	lab.locked(ctx, datastore, func() {
		if full = bytes > store.Summary.FreeSpace; !full {
			lab.setFreeSpace(ctx, store, store.Summary.FreeSpace-bytes)
		}
	})
	if full {
		return &types.NoDiskSpace{FileFault: types.FileFault{File: "[" + store.Name + "]"}, Datastore: store.Name}
	}
	return nil
}

func (lab *Lab) giveSpace(ctx *simulator.Context, datastore ref, bytes int64) {
	store := lab.registry.Get(datastore).(*simulator.Datastore)
	lab.locked(ctx, datastore, func() { lab.setFreeSpace(ctx, store, store.Summary.FreeSpace+bytes) })
}

func (lab *Lab) setFreeSpace(ctx *simulator.Context, store *simulator.Datastore, bytes int64) {
	info := *store.Info.(*types.LocalDatastoreInfo) // all of the lab's datastores are made this way
	info.FreeSpace = bytes
	lab.registry.Update(ctx, store, []types.PropertyChange{
		{Name: "summary.freeSpace", Val: bytes},
		{Name: "info", Val: info},
	})
}

// fullDiskBytes is what the VM's disks took; a linked clone's disk took nothing.
func fullDiskBytes(c *types.VirtualMachineConfigInfo) int64 {
	var sum int64
	for _, device := range c.Hardware.Device {
		disk, ok := device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		if backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok && backing.Parent == nil {
			sum += disk.CapacityInBytes
		}
	}
	return sum
}

func diskBytes(c *types.VirtualMachineConfigInfo) int64 {
	var sum int64
	for _, device := range c.Hardware.Device {
		if disk, ok := device.(*types.VirtualDisk); ok {
			sum += disk.CapacityInBytes
		}
	}
	return sum
}

// deletedFiles are the disks that went with destroyed VMs: every attached one, whoever attached it.
type deletedFiles struct {
	mutex sync.Mutex
	names []string
}

func (d *deletedFiles) add(config *types.VirtualMachineConfigInfo) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	for _, device := range config.Hardware.Device {
		disk, ok := device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		if backing, ok := disk.Backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
			d.names = append(d.names, backing.GetVirtualDeviceFileBackingInfo().FileName)
		}
	}
}

func (d *deletedFiles) list() []string {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	return append([]string{}, d.names...)
}
