package main

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/pbm"
	pbmtypes "github.com/vmware/govmomi/pbm/types"
	"github.com/vmware/govmomi/vapi/library"
	vapi "github.com/vmware/govmomi/vapi/rest"
	"github.com/vmware/govmomi/vapi/tags"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// What other clients of a vCenter need of the lab: govc, Terraform's provider, Ansible, Packer.

func (r *rig) rest(user string) (*vapi.Client, error) {
	client := vapi.NewClient(r.client.Client)
	return client, client.Login(r.ctx, url.UserPassword(user, testPassword))
}

// The REST API has tags and content libraries, for the lab's own users only.
func TestTagsAndContentLibraries(t *testing.T) {
	r := newRig(t)
	client, err := r.rest("administrator@lab.local")
	must(t, err)
	manager := tags.NewManager(client)
	category, err := manager.CreateCategory(r.ctx, &tags.Category{Name: "team", Cardinality: "SINGLE", AssociableTypes: []string{"VirtualMachine"}})
	must(t, err)
	tag, err := manager.CreateTag(r.ctx, &tags.Tag{Name: "learning", CategoryID: category})
	must(t, err)
	must(t, manager.AttachTag(r.ctx, tag, r.template()))
	attached, err := manager.GetAttachedTags(r.ctx, r.template())
	must(t, err)
	if len(attached) != 1 || attached[0].Name != "learning" {
		t.Errorf("%+v", attached)
	}
	libraries := library.NewManager(client)
	_, err = libraries.CreateLibrary(r.ctx, library.Library{
		Name: "images", Type: "LOCAL", Storage: []library.StorageBacking{{DatastoreID: r.lab.datastores["store"].Value, Type: "DATASTORE"}},
	})
	must(t, err)
	found, err := libraries.GetLibraryByName(r.ctx, "images")
	must(t, err)
	if found.Name != "images" {
		t.Errorf("%+v", found)
	}
}

// A session of the REST API needs a password of the lab.
func TestRESTAPIRequiresAPassword(t *testing.T) {
	r := newRig(t)
	client := vapi.NewClient(r.client.Client)
	if err := client.Login(r.ctx, url.UserPassword("administrator@lab.local", "wrong")); err == nil {
		t.Error("a wrong password was accepted")
	}
	for _, c := range []struct{ path, authorization string }{
		{"/api", ""}, {"/api/", ""}, {"/rest/com/vmware/cis/session", "SIGN token=x"}, {"/rest/com/vmware/cis/tagging/tag", ""},
	} {
		u := *r.client.Client.URL()
		u.Path = c.path
		request, err := http.NewRequestWithContext(r.ctx, http.MethodPost, u.String(), http.NoBody)
		must(t, err)
		request.Header.Set("Authorization", c.authorization)
		answer, err := r.client.Client.Client.Client.Do(request)
		must(t, err)
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s with %q: %s", c.path, c.authorization, answer.Status)
		}
	}
}

// Policies are at /pbm, where govmomi looks for them, with what is applied where.
func TestStoragePoliciesByGovmomi(t *testing.T) {
	r := newRig(t, func(d *Description) {
		d.Policies = []StoragePolicyDescription{{Name: "plain", ID: "1"}, {Name: "cache", ID: "2"}}
	})
	client, err := pbm.NewClient(r.ctx, r.client.Client)
	must(t, err)
	id, err := client.ProfileIDByName(r.ctx, "cache")
	must(t, err)
	if id != "2" {
		t.Errorf("cache is %s", id)
	}
	spec := r.plainSpec("esx-01")
	spec.Location.Profile = []types.BaseVirtualMachineProfileSpec{&types.VirtualMachineDefinedProfileSpec{ProfileId: "1"}}
	vm := r.clone("vm", spec)
	for kind, want := range map[string]int{vm.Reference().Value: 1, vm.Reference().Value + ":2000": 0} {
		applied, err := client.QueryAssociatedProfile(r.ctx, pbmtypes.PbmServerObjectRef{ObjectType: "virtualMachine", Key: kind})
		must(t, err)
		if len(applied) != want || (want == 1 && applied[0].UniqueId != "1") {
			t.Errorf("%s: %+v", kind, applied)
		}
	}
}

// Every network card has an allocation, which Terraform's provider reads without looking.
func TestCardsHaveAnAllocation(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.plainSpec("esx-01"))
	for _, vm := range []*object.VirtualMachine{vm, r.template()} {
		cards := object.VirtualDeviceList(r.readVM(vm, "config").Config.Hardware.Device).SelectByType(&types.VirtualVmxnet3{})
		if len(cards) == 0 {
			t.Error("there is no card")
		}
		for _, card := range cards {
			allocation := card.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard().ResourceAllocation
			if allocation == nil || allocation.Share.Level != types.SharesLevelNormal || *allocation.Limit != -1 {
				t.Errorf("%+v", allocation)
			}
		}
	}
}

