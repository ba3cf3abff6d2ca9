package main

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/event"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// R10: the whole ConfigSpec is applied to the clone, in one step.
func TestCloneHonoursTheWholeConfigSpec(t *testing.T) {
	r := newRig(t)
	spec := r.gpuSpecOn("esx-02", "0000:3b:00.0")
	requested := uuid.NewString()
	spec.Config.InstanceUuid = requested
	spec.Config.Annotation = "made by a test"
	spec.Config.Firmware = "bios"
	spec.Config.Version = "vmx-20"
	spec.Config.NumCoresPerSocket = ptr(int32(2))
	spec.Config.CpuHotAddEnabled = ptr(true)
	spec.Config.MemoryHotAddEnabled = ptr(true)
	spec.Config.NestedHVEnabled = ptr(true)
	spec.Config.CpuAllocation = &types.ResourceAllocationInfo{Reservation: ptr(int64(1000))}
	setOption(&spec, "guestinfo.userdata", "dXNlcg==")
	vm := r.clone("whole", spec)

	m := r.readVM(vm, "name", "config", "runtime", "resourcePool", "datastore", "summary", "parent")
	c := m.Config
	for what, same := range map[string]bool{
		"name":         m.Name == "whole" && c.Name == "whole" && m.Summary.Config.Name == "whole",
		"uuid":         c.InstanceUuid == requested && c.Uuid != "",
		"annotation":   c.Annotation == "made by a test" && m.Summary.Config.Annotation == c.Annotation,
		"firmware":     c.Firmware == "bios",
		"version":      c.Version == "vmx-20",
		"cpus":         c.Hardware.NumCPU == 4 && *c.Hardware.NumCoresPerSocket == 2,
		"memory":       c.Hardware.MemoryMB == 8192 && m.Summary.Config.MemorySizeMB == 8192,
		"lock":         *c.MemoryReservationLockedToMax && *c.MemoryAllocation.Reservation == 8192,
		"hot-add":      *c.CpuHotAddEnabled && *c.MemoryHotAddEnabled && *c.NestedHVEnabled,
		"cpu":          *c.CpuAllocation.Reservation == 1000 && *c.CpuAllocation.Limit == -1,
		"inherited":    option(c, "inherited") == "yes",
		"extra config": option(c, "guestinfo.userdata") == "dXNlcg==" && option(c, "pciPassthru.use64bitMMIO") == "TRUE",
		"off":          m.Runtime.PowerState == poweredOff,
		"host":         *m.Runtime.Host == r.host("esx-02"),
		"pool":         *m.ResourcePool == r.lab.pool,
		"datastore":    m.Datastore[0] == r.lab.datastores["store"],
		"no template":  !c.Template && !m.Summary.Config.Template,
		"device":       len(fixedDevices(c)) == 1 && fixedDevices(c)[0].Key == 13000,
	} {
		if !same {
			t.Errorf("%s: %+v", what, c)
		}
	}
}

// R10: the clone gets new MAC addresses and disks; the source is unchanged.
func TestCloneHasItsOwnMACAddresses(t *testing.T) {
	r := newRig(t, func(d *Description) { d.Templates[0].NICs = ptr(2) })
	seen := map[string]bool{}
	for _, vm := range []*object.VirtualMachine{r.template(), r.clone("a", r.plainSpec("esx-01")), r.clone("b", r.plainSpec("esx-01"))} {
		for _, card := range r.lab.cards(r.readVM(vm, "config.hardware.device").Config) {
			if seen[card.mac] {
				t.Errorf("%s twice", card.mac)
			}
			seen[card.mac] = true
		}
	}
	if len(seen) != 6 {
		t.Errorf("%v", seen)
	}
}

// R10: a taken instanceUuid is replaced.
func TestCloneReplacesTakenInstanceUUID(t *testing.T) {
	r := newRig(t)
	spec := r.plainSpec("esx-01")
	spec.Config.InstanceUuid = uuid.NewString()
	first := r.readVM(r.clone("first", spec), "config.instanceUuid").Config.InstanceUuid
	second := r.readVM(r.clone("second", spec), "config.instanceUuid").Config.InstanceUuid
	if first != spec.Config.InstanceUuid || second == first || second == "" {
		t.Errorf("%s, %s", first, second)
	}
}

