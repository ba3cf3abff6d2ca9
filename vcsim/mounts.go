package main

import (
	"slices"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// mountedOn reports whether the description mounts the datastore on this host. Without hosts it is
// mounted on all.
func (d *DatastoreDescription) mountedOn(host string) bool {
	return len(d.Hosts) == 0 || slices.Contains(d.Hosts, host)
}

// mount sets how each host has mounted the datastore, which the simulator does not do.
func (lab *Lab) mount(store *simulator.Datastore, d *DatastoreDescription) {
	store.Host = nil
	for _, host := range lab.hostRefs {
		name := lab.hosts[host].name
		if !d.mountedOn(name) {
			continue
		}
		info := types.HostMountInfo{
			Path: store.Summary.Url, AccessMode: string(types.HostMountModeReadWrite),
			Mounted: types.NewBool(true), Accessible: types.NewBool(true),
		}
		if slices.Contains(d.ReadOnlyOn, name) {
			info.AccessMode = string(types.HostMountModeReadOnly)
		}
		if slices.Contains(d.LostOn, name) {
			info.Accessible = types.NewBool(false)
			info.InaccessibleReason = string(types.HostMountInfoInaccessibleReasonAllPathsDown_Timeout)
		}
		store.Host = append(store.Host, types.DatastoreHostMount{Key: host, MountInfo: info})
	}
	store.Summary.MaintenanceMode = string(types.DatastoreSummaryMaintenanceModeStateNormal)
	if d.Maintenance {
		store.Summary.MaintenanceMode = string(types.DatastoreSummaryMaintenanceModeStateInMaintenance)
	}
}

// checkDatastore checks that the host can write to the datastore, and that the datastore is not in
// maintenance mode.
func (lab *Lab) checkDatastore(ctx *simulator.Context, host, datastore ref) fault {
	store, ok := lab.registry.Get(datastore).(*simulator.Datastore)
	if !ok {
		return &types.ManagedObjectNotFound{Obj: datastore}
	}
	var mounts []types.DatastoreHostMount
	var maintenance, name string
	lab.locked(ctx, datastore, func() {
		mounts, maintenance, name = store.Host, store.Summary.MaintenanceMode, store.Name
	})
	if maintenance == string(types.DatastoreSummaryMaintenanceModeStateInMaintenance) {
		return &types.InvalidDatastoreState{DatastoreName: name}
	}
	for _, m := range mounts {
		writable := m.MountInfo.AccessMode == string(types.HostMountModeReadWrite)
		if m.Key == host && isTrue(m.MountInfo.Accessible) && writable {
			return nil
		}
	}
	return &types.InaccessibleDatastore{InvalidDatastore: types.InvalidDatastore{Datastore: &datastore, Name: name}}
}

// newestHardware is the newest virtual hardware of each release of ESXi (VMware's article 1003746).
// The newest release that is not above the version applies.
var newestHardware = []struct {
	version  string
	hardware int
}{
	{"6.5", 13}, {"6.7.0", 15}, {"7.0.0", 17}, {"7.0.1", 18}, {"7.0.2", 19}, {"8.0.0", 20}, {"8.0.2", 21}, {"9.0.0", 22},
}

// checkHardware checks that the VM's virtual hardware is not newer than the host supports.
func (lab *Lab) checkHardware(ctx *simulator.Context, host ref, config *types.VirtualMachineConfigInfo) fault {
	h := lab.registry.Get(host).(*simulator.HostSystem)
	var version string
	lab.locked(ctx, host, func() { version = h.Config.Product.Version })
	newest := newestFor(version)
	if hardware, err := strconv.Atoi(strings.TrimPrefix(config.Version, "vmx-")); err == nil && newest > 0 && hardware > newest {
		return &types.VirtualHardwareVersionNotSupported{HostName: lab.hosts[host].name, Host: host}
	}
	return nil
}

func newestFor(version string) int {
	newest := 0
	for _, one := range newestHardware {
		if !earlier(version, one.version) {
			newest = one.hardware
		}
	}
	return newest
}

func earlier(version, other string) bool {
	return slices.Compare(numbersOf(version), numbersOf(other)) < 0
}

func numbersOf(version string) []int {
	var numbers []int
	for _, part := range strings.Split(version, ".") {
		n, _ := strconv.Atoi(part)
		numbers = append(numbers, n)
	}
	return numbers
}