// Terraform's provider leaves the deviceId out, and vCenter starts its VMs.
func TestADeviceWithoutItsID(t *testing.T) {
	r := newRig(t)
	spec := r.gpuSpec()
	backingOf(&spec).DeviceId = ""
	r.finish(r.clone("vm", spec).PowerOn(r.ctx))
	if bound := r.lab.bindings(); len(bound) != 1 || bound[0].VM != "vm" {
		t.Errorf("%v", bound)
	}
}

// Two clients share a collector: each continues from its own version.
func TestOlderVersionsAreValid(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.plainSpec("esx-01"))
	f := r.follow(r.client, "config.annotation")
	f.next()
	oldest := f.version
	var steps [][]string
	for _, note := range []string{"a", "b", "c"} {
		r.finish(vm.Reconfigure(r.ctx, types.VirtualMachineConfigSpec{Annotation: note}))
		steps = append(steps, f.next())
	}
	version := oldest
	for _, want := range steps {
		set := f.wait(version, 1, 0)
		if got := texts(set); !slices.Equal(got, want) {
			t.Errorf("after %s: %v instead of %v", version, got, want)
		}
		version = set.Version
	}
	if version != f.version {
		t.Errorf("%s instead of %s", version, f.version)
	}
	f.wait("", 1, 0) // a client that begins does not take the others' versions away
	if set := f.wait(version, 1, 0); len(texts(set)) == 0 {
		t.Error("nothing after the version before that of who began")
	}
	next, err := strconv.Atoi(f.version)
	must(t, err)
	for _, unknown := range []string{"0", "-1", strconv.Itoa(next + 5)} {
		_, err := methods.WaitForUpdatesEx(r.ctx, r.client.Client, &types.WaitForUpdatesEx{This: f.collector, Version: unknown})
		if _, ok := faultOf(t, err).(*types.InvalidCollectorVersion); !ok {
			t.Errorf("version %s: %v", unknown, err)
		}
	}
}

// TaskInProgress names the other task.
func TestTaskInProgressNamesTheTask(t *testing.T) {
	r := newRig(t, func(d *Description) { d.Timings.PowerOnS = 1 })
	vm := r.clone("vm", r.plainSpec("esx-01"))
	first, err := vm.PowerOn(r.ctx)
	must(t, err)
	r.until("it is being powered on", func() bool {
		r.lab.bootTimers.Lock()
		defer r.lab.bootTimers.Unlock()
		return len(r.lab.bootTimers.starting) > 0
	})
	for what, start := range map[string]func() (*object.Task, error){
		"power on": func() (*object.Task, error) { return vm.PowerOn(r.ctx) },
		"destroy":  func() (*object.Task, error) { return vm.Destroy(r.ctx) },
	} {
		busy, ok := r.fails(start()).(*types.TaskInProgress)
		if !ok || busy.Task != first.Reference() {
			t.Errorf("%s: %#v", what, busy)
		}
	}
	r.finish(first, nil)
}

// A VM that runs with a GPU can be moved to another resource pool, but not to another host.
func TestRunningGPUVMCanChangePool(t *testing.T) {
	r := newRig(t)
	root := object.NewResourcePool(r.client.Client, r.lab.pool)
	pool, err := root.Create(r.ctx, "learning", types.DefaultResourceConfigSpec())
	must(t, err)
	vm := r.clone("vm", r.gpuSpec())
	r.finish(vm.PowerOn(r.ctx))
	into := pool.Reference()
	r.finish(vm.Relocate(r.ctx, types.VirtualMachineRelocateSpec{Pool: &into}, types.VirtualMachineMovePriorityDefaultPriority))
	if now := *r.readVM(vm, "resourcePool").ResourcePool; now != into {
		t.Errorf("it is in %v", now)
	}
	_, err = methods.MoveIntoResourcePool(r.ctx, r.client.Client, &types.MoveIntoResourcePool{This: r.lab.pool, List: []ref{vm.Reference()}})
	must(t, err)
	if now := *r.readVM(vm, "resourcePool").ResourcePool; now != r.lab.pool {
		t.Errorf("it is in %v", now)
	}
	if len(r.lab.bindings()) != 1 {
		t.Errorf("%v", r.lab.bindings())
	}
	_, err = methods.MoveIntoResourcePool(r.ctx, r.client.Client, &types.MoveIntoResourcePool{This: into, List: []ref{r.template().Reference()}})
	if _, ok := faultOf(t, err).(*types.NotSupported); !ok {
		t.Errorf("a template: %v", err)
	}
}

