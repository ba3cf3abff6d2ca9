package main

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// R11: faults are injected by method and object, a number of times, at the call or in the task.
func TestFaultsAreInjected(t *testing.T) {
	r := newRig(t)
	vm, other := r.clone("vm", r.plainSpec("esx-01")), r.clone("other", r.plainSpec("esx-01"))
	r.control("POST", "/faults", `{"method": "PowerOnVM_Task", "object": "vm", "fault": "HostCommunication", "message": "the wire is cut", "count": 2}`)
	for range 2 {
		_, err := vm.PowerOn(r.ctx)
		if err == nil || !strings.Contains(err.Error(), "the wire is cut") {
			t.Fatalf("%v", err)
		}
		if _, ok := faultOf(t, err).(*types.HostCommunication); !ok {
			t.Errorf("%v", err)
		}
	}
	r.finish(other.PowerOn(r.ctx))
	r.finish(vm.PowerOn(r.ctx))
	rules := decode[[]faultRule](t, r.control("GET", "/faults", ""))
	if len(rules) != 1 || rules[0].Injected != 2 {
		t.Errorf("%+v", rules)
	}

	r.control("POST", "/faults", `{"method": "CloneVM_Task", "object": "failing", "fault": "NoDiskSpace", "where": "task"}`)
	if _, ok := r.fails(r.startClone("failing", r.plainSpec("esx-01")), nil).(*types.NoDiskSpace); !ok {
		t.Error("unexpected fault")
	}
	r.clone("fine", r.plainSpec("esx-01"))
	r.control("DELETE", "/faults", "")
	r.clone("failing", r.plainSpec("esx-01"))
}

func TestFaultRulesAreChecked(t *testing.T) {
	r := newRig(t)
	for body, complaint := range map[string]string{
		`{"fault": "NotFound"}`:                               "method",
		`{"method": "PowerOnVM_Task"}`:                        "fault",
		`{"method": "PowerOnVM_Task", "fault": "NoSuch"}`:     "not a type",
		`{"method": "PowerOnVM_Task", "fault": "AboutInfo"}`:  "not a fault",
		`{"method": "*", "fault": "NotFound", "times": 1}`:    "times",
		`{"method": "*", "fault": "NotFound", "where": "vm"}`: "where",
	} {
		status, answer := r.tryControl("POST", "/faults", body)
		if status != http.StatusBadRequest || !strings.Contains(string(answer), complaint) {
			t.Errorf("%s: %d %s", body, status, answer)
		}
	}
}

func TestProbabilityAndDelay(t *testing.T) {
	r := newRig(t)
	r.control("POST", "/faults", `{"method": "CurrentTime", "fault": "InvalidState", "probability": 0.5}`)
	failures := 0
	for range 100 {
		if r.currentTime() != nil {
			failures++
		}
	}
	if failures < 20 || failures > 80 {
		t.Errorf("%d of 100 failed", failures)
	}
	r.control("DELETE", "/faults", "")
	r.control("POST", "/faults", `{"method": "CurrentTime", "delay_s": 0.2}`)
	begun := time.Now()
	must(t, r.currentTime())
	if took := time.Since(begun); took < 200*time.Millisecond {
		t.Errorf("it took %s", took)
	}
}

// R11: the answer is lost, but the VM is created.
func TestAnswerIsDropped(t *testing.T) {
	r := newRig(t)
	r.control("POST", "/drop-after", `{"method": "CloneVM_Task", "count": 1}`)
	folder := r.template()
	_, err := folder.Clone(r.ctx, objectFolder(r), "vm", r.plainSpec("esx-01"))
	if err == nil {
		t.Fatal("there was an answer")
	}
	if isFault(err) {
		t.Fatalf("the answer was a fault: %s", err)
	}
	r.until("the clone is there", func() bool { return r.lab.vmNamed("vm") != nil })
	r.clone("next", r.plainSpec("esx-01"))
}

// R11: Tools run, but the guest gets no address; for running guests and for later ones.
func TestGuestGetsNoAddress(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.plainSpec("esx-01"))
	r.control("POST", "/vms/vm/no-ip", "")
	r.finish(vm.PowerOn(r.ctx))
	r.until("tools run", func() bool { return r.readVM(vm, "guest").Guest.ToolsRunningStatus == toolsRunning })
	if g := r.readVM(vm, "guest").Guest; g.IpAddress != "" || len(g.Net) != 1 || !strings.HasPrefix(g.Net[0].IpAddress[0], "fe80:") {
		t.Errorf("%+v", g)
	}
}

