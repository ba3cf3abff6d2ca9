package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmware/govmomi"
	vimfault "github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const testPassword = "correct horse"

// rig is a listening lab with a client: the tests use TLS and SOAP like every client.
type rig struct {
	*testing.T
	lab    *Lab
	server *server
	dir    string
	ctx    context.Context
	client *govmomi.Client
	keys   *sync.Map // each client's session
}

// twoHosts is the smallest site with more than one host; all operations take no time.
const twoHosts = `{
 "address_block": "127.78.0.0/24",
 "hosts": [
  {"name": "esx-01", "memory_gib": 64, "gpus": [
   {"pci_address": "0000:3b:00.0", "vendor_id": 4318, "device_id": 5624, "name": "Tesla P100", "memory_gib": 16, "bars_mib": [16, 16384, 32]},
   {"pci_address": "0000:af:00.0", "vendor_id": 4318, "device_id": 5624, "name": "Tesla P100", "memory_gib": 16, "bars_mib": [16, 16384, 32]}]},
  {"name": "esx-02", "memory_gib": 64, "gpus": [
   {"pci_address": "0000:3b:00.0", "vendor_id": 4318, "device_id": 5624, "name": "Tesla P100", "memory_gib": 16, "bars_mib": [16, 16384, 32]}]}],
 "datastores": [{"name": "store", "capacity_gib": 1000, "free_gib": 500}],
 "templates": [{"name": "template", "disk_gib": 40, "snapshot": "base", "extra_config": {"inherited": "yes"}}],
 "timings": {"clone_s": 0, "power_on_s": 0, "power_off_s": 0, "boot_s": 0, "destroy_s": 0, "reboot_s": 0.2}
}`

func newRig(t *testing.T, edits ...func(*Description)) *rig {
	t.Helper()
	d, err := parseDescription([]byte(twoHosts))
	if err != nil {
		t.Fatal(err)
	}
	for _, edit := range edits {
		edit(d)
	}
	d.fill()
	if err := d.check(); err != nil {
		t.Fatal(err)
	}
	r := &rig{T: t, dir: t.TempDir(), ctx: t.Context(), keys: &sync.Map{}}
	passwords := map[string]string{}
	for _, user := range d.Users {
		passwords[user.Name] = testPassword
	}
	if r.lab, err = newLab(d, passwords, filepath.Join(r.dir, "datastores")); err != nil {
		t.Fatal(err)
	}
	o := options{stateDir: r.dir, listen: "127.0.0.1:0", control: "127.0.0.1:0"}
	if r.server, err = listen(r.lab, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.server.close)
	r.client = r.login("administrator@lab.local")
	return r
}

func (r *rig) login(user string) *govmomi.Client {
	r.Helper()
	client, err := r.tryLogin(user, testPassword)
	if err != nil {
		r.Fatal(err)
	}
	session, err := client.SessionManager.UserSession(r.ctx)
	if err != nil {
		r.Fatal(err)
	}
	r.keys.Store(client, session.Key)
	return client
}

func (r *rig) tryLogin(user, password string) (*govmomi.Client, error) {
	u, err := url.Parse(r.server.url)
	if err != nil {
		r.Fatal(err)
	}
	u.User = url.UserPassword(user, password)
	soapClient := soap.NewClient(u, false)
	if err := soapClient.SetRootCAs(filepath.Join(r.dir, "ca.pem")); err != nil {
		r.Fatal(err)
	}
	return govmomiClient(r.ctx, soapClient, u)
}

func (r *rig) host(name string) ref { return r.lab.hostNamed(name) }

func (r *rig) template() *object.VirtualMachine {
	return object.NewVirtualMachine(r.client.Client, r.lab.vmNamed("template").Self)
}

func (r *rig) vm(self ref) *object.VirtualMachine {
	return object.NewVirtualMachine(r.client.Client, self)
}

// gpuSpec is a clone with a correct passthrough configuration on esx-01, which tests modify.
func (r *rig) gpuSpec() types.VirtualMachineCloneSpec {
	return r.gpuSpecOn("esx-01", "0000:3b:00.0")
}

func (r *rig) gpuSpecOn(host, address string) types.VirtualMachineCloneSpec {
	return r.specWith(host, r.attach(host, address))
}

// specWith is configured for passthrough, with the caller's devices.
func (r *rig) specWith(host string, changes ...types.BaseVirtualDeviceConfigSpec) types.VirtualMachineCloneSpec {
	spec := r.plainSpec(host)
	spec.Config = &types.VirtualMachineConfigSpec{
		NumCPUs: 4, MemoryMB: 8192, MemoryReservationLockedToMax: types.NewBool(true),
		ExtraConfig: []types.BaseOptionValue{
			&types.OptionValue{Key: "pciPassthru.use64bitMMIO", Value: "TRUE"},
			&types.OptionValue{Key: "pciPassthru.64bitMMIOSizeGB", Value: "32"},
		},
		DeviceChange: changes,
	}
	return spec
}

func (r *rig) plainSpec(host string) types.VirtualMachineCloneSpec {
	h, store := r.host(host), r.lab.datastores["store"]
	return types.VirtualMachineCloneSpec{
		Location: types.VirtualMachineRelocateSpec{Host: &h, Pool: &r.lab.pool, Datastore: &store},
		Config:   &types.VirtualMachineConfigSpec{},
	}
}

