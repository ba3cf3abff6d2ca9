package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

func backingOf(spec *types.VirtualMachineCloneSpec) *types.VirtualPCIPassthroughDeviceBackingInfo {
	device := spec.Config.DeviceChange[0].GetVirtualDeviceConfigSpec().Device.GetVirtualDevice()
	return device.Backing.(*types.VirtualPCIPassthroughDeviceBackingInfo)
}

func setOption(spec *types.VirtualMachineCloneSpec, key, value string) {
	spec.Config.ExtraConfig = append(spec.Config.ExtraConfig, &types.OptionValue{Key: key, Value: value})
}

// R5: every wrong configuration of a fixed device is refused at power-on. The clone itself is
// accepted.
func TestPowerOnRefusesWrongDevices(t *testing.T) {
	const mismatch = "The systemId does not match the current system or the deviceId, and the vendorId does not match the device currently at 59:0.0"
	const pages = "PCIPassthru: total number of pages needed (4206594) exceeds limit (917504)"
	r := newRig(t)
	for _, c := range []struct {
		name   string
		spoil  func(*types.VirtualMachineCloneSpec)
		reason string
	}{
		{"decimal-id", func(s *types.VirtualMachineCloneSpec) { backingOf(s).DeviceId = "5624" }, mismatch},
		{"0x-id", func(s *types.VirtualMachineCloneSpec) { backingOf(s).DeviceId = "0x15f8" }, mismatch},
		{"other-vendor", func(s *types.VirtualMachineCloneSpec) { backingOf(s).VendorId = -32634 }, mismatch},
		{"other-system", func(s *types.VirtualMachineCloneSpec) {
			backingOf(s).SystemId = r.lab.hosts[r.host("esx-02")].systemID
		}, mismatch},
		{"no-such-device", func(s *types.VirtualMachineCloneSpec) { backingOf(s).Id = "0000:3c:00.0" }, "currently at 60:0.0"},
		{"reservation", func(s *types.VirtualMachineCloneSpec) {
			s.Config.MemoryReservationLockedToMax = nil
			s.Config.MemoryAllocation = &types.ResourceAllocationInfo{Reservation: ptr(int64(8191))}
		}, "memory reservation (sched.mem.min) should be equal to memsize(8192)"},
		{"bios", func(s *types.VirtualMachineCloneSpec) { s.Config.Firmware = "bios" }, pages},
		{"no-mmio", func(s *types.VirtualMachineCloneSpec) { s.Config.ExtraConfig = nil }, pages},
		{"mmio-off", func(s *types.VirtualMachineCloneSpec) {
			s.Config.ExtraConfig[0].GetOptionValue().Value = "FALSE"
		}, pages},
		{"small-mmio", func(s *types.VirtualMachineCloneSpec) {
			s.Config.ExtraConfig[1].GetOptionValue().Value = "16"
		}, "PCIPassthru: total number of pages needed (4206594) exceeds limit (4194304)"},
	} {
		spec := r.gpuSpec()
		c.spoil(&spec)
		t.Run(c.name, func(t *testing.T) {
			sub := *r
			sub.T = t
			sub.refusesPowerOn(sub.clone(c.name, spec), c.reason)
		})
	}
	if bound := r.lab.bindings(); len(bound) != 0 {
		t.Errorf("refused VMs hold %v", bound)
	}
}

// A full reservation need not be locked, and hexadecimal digits may be upper case.
func TestPowerOnAcceptsEquivalentConfigurations(t *testing.T) {
	r := newRig(t)
	spec := r.gpuSpec()
	backingOf(&spec).DeviceId = "15F8"
	spec.Config.MemoryReservationLockedToMax = nil
	spec.Config.MemoryAllocation = &types.ResourceAllocationInfo{Reservation: ptr(int64(8192))}
	r.finish(r.clone("vm", spec).PowerOn(r.ctx))
}

// R5: a card whose BARs fit below 4 GiB needs neither EFI nor 64-bit MMIO.
func TestSmallBARsFitBelow4GiB(t *testing.T) {
	r := newRig(t, func(d *Description) { d.Hosts[0].GPUs[0].BARsMiB = []int64{16, 256, 32} })
	spec := r.gpuSpec()
	spec.Config.Firmware, spec.Config.ExtraConfig = "bios", nil
	r.finish(r.clone("vm", spec).PowerOn(r.ctx))
}

// R5: two GPUs need MMIO space for both.
func TestMMIOCountsEveryGPU(t *testing.T) {
	r := newRig(t)
	spec := r.gpuSpec()
	second := r.attach("esx-01", "0000:af:00.0")
	second.Device.GetVirtualDevice().Key = -101
	spec.Config.DeviceChange = append(spec.Config.DeviceChange, second)
	vm := r.clone("vm", spec)
	r.refusesPowerOn(vm, "pages needed (8413188) exceeds limit (8388608)")
	larger := types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{
		&types.OptionValue{Key: "pciPassthru.64bitMMIOSizeGB", Value: "64"},
	}}
	r.finish(vm.Reconfigure(r.ctx, larger))
	r.finish(vm.PowerOn(r.ctx))
}