func TestCustomizationFails(t *testing.T) {
	r := newRig(t)
	spec := r.plainSpec("esx-01")
	spec.Customization = &types.CustomizationSpec{
		Identity:      &types.CustomizationLinuxPrep{HostName: &types.CustomizationFixedName{Name: "x"}},
		NicSettingMap: byDHCP(),
	}
	vm := r.clone("vm", spec)
	r.control("POST", "/vms/vm/fail-customization", "")
	r.finish(vm.PowerOn(r.ctx))
	r.until("the event is there", func() bool {
		return countEvents[*types.CustomizationUnknownFailure](r, vm.Reference()) == 1
	})
}

// A problem that is requested before the VM exists applies to the VM that gets the name.
func TestGuestTroubleBeforeTheVMExists(t *testing.T) {
	r := newRig(t)
	r.control("POST", "/vms/later/no-ip", "")
	vm := r.clone("later", r.plainSpec("esx-01"))
	r.finish(vm.PowerOn(r.ctx))
	r.until("tools run", func() bool { return r.readVM(vm, "guest").Guest.ToolsRunningStatus == toolsRunning })
	if ip := r.readVM(vm, "guest").Guest.IpAddress; ip != "" {
		t.Errorf("it has %s", ip)
	}
}

// R11: vCenter mostly cleans up after a clone that failed, but not always.
func TestTaskFailsAfterItsWork(t *testing.T) {
	r := newRig(t)
	r.control("POST", "/faults", `{"method": "CloneVM_Task", "object": "half", "fault": "NoDiskSpace", "where": "after"}`)
	if _, ok := r.fails(r.startClone("half", r.plainSpec("esx-01")), nil).(*types.NoDiskSpace); !ok {
		t.Error("unexpected fault")
	}
	if r.lab.vmNamed("half") == nil {
		t.Error("nothing is left of it")
	}
}

func TestNetworkCardIsUnplugged(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.plainSpec("esx-01"))
	r.finish(vm.PowerOn(r.ctx))
	r.until("tools run", func() bool { return r.readVM(vm, "guest").Guest.ToolsRunningStatus == toolsRunning })
	r.control("POST", "/vms/vm/unplug", "")
	now := r.readVM(vm, "guest", "config")
	if now.Guest.IpAddress != "" {
		t.Errorf("it has %s", now.Guest.IpAddress)
	}
	for _, device := range now.Config.Hardware.Device {
		if card, ok := device.(types.BaseVirtualEthernetCard); ok && card.GetVirtualEthernetCard().Connectable.Connected {
			t.Error("a card is connected")
		}
	}
}

func TestUnrelatedVMsAreAdded(t *testing.T) {
	r := newRig(t)
	r.control("POST", "/vms", `{"name": "more-{i}", "count": 30, "power": "off"}`)
	r.control("POST", "/vms", `{"name": "holder", "host": "esx-02", "gpu": "0000:3b:00.0"}`)
	if n := len(r.lab.allVMs()); n != 32 {
		t.Errorf("%d VMs", n)
	}
	r.refusesPowerOn(r.clone("late", r.gpuSpecOn("esx-02", "0000:3b:00.0")), "already in use")
	status, answer := r.tryControl("POST", "/vms", `{"name": "second", "host": "esx-02", "gpu": "0000:3b:00.0"}`)
	if status != http.StatusBadRequest || !strings.Contains(string(answer), "in use") {
		t.Errorf("%d %s", status, answer)
	}
	if ip := r.lab.vmNamed("holder").Guest.IpAddress; strings.HasPrefix(ip, "127.") || ip == "" {
		t.Errorf("it has %s, which belongs to the guests", ip)
	}
}

func TestControlEndpointRejectsUnknownNames(t *testing.T) {
	r := newRig(t)
	for path, status := range map[string]int{
		"/hosts/esx-09/disconnect": http.StatusNotFound, "/hosts/esx-01/explode": http.StatusNotFound,
		"/vms/vm/explode": http.StatusNotFound, "/vms/none/unplug": http.StatusNotFound, "/nothing": http.StatusNotFound,
	} {
		if got, _ := r.tryControl("POST", path, "{}"); got != status {
			t.Errorf("%s: %d", path, got)
		}
	}
}

func isFault(err error) bool {
	var f interface{ Fault() types.BaseMethodFault }
	return errors.As(err, &f)
}

// To the caller a lost call looks like a lost answer.
func TestALostCallIsNotServed(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.plainSpec("esx-01"))
	r.control("POST", "/drop-after", `{"method": "PowerOnVM_Task", "count": 1, "lost": true}`)
	if _, err := vm.PowerOn(r.ctx); err == nil {
		t.Error("there was an answer")
	}
	if state := r.readVM(vm, "runtime").Runtime.PowerState; state != poweredOff {
		t.Error(state)
	}
	r.finish(vm.PowerOn(r.ctx))
}

