package main

import (
	"testing"

	"github.com/vmware/govmomi/vim25/types"
)

// A policy with data services is refused in a clone, wherever the spec names it, and not afterwards.
func TestPoliciesWithDataServices(t *testing.T) {
	r := newRig(t, func(d *Description) {
		d.Policies = []StoragePolicyDescription{{Name: "plain", ID: "1"}, {Name: "cache", ID: "2", DataServices: true}}
	})
	profile := func(id string) []types.BaseVirtualMachineProfileSpec {
		return []types.BaseVirtualMachineProfileSpec{&types.VirtualMachineDefinedProfileSpec{ProfileId: id}}
	}
	for what, edit := range map[string]func(*types.VirtualMachineCloneSpec){
		"home": func(s *types.VirtualMachineCloneSpec) { s.Location.Profile = profile("2") },
		"disk": func(s *types.VirtualMachineCloneSpec) {
			s.Location.Disk = []types.VirtualMachineRelocateSpecDiskLocator{{DiskId: 2000, Profile: profile("2")}}
		},
		"config":      func(s *types.VirtualMachineCloneSpec) { s.Config.VmProfile = profile("2") },
		"not a known": func(s *types.VirtualMachineCloneSpec) { s.Location.Profile = profile("3") },
	} {
		spec := r.plainSpec("esx-01")
		edit(&spec)
		if refused, ok := r.fails(r.startClone("refused", spec), nil).(*types.InvalidArgument); !ok {
			t.Errorf("%s: %#v", what, refused)
		}
	}
	spec := r.plainSpec("esx-01")
	spec.Location.Profile = profile("1")
	vm := r.clone("accepted", spec)
	if applied := r.lab.policies.list(r.lab); len(applied) != 1 || applied[0].Home != "1" || len(applied[0].Disks) != 0 {
		t.Errorf("%+v", applied)
	}
	disk := disksOf(r.readVM(vm, "config").Config)[0]
	change := types.VirtualMachineConfigSpec{VmProfile: profile("2"), DeviceChange: []types.BaseVirtualDeviceConfigSpec{
		&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: disk, Profile: profile("2")},
	}}
	r.finish(vm.Reconfigure(r.ctx, change))
	if applied := r.lab.policies.list(r.lab)[0]; applied.Home != "2" || applied.Disks["2000"] != "2" {
		t.Errorf("%+v", applied)
	}
	r.finish(vm.PowerOn(r.ctx))
	if refused, ok := r.fails(vm.Reconfigure(r.ctx, change)).(*types.InvalidPowerState); !ok {
		t.Errorf("%#v", refused)
	}
}