// R5: enabled, but not rebooted since.
func TestPowerOnRefusesInactiveDevice(t *testing.T) {
	r := newRig(t, func(d *Description) { d.Hosts[0].GPUs[0].Passthrough = &Passthrough{Capable: true, Enabled: true} })
	r.refusesPowerOn(r.clone("vm", r.gpuSpec()), "Device 59:0.0 is not a passthrough device")
}

// R5, R10: two VMs may name the same device; one of them runs with it.
func TestDeviceHasOneHolder(t *testing.T) {
	r := newRig(t)
	first, second := r.clone("first", r.gpuSpec()), r.clone("second", r.gpuSpec())
	r.finish(first.PowerOn(r.ctx))
	r.refusesPowerOn(second, "Device 59:0.0 is already in use")
	elsewhere := r.clone("elsewhere", r.gpuSpecOn("esx-02", "0000:3b:00.0")) // the same address on another host
	r.finish(elsewhere.PowerOn(r.ctx))
	bound := decode[[]binding](t, r.control("GET", "/bindings", ""))
	want := binding{VM: "first", Host: "esx-01", PCIAddress: "0000:3b:00.0"}
	if len(bound) != 2 || !slices.Contains(bound, want) {
		t.Errorf("%v", bound)
	}
	r.finish(first.PowerOff(r.ctx))
	r.finish(second.PowerOn(r.ctx))
}

// R5: of many concurrent power-ons one gets the device.
func TestDeviceHasOneHolderInARace(t *testing.T) {
	r := newRig(t)
	var vms []*object.VirtualMachine
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		vms = append(vms, r.clone(name, r.gpuSpec()))
	}
	var tasks []*object.Task
	for _, vm := range vms {
		task, err := vm.PowerOn(r.ctx)
		must(t, err)
		tasks = append(tasks, task)
	}
	running := 0
	for _, task := range tasks {
		if task.Wait(r.ctx) == nil {
			running++
		}
	}
	if running != 1 {
		t.Errorf("%d VMs run with one device", running)
	}
}

// R5: every path to a running VM is checked.
func TestEveryPathToPowerOnIsChecked(t *testing.T) {
	r := newRig(t)
	bad := r.gpuSpec()
	backingOf(&bad).DeviceId = "5624"

	bad.PowerOn = true
	if _, ok := r.fails(r.startClone("by-clone", bad), nil).(*types.GenericVmConfigFault); !ok {
		t.Error("CloneSpec.powerOn")
	}
	vm := r.vm(r.lab.vmNamed("by-clone").Self)
	if state, err := vm.PowerState(r.ctx); err != nil || state != poweredOff {
		t.Errorf("the clone is %s, %v", state, err)
	}

	datacenter := object.NewDatacenter(r.client.Client, r.lab.datacenter)
	task, err := datacenter.PowerOnVM(r.ctx, []ref{vm.Reference()})
	must(t, err)
	info, err := task.WaitForResult(r.ctx)
	must(t, err)
	attempted := info.Result.(types.ClusterPowerOnVmResult).Attempted
	r.fails(object.NewTask(r.client.Client, *attempted[0].Task), nil)

	r.fails(vm.Reset(r.ctx))
	if state, _ := vm.PowerState(r.ctx); state != poweredOff {
		t.Error("it runs")
	}
	for _, method := range []string{"PowerOnVApp_Task", "InstantClone_Task"} {
		if implementsAnywhere(r.lab, method) {
			t.Errorf("%s is a path to power-on that is not checked", method)
		}
	}
}

// implementsAnywhere says whether some object that exists has the method.
func implementsAnywhere(lab *Lab, method string) bool {
	return slices.ContainsFunc(lab.registry.AllReference(""), func(o mo.Reference) bool { return implements(o, method) })
}

// The device of a moved VM is no longer valid: its systemId is the old host's.
func TestMovedVMDoesNotStart(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.gpuSpec())
	h := r.host("esx-02")
	r.finish(vm.Relocate(r.ctx, types.VirtualMachineRelocateSpec{Host: &h}, types.VirtualMachineMovePriorityDefaultPriority))
	if !strings.HasPrefix(r.readVM(vm, "runtime.host").Runtime.Host.Value, "host-") || *r.readVM(vm, "runtime.host").Runtime.Host != h {
		t.Error("it did not move")
	}
	r.refusesPowerOn(vm, "systemId does not match")
}
