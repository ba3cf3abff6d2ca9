package main

import (
	"strings"
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"
)

// R8: operations that a running VM with a passthrough device refuses.
func TestPassthroughRestrictsOperations(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.gpuSpec())
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
		t.Error("hot-add: unexpected fault")
	}
}

// R8: without a device all of them work.
func TestVMsWithoutPCIDevicesAreNotRestricted(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.plainSpec("esx-01"))
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

// R8: a VM with vGPUs can be suspended, and moved to a host with space for them.
func TestVGPUsAreSuspendedAndMoved(t *testing.T) {
	r := newRig(t, sharing, func(d *Description) {
		d.Hosts[1].GraphicsType, d.Hosts[1].GPUs[0].Passthrough = "sharedDirect", &Passthrough{Capable: true}
		d.Hosts[1].GPUs[0].VGPUProfiles = []VGPUProfile{{"grid_p100-8q", 8}}
	})
	vms := make([]*object.VirtualMachine, 3)
	for i := range vms {
		vms[i] = r.clone(string(rune('a'+i)), r.vgpuSpec("grid_p100-8q"))
		r.finish(vms[i].PowerOn(r.ctx))
	}
	move := func(vm *object.VirtualMachine) (*object.Task, error) {
		h := r.host("esx-02")
		return vm.Relocate(r.ctx, types.VirtualMachineRelocateSpec{Host: &h}, types.VirtualMachineMovePriorityDefaultPriority)
	}
	r.finish(vms[0].Suspend(r.ctx))
	r.finish(vms[0].PowerOn(r.ctx))
	r.finish(move(vms[0]))
	r.finish(move(vms[1]))
	if _, ok := r.fails(move(vms[2])).(*types.InsufficientGraphicsResourcesFault); !ok {
		t.Error("a third vGPU on a full card: unexpected fault")
	}
	for i, want := range []string{"esx-02", "esx-02", "esx-01"} {
		if host := *r.readVM(vms[i], "runtime.host").Runtime.Host; host != r.host(want) {
			t.Errorf("%d is on %v", i, host)
		}
	}
	users := r.readHost("esx-02", "config.graphicsInfo").Config.GraphicsInfo[0].Vm
	if len(users) != 2 {
		t.Errorf("esx-02's card is used by %v", users)
	}
	if _, ok := r.fails(vms[0].CreateSnapshot(r.ctx, "s", "", true, false)).(*types.GenericVmConfigFault); !ok {
		t.Error("snapshot with memory: unexpected fault")
	}
}
