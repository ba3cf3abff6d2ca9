package main

import (
	"fmt"
	"sync"
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// Several operators work at once, while clients wait for updates and read everything. Meant for
// -race.
func TestConcurrentOperations(t *testing.T) {
	r := newRig(t, func(d *Description) { d.Templates[0].DiskGiB = 1 })
	stop := make(chan struct{})
	var watchers, operators sync.WaitGroup
	for range 2 {
		f := r.follow(r.login("tools@lab.local"), "name", "config.extraConfig", "runtime.powerState", "config.hardware.device", "guest.net")
		watchers.Go(func() {
			for version := ""; ; {
				select {
				case <-stop:
					return
				default:
				}
				if set := f.wait(version, 1, 0); set != nil {
					version = set.Version
				}
			}
		})
		watchers.Go(func() { r.readEverything(stop) })
	}
	for operator := range 4 {
		operators.Go(func() {
			for i := range 5 {
				r.lifeOf(fmt.Sprintf("vm-%d-%d", operator, i))
			}
		})
	}
	operators.Wait()
	close(stop)
	watchers.Wait()
	if n := len(r.lab.allVMs()); n != 1 || len(r.lab.bindings()) != 0 || freeGiB(r) != 500 {
		t.Errorf("%d VMs, %v, %d GiB are left", n, r.lab.bindings(), freeGiB(r))
	}
}

func (r *rig) lifeOf(name string) {
	client := r.login("administrator@lab.local")
	template := object.NewVirtualMachine(client.Client, r.template().Reference())
	run := func(t *object.Task, err error) bool {
		if err == nil {
			err = t.Wait(r.ctx)
		}
		return err == nil
	}
	if !run(template.Clone(r.ctx, object.NewFolder(client.Client, r.lab.vmFolder), name, r.gpuSpec())) {
		r.Errorf("%s was not cloned", name)
		return
	}
	vm := object.NewVirtualMachine(client.Client, r.lab.vmNamed(name).Self)
	if run(vm.PowerOn(r.ctx)) { // of several with the same device one gets it
		run(vm.Reconfigure(r.ctx, types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{
			&types.OptionValue{Key: "guestinfo.key", Value: name},
		}}))
		if !run(vm.PowerOff(r.ctx)) {
			r.Errorf("%s is not off", name)
		}
	}
	if !run(vm.Destroy(r.ctx)) {
		r.Errorf("%s is not gone", name)
	}
	_ = client.Logout(r.ctx)
}

func (r *rig) readEverything(stop chan struct{}) {
	client := r.login("administrator@lab.local")
	for {
		select {
		case <-stop:
			return
		default:
		}
		all, err := view.NewManager(client.Client).CreateContainerView(r.ctx, client.ServiceContent.RootFolder, nil, true)
		if err != nil {
			r.Error(err)
			return
		}
		var entities []mo.ManagedEntity
		var vms []mo.VirtualMachine
		var hosts []mo.HostSystem
		_ = all.Retrieve(r.ctx, []string{"ManagedEntity"}, []string{"name", "parent", "recentTask"}, &entities)
		_ = all.Retrieve(r.ctx, []string{"VirtualMachine"}, nil, &vms)
		_ = all.Retrieve(r.ctx, []string{"HostSystem"}, []string{"vm", "runtime", "config"}, &hosts)
		_, _ = object.NewSearchIndex(client.Client).FindByUuid(r.ctx, nil, "none", true, nil)
		var manager mo.TaskManager
		_ = property.DefaultCollector(client.Client).RetrieveOne(r.ctx, *client.ServiceContent.TaskManager, []string{"recentTask"}, &manager)
		_ = all.Destroy(r.ctx)
	}
}
