package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// follower waits for updates of all VMs, like the lab's guests and gpuvm itself.
type follower struct {
	*rig
	client    *govmomi.Client
	collector ref
	version   string
}

func (r *rig) follow(client *govmomi.Client, paths ...string) *follower {
	r.Helper()
	f := &follower{rig: r, client: client}
	created, err := methods.CreatePropertyCollector(r.ctx, client.Client, &types.CreatePropertyCollector{This: client.ServiceContent.PropertyCollector})
	must(r.T, err)
	f.collector = created.Returnval
	all, err := view.NewManager(client.Client).CreateContainerView(r.ctx, client.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
	must(r.T, err)
	f.addFilter(types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: all.Reference(), Skip: ptr(true), SelectSet: []types.BaseSelectionSpec{
			&types.TraversalSpec{Type: "ContainerView", Path: "view"},
		}}},
		PropSet: []types.PropertySpec{{Type: "VirtualMachine", PathSet: paths}},
	})
	return f
}

func (f *follower) addFilter(spec types.PropertyFilterSpec) ref {
	f.Helper()
	res, err := methods.CreateFilter(f.ctx, f.client.Client, &types.CreateFilter{This: f.collector, Spec: spec})
	must(f.T, err)
	return res.Returnval
}

func (f *follower) wait(version string, seconds int32, most int32) *types.UpdateSet {
	f.Helper()
	res, err := methods.WaitForUpdatesEx(f.ctx, f.client.Client, &types.WaitForUpdatesEx{
		This: f.collector, Version: version, Options: &types.WaitOptions{MaxWaitSeconds: &seconds, MaxObjectUpdates: most},
	})
	must(f.T, err)
	return res.Returnval
}

// next returns what changed, as "kind object property=value"; it ends the test if nothing does.
func (f *follower) next() []string {
	f.Helper()
	set := f.wait(f.version, 10, 0)
	if set == nil {
		f.Fatal("nothing changed")
	}
	f.version = set.Version
	return texts(set)
}

func texts(set *types.UpdateSet) []string {
	var all []string
	for _, filter := range set.FilterSet {
		for _, object := range filter.ObjectSet {
			if len(object.ChangeSet) == 0 {
				all = append(all, fmt.Sprintf("%s %s", object.Kind, object.Obj.Value))
			}
			for _, change := range object.ChangeSet {
				all = append(all, fmt.Sprintf("%s %s %s=%v", object.Kind, object.Obj.Value, change.Name, change.Val))
			}
		}
	}
	return all
}

// await collects changes until one is the wanted one.
func (f *follower) await(wanted string) []string {
	f.Helper()
	var all []string
	for !slices.Contains(all, wanted) {
		all = append(all, f.next()...)
	}
	return all
}

// R10: waiting clients get updates of power state, addresses and guestinfo, and of new and removed
// VMs.
func TestUpdatesReachWaitingClients(t *testing.T) {
	r := newRig(t)
	tools := r.follow(r.login("tools@lab.local"), "name", "runtime.powerState", "config.extraConfig", "config.hardware.device", "guest.net")
	product := r.follow(r.client, "runtime.powerState", `config.extraConfig["guestinfo.key"]`, "guest.ipAddress")
	tools.next()
	product.next()

	vm := r.clone("vm", r.gpuSpec())
	id := vm.Reference().Value
	tools.await("enter " + id + " name=vm")
	product.await("enter " + id + " runtime.powerState=poweredOff")

	r.finish(vm.PowerOn(r.ctx))
	tools.await("modify " + id + " runtime.powerState=poweredOn")
	r.until("it has an address", func() bool { return r.readVM(vm, "guest.ipAddress").Guest.IpAddress != "" })
	ip := r.readVM(vm, "guest.ipAddress").Guest.IpAddress
	product.await("modify " + id + " guest.ipAddress=" + ip)

	key := types.OptionValue{Key: "guestinfo.key", Value: "ssh-ed25519 AAAA"}
	r.finish(vm.Reconfigure(r.ctx, types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{&key}}))
	product.await("modify " + id + ` config.extraConfig["guestinfo.key"]=` + fmt.Sprint(key))

	r.finish(vm.PowerOff(r.ctx))
	product.await("modify " + id + " runtime.powerState=poweredOff")
	r.finish(vm.Destroy(r.ctx))
	tools.await("leave " + id)
	product.await("leave " + id)
}

