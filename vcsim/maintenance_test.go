package main

import (
	"testing"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

func (r *rig) hostSystem(name string) *object.HostSystem {
	return object.NewHostSystem(r.client.Client, r.host(name))
}

func (r *rig) startReboot(name string, force bool) *object.Task {
	r.Helper()
	res, err := methods.RebootHost_Task(r.ctx, r.client.Client, &types.RebootHost_Task{This: r.host(name), Force: force})
	must(r.T, err)
	return object.NewTask(r.client.Client, res.Returnval)
}

// reboot reboots and waits until the host is back.
func (r *rig) reboot(name string, force bool) {
	r.Helper()
	must(r.T, r.startReboot(name, force).Wait(r.ctx))
	if state := r.readHost(name, "runtime").Runtime.ConnectionState; state != types.HostSystemConnectionStateNotResponding {
		r.Errorf("while it reboots it is %s", state)
	}
	r.until("it is back", func() bool {
		return r.readHost(name, "runtime").Runtime.ConnectionState == types.HostSystemConnectionStateConnected
	})
}

// R4: maintenance mode waits for the VM that holds a device; a timeout ends the wait.
func TestMaintenanceWaitsForTheDevicesHolder(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.gpuSpec())
	r.finish(vm.PowerOn(r.ctx))
	if _, ok := r.fails(r.hostSystem("esx-01").EnterMaintenanceMode(r.ctx, 1, false, nil)).(*types.Timedout); !ok {
		t.Error("unexpected fault")
	}
	task, err := r.hostSystem("esx-01").EnterMaintenanceMode(r.ctx, 0, false, nil)
	must(t, err)
	r.finish(vm.PowerOff(r.ctx))
	must(t, task.Wait(r.ctx))
	if _, ok := r.fails(vm.PowerOn(r.ctx)).(*types.InvalidState); !ok {
		t.Error("power-on in maintenance mode: unexpected fault")
	}
	if _, ok := r.fails(r.startClone("more", r.plainSpec("esx-01")), nil).(*types.InvalidState); !ok {
		t.Error("clone in maintenance mode: unexpected fault")
	}
	if _, ok := r.fails(r.hostSystem("esx-01").EnterMaintenanceMode(r.ctx, 0, false, nil)).(*types.InvalidState); !ok {
		t.Error("maintenance mode twice: unexpected fault")
	}
	r.finish(r.hostSystem("esx-01").ExitMaintenanceMode(r.ctx, 0))
	r.finish(vm.PowerOn(r.ctx))
}

// R4: a reboot with running VMs is refused unless forced; then they are powered off.
func TestRebootNeedsMaintenanceMode(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.gpuSpec())
	r.finish(vm.PowerOn(r.ctx))
	if _, ok := r.fails(r.startReboot("esx-01", false), nil).(*types.InvalidState); !ok {
		t.Error("unexpected fault")
	}
	before := time.Now()
	r.reboot("esx-01", true)
	m := r.readVM(vm, "runtime")
	if m.Runtime.PowerState != poweredOff || m.Runtime.ConnectionState != types.VirtualMachineConnectionStateConnected {
		t.Errorf("the VM is %s and %s", m.Runtime.PowerState, m.Runtime.ConnectionState)
	}
	if boot := r.readHost("esx-01", "runtime").Runtime.BootTime; boot == nil || boot.Before(before.Add(-time.Second)) {
		t.Errorf("it booted at %v", boot)
	}
	r.finish(vm.PowerOn(r.ctx))
}

// R11: VMs on a disconnected host keep running, but cannot be changed.
func TestDisconnectedHost(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.gpuSpec())
	r.finish(vm.PowerOn(r.ctx))
	r.control("POST", "/hosts/esx-01/disconnect", "")
	for name, task := range map[string]func() (*object.Task, error){
		"power-off": func() (*object.Task, error) { return vm.PowerOff(r.ctx) },
		"reconfigure": func() (*object.Task, error) {
			return vm.Reconfigure(r.ctx, types.VirtualMachineConfigSpec{Annotation: "x"})
		},
		"clone": func() (*object.Task, error) { return r.startClone("other", r.plainSpec("esx-01")), nil },
	} {
		if _, ok := r.fails(task()).(*types.HostNotConnected); !ok {
			t.Errorf("%s: unexpected fault", name)
		}
	}
	m := r.readVM(vm, "runtime")
	if m.Runtime.PowerState != poweredOn || m.Runtime.ConnectionState != types.VirtualMachineConnectionStateDisconnected {
		t.Errorf("the VM is %s and %s", m.Runtime.PowerState, m.Runtime.ConnectionState)
	}
	r.control("POST", "/hosts/esx-01/reconnect", "")
	r.finish(vm.PowerOff(r.ctx))
}

// R11: a host that loses power takes its VMs down; a clone in progress fails.
func TestHostLosesPower(t *testing.T) {
	r := newRig(t, func(d *Description) { d.Timings.CloneS = 0.5 })
	vm := r.clone("vm", r.gpuSpec())
	r.finish(vm.PowerOn(r.ctx))
	clone := r.startClone("late", r.plainSpec("esx-01"))
	r.control("POST", "/hosts/esx-01/power-off", "")
	if _, ok := r.fails(clone, nil).(*types.HostNotConnected); !ok {
		t.Error("unexpected fault")
	}
	if state, _ := vm.PowerState(r.ctx); state != poweredOff || len(r.lab.bindings()) != 0 {
		t.Errorf("the VM is %s and holds %v", state, r.lab.bindings())
	}
	r.control("POST", "/hosts/esx-01/reconnect", "")
	r.finish(vm.PowerOn(r.ctx))
}

// A host says whether it can be rebooted through the API.
func TestAHostThatCannotBeRebooted(t *testing.T) {
	r := newRig(t, func(d *Description) { d.Hosts[1].NoReboot = true })
	if r.readHost("esx-02", "capability").Capability.RebootSupported || !r.readHost("esx-01", "capability").Capability.RebootSupported {
		t.Error("the capability is not reported")
	}
	r.finish(r.hostSystem("esx-02").EnterMaintenanceMode(r.ctx, 0, false, nil))
	if _, ok := r.fails(r.startReboot("esx-02", false), nil).(*types.NotSupported); !ok {
		t.Error("unexpected fault")
	}
}