func TestAllVMsAreListed(t *testing.T) {
	r := newRig(t)
	r.finish(r.clone("running", r.plainSpec("esx-01")).PowerOn(r.ctx))
	vms := decode[[]listed](t, r.control("GET", "/vms", ""))
	want := []listed{{Name: "running", PoweredOn: true}, {Name: "template", Template: true, Snapshots: 1}}
	if !slices.Equal(vms, want) {
		t.Errorf("%+v", vms)
	}
}

// A VM whose files are inaccessible shows its last summary, and refuses operations.
func TestInaccessibleVMsShowOnlyTheirSummary(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.plainSpec("esx-01"))
	read := func() mo.VirtualMachine {
		var m mo.VirtualMachine
		must(t, vm.Properties(r.ctx, vm.Reference(), []string{"name", "config", "guest", "runtime.connectionState", "summary.config.instanceUuid"}, &m))
		return m
	}
	before := read()
	r.control("POST", "/vms/vm/inaccessible", "")
	away := read()
	if away.Config != nil || away.Guest != nil || away.Name != "vm" {
		t.Errorf("%+v", away)
	}
	if away.Summary.Config.InstanceUuid != before.Config.InstanceUuid || away.Runtime.ConnectionState != types.VirtualMachineConnectionStateInaccessible {
		t.Errorf("%+v", away)
	}
	for name, start := range map[string]func() (*object.Task, error){
		"power on": func() (*object.Task, error) { return vm.PowerOn(r.ctx) },
		"destroy":  func() (*object.Task, error) { return vm.Destroy(r.ctx) },
	} {
		if _, ok := r.fails(start()).(*types.InvalidState); !ok {
			t.Error(name + " was done")
		}
	}
	r.control("POST", "/vms/vm/accessible", "")
	if back := read(); back.Config == nil {
		t.Errorf("%+v", back)
	}
	r.finish(vm.PowerOn(r.ctx))
}

// R11: trouble comes to one of several calls: those before it pass.
func TestSomeCallsPassFirst(t *testing.T) {
	r := newRig(t)
	r.control("POST", "/faults", `{"method": "CurrentTime", "fault": "SystemError", "count": 1, "skip": 1}`)
	r.control("POST", "/drop-after", `{"method": "CurrentTime", "count": 1, "skip": 2, "lost": true}`)
	for number, wanted := range []bool{true, false, false, true} {
		if err := r.currentTime(); (err == nil) != wanted {
			t.Errorf("call %d: %v", number+1, err)
		}
	}
	if left := decode[[]dropRule](t, r.control("GET", "/drop-after", "")); len(left) != 0 {
		t.Errorf("%+v", left)
	}
}

// R11: an answer that is held back keeps the connection until its client hangs up; the call is served.
func TestHeldAnswerIsServed(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.plainSpec("esx-01"))
	r.control("POST", "/drop-after", `{"method": "PowerOnVM_Task", "count": 1, "hold": true}`)
	ctx, cancel := context.WithCancel(r.ctx)
	answered := make(chan error)
	go func() {
		_, err := vm.PowerOn(ctx)
		answered <- err
	}()
	r.until("it is served", func() bool { return r.readVM(vm, "runtime").Runtime.PowerState == poweredOn })
	select {
	case err := <-answered:
		t.Errorf("there was an answer: %v", err)
	default:
	}
	cancel()
	if err := <-answered; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// R11, R13: a session can end at a chosen call, with all that it held.
func TestSessionEndsAtACall(t *testing.T) {
	r := newRig(t)
	other := r.login("readonly@lab.local")
	_, err := property.DefaultCollector(other.Client).CreateFilter(r.ctx, types.CreateFilter{Spec: types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: r.lab.vmFolder}},
		PropSet:   []types.PropertySpec{{Type: "Folder", PathSet: []string{"name"}}},
	}})
	must(t, err)
	if sum := decode[held](t, r.control("GET", "/sessions", "")); sum != (held{Sessions: 2, Filters: 1}) {
		t.Errorf("%+v", sum)
	}
	r.control("POST", "/faults", `{"method": "CurrentTime", "count": 1, "expired": true}`)
	_, err = methods.GetCurrentTime(r.ctx, other.Client)
	if _, ok := faultOf(t, err).(*types.NotAuthenticated); !ok {
		t.Errorf("%v", err)
	}
	if sum := decode[held](t, r.control("GET", "/sessions", "")); sum != (held{Sessions: 1}) {
		t.Errorf("%+v", sum)
	}
	must(t, r.currentTime())
}