// attach is the device as QueryConfigTarget of that host describes it.
func (r *rig) attach(host, address string) *types.VirtualDeviceConfigSpec {
	for _, p := range r.configTarget(host).PciPassthrough {
		info := p.GetVirtualMachinePciPassthroughInfo()
		if info.PciDevice.Id == address {
			backing := &types.VirtualPCIPassthroughDeviceBackingInfo{
				Id: address, DeviceId: fmt.Sprintf("%x", uint16(info.PciDevice.DeviceId)),
				SystemId: info.SystemId, VendorId: info.PciDevice.VendorId,
			}
			backing.DeviceName = info.PciDevice.DeviceName
			return addDevice(backing)
		}
	}
	r.Fatalf("%s does not offer %s", host, address)
	return nil
}

func addDevice(backing types.BaseVirtualDeviceBackingInfo) *types.VirtualDeviceConfigSpec {
	device := &types.VirtualPCIPassthrough{}
	device.Key, device.Backing = -100, backing
	return &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: device}
}

func (r *rig) configTarget(host string) *types.ConfigTarget {
	r.Helper()
	req := types.QueryConfigTarget{This: r.lab.browser()}
	if host != "" {
		h := r.host(host)
		req.Host = &h
	}
	res, err := queryConfigTarget(r.ctx, r.client.Client, &req)
	if err != nil {
		r.Fatal(err)
	}
	return res.Returnval
}

func (r *rig) startClone(name string, spec types.VirtualMachineCloneSpec) *object.Task {
	r.Helper()
	t, err := r.template().Clone(r.ctx, object.NewFolder(r.client.Client, r.lab.vmFolder), name, spec)
	if err != nil {
		r.Fatal(err)
	}
	return t
}

func (r *rig) clone(name string, spec types.VirtualMachineCloneSpec) *object.VirtualMachine {
	r.Helper()
	info, err := r.startClone(name, spec).WaitForResult(r.ctx)
	if err != nil {
		r.Fatalf("clone %s: %s", name, err)
	}
	return r.vm(info.Result.(ref))
}

// finish waits for a task that must succeed; started is what the method returned.
func (r *rig) finish(t *object.Task, err error) {
	r.Helper()
	if err == nil {
		err = t.Wait(r.ctx)
	}
	if err != nil {
		r.Fatal(err)
	}
}

// fails waits for a task that must fail, and returns its fault.
func (r *rig) fails(t *object.Task, err error) types.BaseMethodFault {
	r.Helper()
	if err == nil {
		err = t.Wait(r.ctx)
	}
	if err == nil {
		r.Fatal("it succeeded")
	}
	return faultOf(r.T, err)
}

func faultOf(t *testing.T, err error) types.BaseMethodFault {
	t.Helper()
	var failed task.Error
	if errors.As(err, &failed) {
		return failed.Fault()
	}
	var f types.BaseMethodFault
	if _, ok := vimfault.As(err, &f); ok {
		return f
	}
	t.Fatalf("no fault: %s", err)
	return nil
}

// refusesPowerOn expects the generic fault with this reason among its messages.
func (r *rig) refusesPowerOn(vm *object.VirtualMachine, reason string) {
	r.Helper()
	f := r.fails(vm.PowerOn(r.ctx))
	generic, ok := f.(*types.GenericVmConfigFault)
	if !ok || generic.Reason != "Module 'DevicePowerOn' power on failed." {
		r.Fatalf("the fault is %#v", f)
	}
	var texts []string
	for _, m := range generic.FaultMessage {
		texts = append(texts, m.Message)
	}
	if !strings.Contains(strings.Join(texts, "\n"), reason) {
		r.Fatalf("%q is not among %q", reason, texts)
	}
}

func (r *rig) read(self ref, into any, properties ...string) {
	r.Helper()
	if err := property.DefaultCollector(r.client.Client).RetrieveOne(r.ctx, self, properties, into); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) readVM(vm *object.VirtualMachine, properties ...string) mo.VirtualMachine {
	r.Helper()
	var m mo.VirtualMachine
	r.read(vm.Reference(), &m, properties...)
	return m
}

func (r *rig) readHost(name string, properties ...string) mo.HostSystem {
	r.Helper()
	var m mo.HostSystem
	r.read(r.host(name), &m, properties...)
	return m
}

// until waits for a condition, at most until the test's deadline.
func (r *rig) until(what string, condition func() bool) {
	r.Helper()
	deadline := time.After(20 * time.Second)
	for !condition() {
		select {
		case <-deadline:
			r.Fatalf("still not: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (r *rig) control(method, path, body string) []byte {
	r.Helper()
	status, answer := r.tryControl(method, path, body)
	if status != http.StatusOK {
		r.Fatalf("%s %s: %d %s", method, path, status, answer)
	}
	return answer
}

func (r *rig) tryControl(method, path, body string) (int, []byte) {
	r.Helper()
	req, err := http.NewRequestWithContext(r.ctx, method, r.server.controlURL+path, strings.NewReader(body))
	if err != nil {
		r.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.Fatal(err)
	}
	defer res.Body.Close()
	var buffer bytes.Buffer
	if _, err := buffer.ReadFrom(res.Body); err != nil {
		r.Fatal(err)
	}
	return res.StatusCode, buffer.Bytes()
}

func decode[T any](t *testing.T, data []byte) T {
	t.Helper()
	var value T
	if err := json.Unmarshal(data, &value); err != nil {
		t.Fatal(err)
	}
	return value
}

func ptr[T any](value T) *T { return &value }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func writeFile(t *testing.T, file, text string) {
	t.Helper()
	must(t, os.WriteFile(file, []byte(text), 0o600))
}
