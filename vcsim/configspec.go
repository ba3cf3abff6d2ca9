package main

import (
	"slices"
	"time"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// applySpec applies the whole spec to vm, or nothing if it returns a fault: vm is the copy that
// changeVM or a clone works on. CloneVM_Task and ReconfigVM_Task share it (R10).
func (lab *Lab) applySpec(vm *mo.VirtualMachine, spec *types.VirtualMachineConfigSpec) fault {
	c := vm.Config
	if fault := checkSpec(c, spec); fault != nil {
		return fault
	}
	groups, keys, fault := lab.groupChanges(c, spec)
	if fault != nil {
		return fault
	}
	devices, fault := lab.deviceChanges(c.Hardware.Device, spec.DeviceChange)
	if fault != nil {
		return fault
	}
	lab.placeDisks(c, devices)
	intoGroups(devices, keys)
	c.Hardware.Device, c.DeviceGroups = devices, groups
	vm.Network = lab.networksOf(devices)
	applyStrings(c, spec)
	applySwitches(c, spec)
	applyHardware(c, spec)
	applyAllocation(c, spec)
	c.ExtraConfig = mergeOptions(c.ExtraConfig, spec.ExtraConfig)
	if spec.Name != "" {
		vm.Name = spec.Name
	}
	c.Modified = time.Now()
	c.ChangeVersion = c.Modified.UTC().Format(time.RFC3339Nano)
	return nil
}

func checkSpec(c *types.VirtualMachineConfigInfo, spec *types.VirtualMachineConfigSpec) fault {
	if spec.ChangeVersion != "" && spec.ChangeVersion != c.ChangeVersion {
		return &types.ConcurrentAccess{}
	}
	if spec.Firmware != "" && spec.Firmware != "efi" && spec.Firmware != "bios" {
		return &types.InvalidArgument{InvalidProperty: "configSpec.firmware"}
	}
	if a := spec.MemoryAllocation; a != nil && a.Reservation != nil && *a.Reservation < 0 {
		return &types.InvalidArgument{InvalidProperty: "configSpec.memoryAllocation.reservation"}
	}
	if spec.NumCPUs < 0 || spec.MemoryMB < 0 || spec.MemoryMB%4 != 0 {
		return &types.InvalidArgument{InvalidProperty: "configSpec.memoryMB"}
	}
	if fault := checkSockets(c, spec); fault != nil {
		return fault
	}
	if fault := checkLimit(c, spec); fault != nil {
		return fault
	}
	// ESXi refuses to unlock the reservation while a passthrough device needs it.
	if unlock := spec.MemoryReservationLockedToMax; unlock != nil && !*unlock && keepsPassthrough(c, spec) {
		return &types.InvalidArgument{InvalidProperty: "configSpec.memoryReservationLockedToMax"}
	}
	return nil
}

// checkSockets checks that the CPU count is a multiple of the cores per socket. Unset fields of the
// spec do not change anything, so a clone has its template's cores per socket.
func checkSockets(c *types.VirtualMachineConfigInfo, spec *types.VirtualMachineConfigSpec) fault {
	cpus, cores := c.Hardware.NumCPU, c.Hardware.NumCoresPerSocket
	if spec.NumCPUs != 0 {
		cpus = spec.NumCPUs
	}
	replace(&cores, spec.NumCoresPerSocket)
	if cores != nil && *cores > 0 && cpus%*cores != 0 {
		return &types.InvalidArgument{InvalidProperty: "configSpec.numCoresPerSocket"}
	}
	return nil
}

// checkLimit checks that the reservation is within the memory limit. A clone has its template's
// limit.
func checkLimit(c *types.VirtualMachineConfigInfo, spec *types.VirtualMachineConfigSpec) fault {
	next := *c
	replace(&next.MemoryReservationLockedToMax, spec.MemoryReservationLockedToMax)
	if spec.MemoryMB != 0 {
		next.Hardware.MemoryMB = int32(spec.MemoryMB)
	}
	next.MemoryAllocation = mergeAllocation(c.MemoryAllocation, spec.MemoryAllocation)
	if a := next.MemoryAllocation; a != nil && a.Limit != nil && *a.Limit >= 0 && memoryReservationMB(&next) > *a.Limit {
		return &types.InvalidArgument{InvalidProperty: "configSpec.memoryAllocation.limit"}
	}
	return nil
}

// keepsPassthrough reports whether the VM has a PCI device both before and after the spec.
func keepsPassthrough(c *types.VirtualMachineConfigInfo, spec *types.VirtualMachineConfigSpec) bool {
	removed := map[int32]bool{}
	for _, change := range spec.DeviceChange {
		s := change.GetVirtualDeviceConfigSpec()
		if s.Operation == types.VirtualDeviceConfigSpecOperationRemove && s.Device != nil {
			removed[s.Device.GetVirtualDevice().Key] = true
		}
	}
	return slices.ContainsFunc(passthroughDevices(c), func(d *types.VirtualPCIPassthrough) bool { return !removed[d.Key] })
}

func applyStrings(c *types.VirtualMachineConfigInfo, spec *types.VirtualMachineConfigSpec) {
	for _, f := range []struct {
		field *string
		value string
	}{
		{&c.Name, spec.Name}, {&c.Annotation, spec.Annotation}, {&c.Firmware, spec.Firmware},
		{&c.Uuid, spec.Uuid}, {&c.InstanceUuid, spec.InstanceUuid}, {&c.Version, spec.Version},
		{&c.GuestId, spec.GuestId}, {&c.AlternateGuestName, spec.AlternateGuestName},
		{&c.LocationId, spec.LocationId}, {&c.SwapPlacement, spec.SwapPlacement},
		{&c.MigrateEncryption, spec.MigrateEncryption}, {&c.FtEncryptionMode, spec.FtEncryptionMode},
	} {
		if f.value != "" {
			*f.field = f.value
		}
	}
	if spec.GuestId != "" {
		c.GuestFullName = guestFullName(spec.GuestId)
	}
}

func applySwitches(c *types.VirtualMachineConfigInfo, spec *types.VirtualMachineConfigSpec) {
	for _, f := range []struct{ field, value **bool }{
		{&c.MemoryHotAddEnabled, &spec.MemoryHotAddEnabled},
		{&c.CpuHotAddEnabled, &spec.CpuHotAddEnabled},
		{&c.CpuHotRemoveEnabled, &spec.CpuHotRemoveEnabled},
		{&c.MemoryReservationLockedToMax, &spec.MemoryReservationLockedToMax},
		{&c.NestedHVEnabled, &spec.NestedHVEnabled},
		{&c.VPMCEnabled, &spec.VPMCEnabled},
		{&c.ChangeTrackingEnabled, &spec.ChangeTrackingEnabled},
		{&c.GuestAutoLockEnabled, &spec.GuestAutoLockEnabled},
		{&c.MessageBusTunnelEnabled, &spec.MessageBusTunnelEnabled},
		{&c.RebootPowerOff, &spec.RebootPowerOff},
		{&c.FixedPassthruHotPlugEnabled, &spec.FixedPassthruHotPlugEnabled},
	} {
		if *f.value != nil {
			*f.field = *f.value
		}
	}
	if spec.Flags != nil {
		c.Flags = *spec.Flags
	}
	if spec.PowerOpInfo != nil {
		c.DefaultPowerOps = *spec.PowerOpInfo
	}
	replace(&c.Tools, spec.Tools)
	replace(&c.BootOptions, spec.BootOptions)
	replace(&c.ManagedBy, spec.ManagedBy)
	replace(&c.ConsolePreferences, spec.ConsolePreferences)
	replace(&c.LatencySensitivity, spec.LatencySensitivity)
}

func applyHardware(c *types.VirtualMachineConfigInfo, spec *types.VirtualMachineConfigSpec) {
	if spec.NumCPUs != 0 {
		c.Hardware.NumCPU = spec.NumCPUs
	}
	if spec.MemoryMB != 0 {
		c.Hardware.MemoryMB = int32(spec.MemoryMB)
	}
	replace(&c.Hardware.NumCoresPerSocket, spec.NumCoresPerSocket)
	replace(&c.Hardware.VirtualICH7MPresent, spec.VirtualICH7MPresent)
	replace(&c.Hardware.VirtualSMCPresent, spec.VirtualSMCPresent)
	if spec.MotherboardLayout != "" {
		c.Hardware.MotherboardLayout = spec.MotherboardLayout
	}
	replace(&c.CpuAffinity, spec.CpuAffinity)
	replace(&c.MemoryAffinity, spec.MemoryAffinity)
}

// applyAllocation keeps the fields that a partial allocation does not set. A locked reservation
// follows the memory size.
func applyAllocation(c *types.VirtualMachineConfigInfo, spec *types.VirtualMachineConfigSpec) {
	c.CpuAllocation = mergeAllocation(c.CpuAllocation, spec.CpuAllocation)
	c.MemoryAllocation = mergeAllocation(c.MemoryAllocation, spec.MemoryAllocation)
	if isTrue(c.MemoryReservationLockedToMax) {
		all := int64(c.Hardware.MemoryMB)
		c.MemoryAllocation = mergeAllocation(c.MemoryAllocation, &types.ResourceAllocationInfo{Reservation: &all})
	}
}

func mergeAllocation(old, spec *types.ResourceAllocationInfo) *types.ResourceAllocationInfo {
	if spec == nil {
		return old
	}
	next := types.ResourceAllocationInfo{}
	if old != nil {
		next = *old
	}
	replace(&next.Reservation, spec.Reservation)
	replace(&next.ExpandableReservation, spec.ExpandableReservation)
	replace(&next.Limit, spec.Limit)
	replace(&next.Shares, spec.Shares)
	return &next
}

// mergeOptions sets keys, and removes those with an empty value, as vCenter does.
func mergeOptions(options, changes []types.BaseOptionValue) []types.BaseOptionValue {
	merged := slices.Clone(options)
	for _, change := range changes {
		o := change.GetOptionValue()
		at := slices.IndexFunc(merged, func(b types.BaseOptionValue) bool { return b.GetOptionValue().Key == o.Key })
		empty := o.Value == nil || o.Value == ""
		switch {
		case at >= 0 && empty:
			merged = slices.Delete(merged, at, at+1)
		case at >= 0:
			merged[at] = &types.OptionValue{Key: o.Key, Value: o.Value}
		case !empty:
			merged = append(merged, &types.OptionValue{Key: o.Key, Value: o.Value})
		}
	}
	return merged
}

func option(c *types.VirtualMachineConfigInfo, key string) string {
	for _, o := range c.ExtraConfig {
		if v := o.GetOptionValue(); v.Key == key {
			text, _ := v.Value.(string)
			return text
		}
	}
	return ""
}

// memoryReservationMB returns the VM's memory reservation, without overhead.
func memoryReservationMB(c *types.VirtualMachineConfigInfo) int64 {
	if isTrue(c.MemoryReservationLockedToMax) {
		return int64(c.Hardware.MemoryMB)
	}
	if a := c.MemoryAllocation; a != nil && a.Reservation != nil {
		return *a.Reservation
	}
	return 0
}

func replace[T any](field **T, value *T) {
	if value != nil {
		*field = value
	}
}

func isTrue(b *bool) bool { return b != nil && *b }
