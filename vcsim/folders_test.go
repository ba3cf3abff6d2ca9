package main

import (
	"slices"
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"
)

// However a VM is created, the rules apply to it and clients can read it (R14).
func TestCreatedVMsFollowTheRules(t *testing.T) {
	r := newRig(t)
	h := r.hostSystem("esx-01")
	pool := object.NewResourcePool(r.client.Client, r.lab.pool)
	spec := types.VirtualMachineConfigSpec{
		Name: "new", GuestId: "rockylinux_64Guest", MemoryMB: 4096, NumCPUs: 2,
		Files:        &types.VirtualMachineFileInfo{VmPathName: "[store]"},
		DeviceChange: []types.BaseVirtualDeviceConfigSpec{r.attach("esx-01", "0000:3b:00.0")},
	}
	task, err := objectFolder(r).CreateVM(r.ctx, spec, pool, h)
	r.finish(task, err)
	vm := r.vm(r.lab.vmNamed("new").Self)
	m := r.readVM(vm, "runtime", "summary")
	if m.Runtime.FaultToleranceState != types.VirtualMachineFaultToleranceStateNotConfigured || m.Summary.Config.NumCpu != 2 {
		t.Errorf("%+v", m)
	}
	r.refusesPowerOn(vm, "memory reservation")
	if _, ok := r.fails(objectFolder(r).CreateVM(r.ctx, spec, pool, h)).(*types.DuplicateName); !ok {
		t.Error("the same name: unexpected fault")
	}
	spec.Name, spec.Firmware = "other", "uefi"
	if _, ok := r.fails(objectFolder(r).CreateVM(r.ctx, spec, pool, h)).(*types.InvalidArgument); !ok {
		t.Error("no such firmware: unexpected fault")
	}
	spec.Files.VmPathName = "[none]"
	if _, ok := r.fails(objectFolder(r).CreateVM(r.ctx, spec, pool, h)).(*types.InvalidVmConfig); !ok {
		t.Error("no such datastore: unexpected fault")
	}
}

// A folder is destroyed with its contents, unless a VM in it runs.
func TestFoldersAreDestroyed(t *testing.T) {
	r := newRig(t)
	folder, err := objectFolder(r).CreateFolder(r.ctx, "site")
	must(t, err)
	inner, err := folder.CreateFolder(r.ctx, "inner")
	must(t, err)
	task, err := r.template().Clone(r.ctx, inner, "vm", r.plainSpec("esx-01"))
	r.finish(task, err)
	vm := r.vm(r.lab.vmNamed("vm").Self)
	r.finish(vm.PowerOn(r.ctx))
	if _, ok := r.fails(folder.Destroy(r.ctx)).(*types.InvalidPowerState); !ok {
		t.Error("unexpected fault")
	}
	r.finish(vm.PowerOff(r.ctx))
	r.finish(folder.Destroy(r.ctx))
	if r.lab.vmNamed("vm") != nil || r.lab.registry.Get(inner.Reference()) != nil || freeGiB(r) != 500 {
		t.Error("something is left")
	}
	if _, ok := r.fails(objectFolder(r).Destroy(r.ctx)).(*types.NotSupported); !ok {
		t.Error("the data centre's own folder: unexpected fault")
	}
}

// Waiting clients get updates of a new name and of a conversion to a template.
func TestRenamesAndTemplatesAreReported(t *testing.T) {
	r := newRig(t)
	vm := r.clone("old", r.plainSpec("esx-01"))
	f := r.follow(r.client, "name", "config.template", "summary.config.name", "resourcePool")
	f.next()
	id := vm.Reference().Value
	r.finish(vm.Rename(r.ctx, "new"))
	if changes := f.next(); !slices.Equal(changes, []string{"modify " + id + " name=new", "modify " + id + " summary.config.name=new"}) {
		t.Errorf("%v", changes)
	}
	if _, ok := r.fails(vm.Rename(r.ctx, "template")).(*types.DuplicateName); !ok {
		t.Error("unexpected fault")
	}
	must(t, vm.MarkAsTemplate(r.ctx))
	f.await("modify " + id + " config.template=true")
	r.fails(vm.PowerOn(r.ctx))
	must(t, vm.MarkAsVirtualMachine(r.ctx, *object.NewResourcePool(r.client.Client, r.lab.pool), r.hostSystem("esx-02")))
	f.await("modify " + id + " config.template=false")
	r.finish(vm.PowerOn(r.ctx))
	if host := *r.readVM(vm, "runtime.host").Runtime.Host; host != r.host("esx-02") {
		t.Errorf("it runs on %s", host.Value)
	}
}