// An unregistered VM is registered again with its GPU, its disks and its identity.
func TestGPUVMCanBeRegisteredAgain(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.gpuSpec())
	before := r.readVM(vm, "config").Config
	folder, pool, host := objectFolder(r), object.NewResourcePool(r.client.Client, r.lab.pool), object.NewHostSystem(r.client.Client, r.host("esx-01"))
	register := func(name string) (*object.Task, error) {
		return folder.RegisterVM(r.ctx, before.Files.VmPathName, name, false, pool, host)
	}
	if _, ok := r.fails(register("twice")).(*types.AlreadyExists); !ok {
		t.Error("one that is registered: unexpected fault")
	}
	must(t, vm.Unregister(r.ctx))
	if _, ok := r.fails(register("template")).(*types.DuplicateName); !ok {
		t.Error("a name that is taken: unexpected fault")
	}
	task, err := register("")
	must(t, err)
	info, err := task.WaitForResult(r.ctx)
	must(t, err)
	again := r.vm(info.Result.(ref))
	after := r.readVM(again, "config").Config
	if again.Reference() == vm.Reference() || after.InstanceUuid != before.InstanceUuid || after.Name != "vm" {
		t.Errorf("%v: %+v", again.Reference(), after)
	}
	r.finish(again.PowerOn(r.ctx))
	if len(r.lab.bindings()) != 1 {
		t.Errorf("%v", r.lab.bindings())
	}
	r.finish(again.PowerOff(r.ctx))
	r.finish(again.Destroy(r.ctx))
	if _, ok := r.fails(register("")).(*types.NotFound); !ok {
		t.Error("one that was destroyed: unexpected fault")
	}
	if _, ok := r.fails(folder.RegisterVM(r.ctx, "[nowhere] vm/vm.vmx", "", false, pool, host)).(*types.InvalidDatastorePath); !ok {
		t.Error("no datastore: unexpected fault")
	}
}

// A VM's own environment browser describes the VM's version, which Terraform's provider compares
// with its own before it changes a VM.
func TestVMsBrowserDescribesItsOwnHardware(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.gpuSpec())
	var held mo.VirtualMachine
	must(t, vm.Properties(r.ctx, vm.Reference(), []string{"environmentBrowser", "config.version"}, &held))
	describes := func(browser ref, key string) (string, int32) {
		t.Helper()
		answer, err := methods.QueryConfigOption(r.ctx, r.client.Client, &types.QueryConfigOption{This: browser, Key: key})
		must(t, err)
		return answer.Returnval.Version, answer.Returnval.HardwareOptions.HwVersion
	}
	for _, c := range []struct {
		browser ref
		key     string
		version int32
	}{
		{held.EnvironmentBrowser, "", 17}, {held.EnvironmentBrowser, "vmx-19", 19},
		{r.lab.browser(), "", 21}, {r.lab.browser(), "vmx-13", 13},
	} {
		name, version := describes(c.browser, c.key)
		if version != c.version || name != fmt.Sprintf("vmx-%d", c.version) {
			t.Errorf("%v %q: %s, %d", c.browser, c.key, name, version)
		}
	}
	target, err := methods.QueryConfigTarget(r.ctx, r.client.Client, &types.QueryConfigTarget{This: held.EnvironmentBrowser})
	must(t, err)
	if len(target.Returnval.PciPassthrough) == 0 {
		t.Error("it has no devices")
	}
	r.finish(vm.UpgradeVM(r.ctx, "vmx-19"))
	if _, version := describes(held.EnvironmentBrowser, ""); version != 19 {
		t.Errorf("after the upgrade: %d", version)
	}
	r.finish(vm.Destroy(r.ctx))
	_, err = methods.QueryConfigOption(r.ctx, r.client.Client, &types.QueryConfigOption{This: held.EnvironmentBrowser})
	if _, ok := faultOf(t, err).(*types.ManagedObjectNotFound); !ok {
		t.Errorf("of a VM that is gone: %v", err)
	}
}

// A disk for which a client names no file, as Ansible and govc do, gets one on a datastore.
func TestAddedDisksHaveAFile(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.plainSpec("esx-01"))
	store := r.lab.datastores["store"]
	for i, backing := range []types.VirtualDeviceFileBackingInfo{{}, {FileName: "[store]"}, {Datastore: &store}, {FileName: "[store] elsewhere/data.vmdk"}} {
		disk := &types.VirtualDisk{CapacityInKB: 1 << 20}
		disk.Key, disk.ControllerKey = -1, 1000
		disk.Backing = &types.VirtualDiskFlatVer2BackingInfo{VirtualDeviceFileBackingInfo: backing}
		r.finish(vm.Reconfigure(r.ctx, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
			&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: disk},
		}}))
		config := r.readVM(vm, "config").Config
		disks := disksOf(config)
		made := disks[len(disks)-1].Backing.(*types.VirtualDiskFlatVer2BackingInfo)
		want := fmt.Sprintf("%s/vm_%d.vmdk", path.Dir(config.Files.VmPathName), i+1)
		if i == 3 {
			want = "[store] elsewhere/data.vmdk"
		}
		if made.FileName != want || made.Datastore == nil || *made.Datastore != store {
			t.Errorf("%+v became %s on %v", backing, made.FileName, made.Datastore)
		}
	}
}
