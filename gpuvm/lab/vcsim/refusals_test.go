package main

import (
	"strings"
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"
)

// R8: what a running VM with a passthrough device does not do.
func TestPassthroughForbids(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.wish())
	r.finish(vm.PowerOn(r.ctx))
	h := r.host("esx-02")
	for name, start := range map[string]func() (*object.Task, error){
		"suspend":              func() (*object.Task, error) { return vm.Suspend(r.ctx) },
		"snapshot with memory": func() (*object.Task, error) { return vm.CreateSnapshot(r.ctx, "s", "", true, false) },
		"vMotion": func() (*object.Task, error) {
			return vm.Relocate(r.ctx, types.VirtualMachineRelocateSpec{Host: &h}, types.VirtualMachineMovePriorityDefaultPriority)
		},
	} {
		f, ok := r.fails(start()).(*types.GenericVmConfigFault)
		if !ok || !strings.Contains(f.Reason, name) {
			t.Errorf("%s: %#v", name, f)
		}
	}
	if state, _ := vm.PowerState(r.ctx); state != poweredOn {
		t.Errorf("it is %s", state)
	}
	again := types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{r.attach("esx-01", "0000:af:00.0")}}
	if _, ok := r.fails(vm.Reconfigure(r.ctx, again)).(*types.InvalidPowerState); !ok {
		t.Error("hot-add: another fault")
	}
}

// R8: without a device all of it works.
func TestOrdinaryVMsDoAllOfIt(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.plainWish("esx-01"))
	r.finish(vm.PowerOn(r.ctx))
	h := r.host("esx-02")
	r.finish(vm.CreateSnapshot(r.ctx, "s", "", true, false))
	r.finish(vm.Relocate(r.ctx, types.VirtualMachineRelocateSpec{Host: &h}, types.VirtualMachineMovePriorityDefaultPriority))
	r.finish(vm.Suspend(r.ctx))
	if state, _ := vm.PowerState(r.ctx); state != suspended {
		t.Errorf("it is %s", state)
	}
	r.finish(vm.PowerOn(r.ctx))
}