// A clone of a clone inherits extraConfig but not the instanceUuid.
func TestCopyCarriesTheMark(t *testing.T) {
	r := newRig(t)
	spec := r.plainSpec("esx-01")
	spec.Config.InstanceUuid = uuid.NewString()
	setOption(&spec, "gpuvm.cluster", "demo")
	original := r.clone("original", spec)
	task, err := original.Clone(r.ctx, object.NewFolder(r.client.Client, r.lab.vmFolder), "copy", r.plainSpec("esx-01"))
	r.finish(task, err)
	copy := r.lab.vmNamed("copy").Config
	if option(copy, "gpuvm.cluster") != "demo" || copy.InstanceUuid == spec.Config.InstanceUuid {
		t.Errorf("%+v", copy)
	}
}

func TestCloneRefuses(t *testing.T) {
	r := newRig(t)
	r.clone("taken", r.plainSpec("esx-01"))
	other := r.clone("other", r.plainSpec("esx-01"))
	for name, c := range map[string]struct {
		spoil func(*types.VirtualMachineCloneSpec)
		want  types.BaseMethodFault
	}{
		"taken":       {func(*types.VirtualMachineCloneSpec) {}, &types.DuplicateName{}},
		"no-pool":     {func(s *types.VirtualMachineCloneSpec) { s.Location.Pool = nil }, &types.InvalidArgument{}},
		"no-host":     {func(s *types.VirtualMachineCloneSpec) { s.Location.Host.Value = "host-0" }, &types.ManagedObjectNotFound{}},
		"no-snapshot": {func(s *types.VirtualMachineCloneSpec) { s.Location.DiskMoveType = "createNewChildDiskBacking" }, &types.InvalidArgument{}},
		"no-device": {func(s *types.VirtualMachineCloneSpec) {
			s.Config.DeviceChange = []types.BaseVirtualDeviceConfigSpec{&types.VirtualDeviceConfigSpec{
				Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: &types.VirtualVmxnet3{},
			}}
		}, &types.InvalidDeviceSpec{}},
		"foreign-snapshot": {func(s *types.VirtualMachineCloneSpec) {
			s.Location.DiskMoveType = "createNewChildDiskBacking"
			vm := other.Reference()
			s.Snapshot = &vm
		}, &types.InvalidArgument{}},
	} {
		spec := r.plainSpec("esx-01")
		c.spoil(&spec)
		if f := r.fails(r.startClone(name, spec), nil); fmt.Sprintf("%T", f) != fmt.Sprintf("%T", c.want) {
			t.Errorf("%s: %T", name, f)
		}
	}
	if free := freeGiB(r); free != 420 {
		t.Errorf("%d GiB are free after failed clones", free)
	}
}

func freeGiB(r *rig) int64 {
	var m mo.Datastore
	r.read(r.lab.datastores["store"], &m, "summary.freeSpace", "info")
	if m.Info.GetDatastoreInfo().FreeSpace != m.Summary.FreeSpace {
		r.Errorf("info and summary disagree")
	}
	return m.Summary.FreeSpace >> 30
}

// A linked clone takes no space; a full clone does, and frees it when it is destroyed.
func TestCloneTakesSpace(t *testing.T) {
	r := newRig(t)
	full := r.clone("full", r.plainSpec("esx-01"))
	linked := r.plainSpec("esx-01")
	linked.Location.DiskMoveType = "createNewChildDiskBacking"
	linked.Snapshot = r.readVM(r.template(), "snapshot").Snapshot.CurrentSnapshot
	child := r.clone("linked", linked)
	if free := freeGiB(r); free != 460 {
		t.Errorf("%d GiB are free", free)
	}
	r.finish(full.Destroy(r.ctx))
	r.finish(child.Destroy(r.ctx))
	if free := freeGiB(r); free != 500 {
		t.Errorf("%d GiB are free", free)
	}
}

// R10: at most eight provisioning operations at once on a host; the rest is queued, then runs.
func TestNinthCloneIsQueued(t *testing.T) {
	r := newRig(t, func(d *Description) {
		d.Timings.CloneS = 0.4
		d.Templates[0].DiskGiB = 1
	})
	var tasks []*object.Task
	for i := range 10 {
		tasks = append(tasks, r.startClone(fmt.Sprint("vm-", i), r.plainSpec("esx-02")))
	}
	states := map[types.TaskInfoState]int{}
	r.until("eight run", func() bool {
		clear(states)
		for _, task := range tasks {
			var m mo.Task
			r.read(task.Reference(), &m, "info.state")
			states[m.Info.State]++
		}
		return states[types.TaskInfoStateRunning] == 8
	})
	if states[types.TaskInfoStateQueued] != 2 {
		t.Errorf("%v", states)
	}
	for _, task := range tasks {
		must(t, task.Wait(r.ctx))
	}
}

