package main

import (
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// reserveSpace reserves space on a datastore (R9).
func (lab *Lab) reserveSpace(ctx *simulator.Context, datastore ref, bytes int64) fault {
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

func (lab *Lab) releaseSpace(ctx *simulator.Context, datastore ref, bytes int64) {
	store := lab.registry.Get(datastore).(*simulator.Datastore)
	lab.locked(ctx, datastore, func() { lab.setFreeSpace(ctx, store, store.Summary.FreeSpace+bytes) })
}

func (lab *Lab) setFreeSpace(ctx *simulator.Context, store *simulator.Datastore, bytes int64) {
	info := *store.Info.(*types.LocalDatastoreInfo) // all datastores of the lab are created with this type
	info.FreeSpace = bytes
	lab.registry.Update(ctx, store, []types.PropertyChange{
		{Name: "summary.freeSpace", Val: bytes},
		{Name: "info", Val: info},
	})
}

// ownDiskBytes returns the space that the VM's disks take: a thin disk its used space, a linked
// clone's disk nothing.
func (lab *Lab) ownDiskBytes(c *types.VirtualMachineConfigInfo) int64 {
	var sum int64
	for _, disk := range disksOf(c) {
		if backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok && backing.Parent == nil {
			sum += lab.thin.used(disk)
		}
	}
	return sum
}

// storage returns the storage summary: committed is the space of the disks and their parents,
// uncommitted the space by which they may still grow.
func (lab *Lab) storage(c *types.VirtualMachineConfigInfo) *types.VirtualMachineStorageSummary {
	summary := &types.VirtualMachineStorageSummary{Timestamp: time.Now(), Unshared: lab.ownDiskBytes(c)}
	for _, disk := range disksOf(c) {
		used := lab.thin.used(disk)
		summary.Committed += used
		summary.Uncommitted += disk.CapacityInBytes - used
	}
	return summary
}

func disksOf(c *types.VirtualMachineConfigInfo) []*types.VirtualDisk {
	var disks []*types.VirtualDisk
	for _, device := range c.Hardware.Device {
		if disk, ok := device.(*types.VirtualDisk); ok {
			disks = append(disks, disk)
		}
	}
	return disks
}

func fileOf(disk *types.VirtualDisk) string {
	if backing, ok := disk.Backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
		return backing.GetVirtualDeviceFileBackingInfo().FileName
	}
	return ""
}

// thinDisks knows the used space of thin disks.
type thinDisks struct {
	mutex sync.Mutex
	bytes map[string]int64 // keyed by file
}

func (t *thinDisks) make(disk *types.VirtualDisk, used int64) {
	disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo).ThinProvisioned = types.NewBool(true)
	t.set(fileOf(disk), used)
}

func (t *thinDisks) set(file string, used int64) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.bytes == nil {
		t.bytes = map[string]int64{}
	}
	t.bytes[file] = used
}

// copy makes a copied disk thin if its source is.
func (t *thinDisks) copy(source, file string) {
	if used, thin := t.of(source); thin {
		t.set(file, used)
	}
}

func (t *thinDisks) of(file string) (int64, bool) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	used, thin := t.bytes[file]
	return used, thin
}

func (t *thinDisks) used(disk *types.VirtualDisk) int64 {
	if used, thin := t.of(fileOf(disk)); thin {
		return used
	}
	return disk.CapacityInBytes
}

func (t *thinDisks) forget(c *types.VirtualMachineConfigInfo) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	for _, disk := range disksOf(c) {
		delete(t.bytes, fileOf(disk))
	}
}

// deletedFiles lists the disks that were deleted with destroyed VMs, including disks that were
// attached later.
type deletedFiles struct {
	mutex sync.Mutex
	names []string
}

func (d *deletedFiles) add(config *types.VirtualMachineConfigInfo) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	for _, disk := range disksOf(config) {
		if file := fileOf(disk); file != "" {
			d.names = append(d.names, file)
		}
	}
}

func (d *deletedFiles) list() []string {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	return append([]string{}, d.names...)
}
