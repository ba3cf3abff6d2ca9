package main

import (
	"testing"

	"github.com/vmware/govmomi/vim25/types"
)

func TestReconfigureIsAllOrNothing(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.plainSpec("esx-01"))
	bad := types.VirtualMachineConfigSpec{
		Annotation: "changed", NumCPUs: 2,
		DeviceChange: []types.BaseVirtualDeviceConfigSpec{&types.VirtualDeviceConfigSpec{
			Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: &types.VirtualPCIPassthrough{},
		}},
	}
	if _, ok := r.fails(vm.Reconfigure(r.ctx, bad)).(*types.InvalidDeviceSpec); !ok {
		t.Error("unexpected fault")
	}
	if c := r.readVM(vm, "config").Config; c.Annotation == "changed" || c.Hardware.NumCPU == 2 {
		t.Errorf("half of it was done: %+v", c)
	}
}

func TestReconfigureEditsExtraConfig(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.plainSpec("esx-01"))
	set := func(key, value string) {
		r.finish(vm.Reconfigure(r.ctx, types.VirtualMachineConfigSpec{
			ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: key, Value: value}},
		}))
	}
	set("guestinfo.a", "1")
	set("guestinfo.a", "2")
	set("inherited", "")
	set("guestinfo.never", "")
	c := r.readVM(vm, "config.extraConfig").Config
	if option(c, "guestinfo.a") != "2" || option(c, "inherited") != "" || len(c.ExtraConfig) != 3 {
		t.Errorf("%v", c.ExtraConfig)
	}
}

// A change based on an older version is refused.
func TestReconfigureChecksTheChangeVersion(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.plainSpec("esx-01"))
	version := r.readVM(vm, "config.changeVersion").Config.ChangeVersion
	r.finish(vm.Reconfigure(r.ctx, types.VirtualMachineConfigSpec{ChangeVersion: version, Annotation: "first"}))
	if _, ok := r.fails(vm.Reconfigure(r.ctx, types.VirtualMachineConfigSpec{ChangeVersion: version, Annotation: "second"})).(*types.ConcurrentAccess); !ok {
		t.Error("unexpected fault")
	}
}

// The reservation stays locked while a passthrough device needs it; it follows the memory's size.
func TestReservationFollowsMemory(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.gpuSpec())
	r.finish(vm.Reconfigure(r.ctx, types.VirtualMachineConfigSpec{MemoryMB: 16384}))
	if c := r.readVM(vm, "config").Config; *c.MemoryAllocation.Reservation != 16384 {
		t.Errorf("%d MB are reserved", *c.MemoryAllocation.Reservation)
	}
	unlock := types.VirtualMachineConfigSpec{MemoryReservationLockedToMax: ptr(false)}
	if _, ok := r.fails(vm.Reconfigure(r.ctx, unlock)).(*types.InvalidArgument); !ok {
		t.Error("unexpected fault")
	}
}

func TestRunningVMsHardwareIsFixed(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.plainSpec("esx-01"))
	r.finish(vm.PowerOn(r.ctx))
	for name, spec := range map[string]types.VirtualMachineConfigSpec{
		"cpus":     {NumCPUs: 16},
		"memory":   {MemoryMB: 65536},
		"firmware": {Firmware: "bios"},
		"gpu":      {DeviceChange: []types.BaseVirtualDeviceConfigSpec{r.attach("esx-01", "0000:3b:00.0")}}, // R8
	} {
		if _, ok := r.fails(vm.Reconfigure(r.ctx, spec)).(*types.InvalidPowerState); !ok {
			t.Errorf("%s: unexpected fault", name)
		}
	}
	r.finish(vm.Reconfigure(r.ctx, types.VirtualMachineConfigSpec{Annotation: "this may change"}))
}

func TestDestroyNeedsAVMThatIsOff(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.plainSpec("esx-01"))
	r.finish(vm.PowerOn(r.ctx))
	if _, ok := r.fails(vm.Destroy(r.ctx)).(*types.InvalidPowerState); !ok {
		t.Error("unexpected fault")
	}
	if _, ok := r.fails(vm.PowerOn(r.ctx)).(*types.InvalidPowerState); !ok {
		t.Error("unexpected fault")
	}
	r.finish(vm.PowerOff(r.ctx))
	if _, ok := r.fails(vm.PowerOff(r.ctx)).(*types.InvalidPowerState); !ok {
		t.Error("unexpected fault")
	}
	r.finish(vm.Destroy(r.ctx))
	_, err := vm.Destroy(r.ctx)
	if _, ok := faultOf(t, err).(*types.ManagedObjectNotFound); !ok {
		t.Error(err)
	}
	host := r.readHost("esx-01", "vm")
	for _, other := range host.Vm {
		if other == vm.Reference() {
			t.Error("the host still lists it")
		}
	}
}

// vCenter changes only the name and the annotation of a template (govmomi issue 1430).
func TestOnlyNameAndAnnotationOfATemplateChange(t *testing.T) {
	r := newRig(t)
	r.finish(r.template().Reconfigure(r.ctx, types.VirtualMachineConfigSpec{Annotation: "noted"}))
	if c := r.readVM(r.template(), "config").Config; c.Annotation != "noted" {
		t.Errorf("%q", c.Annotation)
	}
	extra := types.VirtualMachineConfigSpec{
		ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: "guestinfo.a", Value: "1"}},
	}
	if _, ok := r.fails(r.template().Reconfigure(r.ctx, extra)).(*types.NotSupported); !ok {
		t.Error("unexpected fault")
	}
}