// A name is reserved from the start of a clone.
func TestNameIsTakenWhileCloning(t *testing.T) {
	r := newRig(t, func(d *Description) { d.Timings.CloneS = 0.3 })
	first := r.startClone("name", r.plainSpec("esx-01"))
	second := r.startClone("name", r.plainSpec("esx-02"))
	failures := 0
	for _, task := range []*object.Task{first, second} {
		if err := task.Wait(r.ctx); err != nil {
			failures++
			if _, ok := faultOf(t, err).(*types.DuplicateName); !ok {
				t.Error(err)
			}
		}
	}
	if failures != 1 {
		t.Errorf("%d of two failed", failures)
	}
}

// A running and a queued clone can be cancelled, and leave nothing behind.
func TestCloneCanBeCancelled(t *testing.T) {
	r := newRig(t, func(d *Description) { d.Timings.CloneS = 60 })
	var tasks []*object.Task
	for i := range 9 {
		tasks = append(tasks, r.startClone(fmt.Sprint("vm-", i), r.plainSpec("esx-01")))
	}
	for _, task := range tasks {
		must(t, task.Cancel(r.ctx))
	}
	for _, task := range tasks {
		if _, ok := r.fails(task, nil).(*types.RequestCanceled); !ok {
			t.Error("unexpected fault")
		}
	}
	if free := freeGiB(r); free != 500 {
		t.Errorf("%d GiB are free", free)
	}
	if err := tasks[0].Cancel(r.ctx); err == nil {
		t.Error("a finished task was cancelled")
	}
}

// R10: Tools report the VM's own network cards with addresses of the block, and nothing when the VM
// is off.
func TestGuestReportsItsAddress(t *testing.T) {
	r := newRig(t, func(d *Description) { d.Templates[0].NICs = ptr(2) })
	vm := r.clone("Guest_1", r.plainSpec("esx-01"))
	if g := r.readVM(vm, "guest").Guest; g.ToolsRunningStatus != toolsNotRunning || len(g.Net) != 0 || g.IpAddress != "" {
		t.Errorf("a guest that is off says %+v", g)
	}
	on := func() *types.GuestInfo {
		r.finish(vm.PowerOn(r.ctx))
		r.until("tools run", func() bool {
			return r.readVM(vm, "guest.toolsRunningStatus").Guest.ToolsRunningStatus == toolsRunning
		})
		return r.readVM(vm, "guest").Guest
	}
	g := on()
	own := r.lab.cards(r.readVM(vm, "config.hardware.device").Config)
	for i, nic := range g.Net {
		preferred := slices.IndexFunc(nic.IpConfig.IpAddress, func(a types.NetIpConfigInfoIpAddress) bool {
			address := netip.MustParseAddr(a.IpAddress)
			return a.State == "preferred" && netip.MustParsePrefix("127.78.0.0/24").Contains(address) && a.PrefixLength == 24
		})
		if nic.MacAddress != own[i].mac || nic.DeviceConfigId != own[i].key || preferred < 0 {
			t.Errorf("%+v", nic)
		}
	}
	if len(g.Net) != 2 || g.IpAddress != g.Net[0].IpAddress[0] || g.HostName != "guest-1" {
		t.Errorf("%+v", g)
	}
	r.finish(vm.PowerOff(r.ctx))
	if g := r.readVM(vm, "guest").Guest; g.ToolsRunningStatus != toolsNotRunning || len(g.Net) != 0 || g.IpAddress != "" || g.HostName != "" {
		t.Errorf("a guest that is off says %+v", g)
	}
	if again := on(); again.IpAddress != g.IpAddress {
		t.Errorf("%s, then %s", g.IpAddress, again.IpAddress)
	}
}