// Only changes are reported, and only to filters that select them.
func TestOnlyChangesAreReported(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.plainSpec("esx-01"))
	f := r.follow(r.client, "runtime.powerState", "guest.net", "config.annotation", `config.extraConfig["guestinfo.a"]`)
	f.next()
	r.finish(vm.Reconfigure(r.ctx, types.VirtualMachineConfigSpec{NumCPUs: 2, ExtraConfig: []types.BaseOptionValue{
		&types.OptionValue{Key: "guestinfo.b", Value: "another key"},
	}}))
	if set := f.wait(f.version, 0, 0); set != nil {
		t.Errorf("%v", texts(set))
	}
	r.finish(vm.Reconfigure(r.ctx, types.VirtualMachineConfigSpec{Annotation: "x"}))
	if changes := f.next(); len(changes) != 1 {
		t.Errorf("%v", changes)
	}
	begun := time.Now()
	if set := f.wait(f.version, 1, 0); set != nil || time.Since(begun) < time.Second {
		t.Errorf("%v after %s", set, time.Since(begun))
	}
}

// A lost answer is repeated; an unknown version is refused.
func TestLostAnswerIsRepeated(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.plainSpec("esx-01"))
	f := r.follow(r.client, "config.annotation")
	f.next()
	before := f.version
	r.finish(vm.Reconfigure(r.ctx, types.VirtualMachineConfigSpec{Annotation: "x"}))
	first := f.next()
	if again := texts(f.wait(before, 1, 0)); !slices.Equal(first, again) {
		t.Errorf("%v, then %v", first, again)
	}
	_, err := methods.WaitForUpdatesEx(r.ctx, r.client.Client, &types.WaitForUpdatesEx{This: f.collector, Version: "nonsense"})
	if _, ok := faultOf(t, err).(*types.InvalidCollectorVersion); !ok {
		t.Errorf("%v", err)
	}
	if n := len(f.wait("", 0, 0).FilterSet[0].ObjectSet); n != 2 {
		t.Errorf("from the start: %d objects", n)
	}
}

// Long answers are truncated and continued.
func TestUpdatesAreTruncated(t *testing.T) {
	r := newRig(t)
	r.control("POST", "/vms", `{"count": 250, "power": "off"}`)
	f := r.follow(r.client, "name")
	seen, version := 0, ""
	for parts := 1; ; parts++ {
		set := f.wait(version, 0, 0)
		for _, filter := range set.FilterSet {
			seen += len(filter.ObjectSet)
		}
		if version = set.Version; !isTrue(set.Truncated) {
			if parts != 3 || seen != 251 {
				t.Errorf("%d objects in %d parts", seen, parts)
			}
			return
		}
	}
}

// Clients get updates of a task's progress.
func TestProgressIsReported(t *testing.T) {
	r := newRig(t, func(d *Description) { d.Timings.CloneS = 0.5 })
	task := r.startClone("vm", r.plainSpec("esx-01"))
	f := &follower{rig: r, client: r.client, collector: r.client.ServiceContent.PropertyCollector}
	filter := f.addFilter(types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: task.Reference()}},
		PropSet:   []types.PropertySpec{{Type: "Task", PathSet: []string{"info.state", "info.progress", "info.result"}}},
	})
	changes := f.await("modify " + task.Reference().Value + " info.state=success")
	if len(changes) < 8 {
		t.Errorf("%v", changes)
	}
	_, err := methods.DestroyPropertyFilter(r.ctx, r.client.Client, &types.DestroyPropertyFilter{This: filter})
	must(t, err)
	if set := f.wait("", 0, 0); len(set.FilterSet) != 0 {
		t.Errorf("%v", texts(set))
	}
}

func TestWaitingCanBeCancelled(t *testing.T) {
	r := newRig(t)
	f := r.follow(r.client, "name")
	f.next()
	result := make(chan error, 1)
	go func() {
		_, err := methods.WaitForUpdatesEx(r.ctx, r.client.Client, &types.WaitForUpdatesEx{This: f.collector, Version: f.version})
		result <- err
	}()
	r.until("it waits", func() bool { return r.lab.calls.read()["administrator@lab.local"]["WaitForUpdatesEx"] == 2 })
	_, err := methods.CancelWaitForUpdates(r.ctx, r.client.Client, &types.CancelWaitForUpdates{This: f.collector})
	must(t, err)
	if _, ok := faultOf(t, <-result).(*types.RequestCanceled); !ok {
		t.Error("unexpected fault")
	}
	_, err = methods.DestroyPropertyCollector(r.ctx, r.client.Client, &types.DestroyPropertyCollector{This: f.collector})
	must(t, err)
	_, err = methods.WaitForUpdatesEx(r.ctx, r.client.Client, &types.WaitForUpdatesEx{This: f.collector})
	if _, ok := faultOf(t, err).(*types.ManagedObjectNotFound); !ok {
		t.Errorf("%v", err)
	}
}

