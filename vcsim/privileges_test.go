package main

import (
	"reflect"
	"slices"
	"testing"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// R13: what each call needs, and on which object, as the API reference has it.
func TestPrivilegesOfCalls(t *testing.T) {
	r := newRig(t)
	name := r.lab.description.Networks[0]
	template, vm := r.template().Reference(), r.clone("vm", r.plainSpec("esx-01")).Reference()
	store, network, pool, folder := r.lab.datastores["store"], r.lab.networks[name], r.lab.pool, r.lab.vmFolder
	clone := r.plainSpec("esx-01")
	clone.Config.InstanceUuid = "4f1f6f8e-0000-4000-8000-000000000001"
	backing := &types.VirtualEthernetCardNetworkBackingInfo{}
	backing.DeviceName = name
	other := r.onNetwork(backing)
	other.Config.DeviceChange[0].GetVirtualDeviceConfigSpec().Device.GetVirtualDevice().Connectable = &types.VirtualDeviceConnectInfo{}
	disk := func(operation types.VirtualDeviceConfigSpecOperation, file types.VirtualDeviceConfigSpecFileOperation) *types.ReconfigVM_Task {
		change := &types.VirtualDeviceConfigSpec{Operation: operation, FileOperation: file, Device: &types.VirtualDisk{}}
		return &types.ReconfigVM_Task{This: vm, Spec: types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{change}}}
	}
	const remove, add = types.VirtualDeviceConfigSpecOperationRemove, types.VirtualDeviceConfigSpecOperationAdd
	for name, c := range map[string]struct {
		on   ref
		body any
		want []need
	}{
		"clone": {template, &types.CloneVM_Task{This: template, Folder: folder, Spec: clone}, []need{
			{"VirtualMachine.Provisioning.DeployTemplate", template}, {"VirtualMachine.Inventory.CreateFromExisting", folder},
			{"Resource.AssignVMToPool", pool}, {"Datastore.AllocateSpace", store}, {"VirtualMachine.Config.AddNewDisk", folder},
			{"VirtualMachine.Config.Settings", folder}, {"Network.Assign", network},
		}},
		"clone on another network": {template, &types.CloneVM_Task{This: template, Folder: folder, Spec: other}, []need{
			{"VirtualMachine.Provisioning.DeployTemplate", template}, {"VirtualMachine.Inventory.CreateFromExisting", folder},
			{"Resource.AssignVMToPool", pool}, {"Datastore.AllocateSpace", store}, {"VirtualMachine.Config.AddNewDisk", folder},
			{"VirtualMachine.Config.EditDevice", folder}, {"VirtualMachine.Interact.DeviceConnection", folder}, {"Network.Assign", network},
		}},
		"destroy":   {vm, &types.Destroy_Task{This: vm}, []need{{"VirtualMachine.Inventory.Delete", vm}, {"VirtualMachine.Inventory.Delete", folder}}},
		"relocate":  {vm, &types.RelocateVM_Task{This: vm, Spec: types.VirtualMachineRelocateSpec{Pool: &pool}}, []need{{"Resource.ColdMigrate", vm}, {"Resource.AssignVMToPool", pool}}},
		"mark":      {template, &types.MarkAsVirtualMachine{This: template, Pool: pool}, []need{{"VirtualMachine.Provisioning.MarkAsVM", template}, {"Resource.AssignVMToPool", pool}}},
		"disk":      {vm, disk(add, types.VirtualDeviceConfigSpecFileOperationCreate), []need{{"VirtualMachine.Config.AddNewDisk", vm}}},
		"old disk":  {vm, disk(add, ""), []need{{"VirtualMachine.Config.AddExistingDisk", vm}}},
		"less disk": {vm, disk(remove, ""), []need{{"VirtualMachine.Config.RemoveDisk", vm}}},
	} {
		method := &simulator.Method{Name: reflect.TypeOf(c.body).Elem().Name(), This: c.on, Body: c.body}
		if got := r.lab.needs(method); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, not %v", name, got, c.want)
		}
	}
	r.finish(r.vm(vm).PowerOn(r.ctx))
	moving := &simulator.Method{Name: "RelocateVM_Task", This: vm, Body: &types.RelocateVM_Task{This: vm}}
	if got := r.lab.needs(moving); !slices.Equal(got, []need{{"Resource.HotMigrate", vm}}) {
		t.Errorf("while it runs: %v", got)
	}
}

// R13: NoPermission names the inventory object, also for a call on one of its managers.
func TestNoPermissionNamesTheHost(t *testing.T) {
	r := newRig(t)
	system := *r.readHost("esx-01", "configManager").ConfigManager.PciPassthruSystem
	method := &simulator.Method{Name: "UpdatePassthruConfig", This: system, Body: &types.UpdatePassthruConfig{This: system}}
	f, ok := r.lab.authorize("readonly@lab.local", method).(*types.NoPermission)
	if !ok || f.PrivilegeId != "Host.Config.PciPassthru" || *f.Object != r.host("esx-01") {
		t.Errorf("%v", f)
	}
}