func TestAddressesLeaveOutTheEndsOfABlock(t *testing.T) {
	a := newAddresses("127.79.0.0/23")
	seen := map[string]bool{}
	for i := range 600 {
		card := a.lease(ref{Value: fmt.Sprint(i)}, []cardInfo{{mac: "m", connected: true}})[0]
		if seen[card.address] && card.address != "" {
			t.Fatalf("%s twice", card.address)
		}
		seen[card.address] = true
	}
	for _, never := range []string{"127.79.0.0", "127.79.0.255", "127.79.1.0", "127.79.1.255"} {
		if seen[never] {
			t.Errorf("%s was given", never)
		}
	}
	if len(seen) != 2*254+1 { // and the empty one, when there were no more
		t.Errorf("%d addresses", len(seen))
	}
	a.forget(ref{Value: "5"})
	if again := a.lease(ref{Value: "new"}, []cardInfo{{mac: "m", connected: true}})[0]; again.address == "" {
		t.Error("a free address is not given again")
	}
}

// Customization happens at the first power-on, once, with events.
func TestCustomization(t *testing.T) {
	r := newRig(t)
	spec := r.plainSpec("esx-01")
	spec.Customization = &types.CustomizationSpec{
		Identity:      &types.CustomizationLinuxPrep{HostName: &types.CustomizationFixedName{Name: "tf01"}, Domain: "lab.local"},
		NicSettingMap: byDHCP(),
	}
	vm := r.clone("vm", spec)
	r.finish(vm.PowerOn(r.ctx))
	r.until("the guest has its name", func() bool { return r.readVM(vm, "guest.hostName").Guest.HostName == "tf01" })
	if n := countEvents[*types.CustomizationSucceeded](r, vm.Reference()); n != 1 {
		t.Errorf("%d events", n)
	}
}

func countEvents[T any](r *rig, vm ref) int {
	res, err := methods.QueryEvents(r.ctx, r.client.Client, &types.QueryEvents{
		This:   *r.client.ServiceContent.EventManager,
		Filter: types.EventFilterSpec{Entity: &types.EventFilterSpecByEntity{Entity: vm, Recursion: types.EventFilterSpecRecursionOptionSelf}},
	})
	must(r.T, err)
	n := 0
	for _, event := range res.Returnval {
		if _, ok := event.(T); ok {
			n++
		}
	}
	return n
}

// A task does not have the clone's name; the events of its chain do.
func TestEventChainNamesTheClone(t *testing.T) {
	r := newRig(t, func(d *Description) { d.Timings.CloneS = 0.5 })
	clone := r.clone("first", r.plainSpec("esx-01"))
	for name, source := range map[string]*object.VirtualMachine{"deployed": r.template(), "cloned": clone} {
		task, err := source.Clone(r.ctx, objectFolder(r), name, r.plainSpec("esx-01"))
		must(t, err)
		var reported mo.Task
		r.until("it has begun", func() bool {
			r.read(task.Reference(), &reported, "info")
			return reported.Info.State == types.TaskInfoStateRunning
		})
		events, err := event.NewManager(r.client.Client).QueryEvents(r.ctx, types.EventFilterSpec{EventChainId: reported.Info.EventChainId})
		must(t, err)
		if len(events) != 1 || targetOf(events[0]) != name {
			t.Errorf("%s: %+v", name, events)
		}
		r.finish(task, nil)
	}
}

func targetOf(e types.BaseEvent) string {
	switch e := e.(type) {
	case *types.VmBeingDeployedEvent:
		return e.Vm.Name
	case *types.VmBeingClonedEvent:
		return e.DestName
	}
	return ""
}

// R10: a clone has its template's memory limit, and cannot reserve more.
func TestReservationCannotExceedTheLimit(t *testing.T) {
	r := newRig(t, func(d *Description) { d.Templates[0].MemoryLimitGiB = ptr(int64(6)) })
	f, ok := r.fails(r.startClone("limited", r.gpuSpec()), nil).(*types.InvalidArgument) // of 8 GiB
	if !ok || f.InvalidProperty != "configSpec.memoryAllocation.limit" {
		t.Errorf("%#v", f)
	}
	free := r.gpuSpec()
	free.Config.MemoryAllocation = &types.ResourceAllocationInfo{Limit: ptr(int64(-1))}
	r.finish(r.clone("free", free).PowerOn(r.ctx))
	small := r.gpuSpec()
	small.Config.MemoryMB = 6 << 10
	r.clone("small", small)
}