// Reading in pages, with objects that are missing and properties that do not exist.
func TestRetrieve(t *testing.T) {
	r := newRig(t)
	r.control("POST", "/vms", `{"count": 20}`)
	all, err := view.NewManager(r.client.Client).CreateContainerView(r.ctx, r.client.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
	must(t, err)
	spec := types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: all.Reference(), Skip: ptr(true), SelectSet: []types.BaseSelectionSpec{
			&types.TraversalSpec{Type: "ContainerView", Path: "view"},
		}}},
		PropSet: []types.PropertySpec{{Type: "VirtualMachine", PathSet: []string{"name", "snapshot", "summary.config.memorySizeMB"}}},
	}
	first, err := methods.RetrievePropertiesEx(r.ctx, r.client.Client, &types.RetrievePropertiesEx{
		This: r.client.ServiceContent.PropertyCollector, SpecSet: []types.PropertyFilterSpec{spec}, Options: types.RetrieveOptions{MaxObjects: 15},
	})
	must(t, err)
	rest, err := methods.ContinueRetrievePropertiesEx(r.ctx, r.client.Client, &types.ContinueRetrievePropertiesEx{
		This: r.client.ServiceContent.PropertyCollector, Token: first.Returnval.Token,
	})
	must(t, err)
	if len(first.Returnval.Objects) != 15 || len(rest.Returnval.Objects) != 6 || rest.Returnval.Token != "" {
		t.Errorf("%d and %d objects", len(first.Returnval.Objects), len(rest.Returnval.Objects))
	}
	if last := rest.Returnval.Objects[5]; len(last.PropSet) != 2 || len(last.MissingSet) != 0 { // snapshot is unset
		t.Errorf("%+v", last)
	}
	gone := ref{Type: "VirtualMachine", Value: "vm-0"}
	var m mo.VirtualMachine
	err = property.DefaultCollector(r.client.Client).RetrieveOne(r.ctx, gone, []string{"name"}, &m)
	if f, ok := faultOf(t, err).(*types.ManagedObjectNotFound); !ok || f.Obj != gone {
		t.Errorf("%v", err)
	}
	err = property.DefaultCollector(r.client.Client).RetrieveOne(r.ctx, r.template().Reference(), []string{"runtime.noSuch"}, &m)
	if f, ok := faultOf(t, err).(*types.InvalidProperty); !ok || f.Name != "runtime.noSuch" {
		t.Errorf("%v", err)
	}
}

// With a thousand VMs an update still has only the change.
func TestManyVMs(t *testing.T) {
	r := newRig(t, func(d *Description) { d.Templates[0].DiskGiB = 1 })
	r.control("POST", "/vms", `{"count": 1000}`)
	f := r.follow(r.login("tools@lab.local"), "name", "config.extraConfig", "runtime.powerState", "config.hardware.device", "guest.net")
	for version := ""; ; {
		set := f.wait(version, 0, 0)
		if version = set.Version; !isTrue(set.Truncated) {
			f.version = version
			break
		}
	}
	for i := range 20 {
		id := r.clone(fmt.Sprint("vm-", i), r.plainSpec("esx-01")).Reference().Value
		for _, change := range f.await(fmt.Sprintf("enter %s name=vm-%d", id, i)) {
			if !strings.HasPrefix(change, "enter "+id+" ") {
				t.Errorf("%s, when only %s is new", change, id)
			}
		}
	}
}

// A call whose client disconnected ends, so that the next call on the collector is answered at
// once.
func TestClientHangsUp(t *testing.T) {
	r := newRig(t)
	f := r.follow(r.client, "name")
	f.next()
	ctx, hangUp := context.WithCancel(r.ctx)
	gone := make(chan struct{})
	go func() {
		_, _ = methods.WaitForUpdatesEx(ctx, r.client.Client, &types.WaitForUpdatesEx{This: f.collector, Version: f.version})
		close(gone)
	}()
	r.until("it waits", func() bool { return r.lab.calls.read()["administrator@lab.local"]["WaitForUpdatesEx"] == 2 })
	hangUp()
	<-gone
	if set := f.wait(f.version, 0, 0); set != nil {
		t.Errorf("%v", texts(set))
	}
}
