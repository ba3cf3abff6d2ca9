package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// controlHandler is the endpoint for tests. It offers what no client of a vCenter can see or do
// (R11, R12).
func (lab *Lab) controlHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /calls", func(w http.ResponseWriter, _ *http.Request) { reply(w, lab.calls.read()) })
	mux.HandleFunc("GET /calls/values", func(w http.ResponseWriter, _ *http.Request) { reply(w, lab.calls.readValues()) })
	mux.HandleFunc("POST /calls/reset", func(w http.ResponseWriter, _ *http.Request) { lab.calls.reset(); reply(w, done) })
	mux.HandleFunc("GET /faults", func(w http.ResponseWriter, _ *http.Request) { reply(w, lab.faults.list()) })
	mux.HandleFunc("DELETE /faults", func(w http.ResponseWriter, _ *http.Request) { lab.faults.clear(); reply(w, done) })
	mux.HandleFunc("POST /faults", lab.addFault)
	mux.HandleFunc("POST /drop-after", lab.addDrop)
	mux.HandleFunc("GET /drop-after", func(w http.ResponseWriter, _ *http.Request) { reply(w, lab.faults.pending()) })
	mux.HandleFunc("GET /vms", func(w http.ResponseWriter, _ *http.Request) { reply(w, lab.listVMs()) })
	mux.HandleFunc("POST /vms", lab.addVMs)
	mux.HandleFunc("POST /vms/{name}/{action}", lab.actOnVM)
	mux.HandleFunc("POST /hosts/{name}/{action}", lab.actOnHost)
	mux.HandleFunc("POST /sessions/expire", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, map[string]int{"ended": lab.endSessions(func(*types.UserSession) bool { return true })})
	})
	mux.HandleFunc("GET /sessions", func(w http.ResponseWriter, _ *http.Request) { reply(w, lab.listHeld()) })
	mux.HandleFunc("GET /deleted-files", func(w http.ResponseWriter, _ *http.Request) { reply(w, lab.deleted.list()) })
	mux.HandleFunc("GET /storage-policies", func(w http.ResponseWriter, _ *http.Request) { reply(w, lab.policies.list(lab)) })
	mux.HandleFunc("GET /ids", func(w http.ResponseWriter, _ *http.Request) { reply(w, lab.listIDs()) })
	mux.HandleFunc("POST /hide", lab.hide)
	mux.HandleFunc("DELETE /hide", func(w http.ResponseWriter, _ *http.Request) { lab.hidden.clear(); reply(w, done) })
	mux.HandleFunc("GET /bindings", func(w http.ResponseWriter, _ *http.Request) { reply(w, lab.bindings()) })
	return mux
}

var done = map[string]bool{"ok": true}

func (lab *Lab) addFault(w http.ResponseWriter, r *http.Request) {
	var rule faultRule
	if !read(w, r, &rule) {
		return
	}
	if err := lab.faults.add(rule); err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	reply(w, done)
}

func (lab *Lab) addDrop(w http.ResponseWriter, r *http.Request) {
	rule := dropRule{Count: 1}
	if !read(w, r, &rule) {
		return
	}
	lab.faults.drop(rule)
	reply(w, done)
}

func (lab *Lab) addVMs(w http.ResponseWriter, r *http.Request) {
	var v VMDescription
	if !read(w, r, &v) {
		return
	}
	v.fill()
	err := lab.description.checkVM(&v)
	if err == nil {
		err = lab.addUnrelated(&v)
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	reply(w, done)
}

// actOnVM simulates a problem of a guest. Except for the last three, the VM need not exist yet.
func (lab *Lab) actOnVM(w http.ResponseWriter, r *http.Request) {
	name, action := r.PathValue("name"), r.PathValue("action")
	vm := lab.vmNamed(name)
	switch action {
	case string(noIP), string(isolated), string(noNetworkConfig), string(failsCustomization), string(drops), string(oneMachineID):
		lab.guests.order(guestTrouble(action), name)
		if action == string(noIP) && vm != nil {
			lab.dropAddress(vm)
		}
	case "unplug", "inaccessible", "accessible":
		if vm == nil {
			refuse(w, http.StatusNotFound, fmt.Errorf("there is no VM '%s'", name))
			return
		}
		lab.actOnPresent(vm, action)
	default:
		refuse(w, http.StatusNotFound, fmt.Errorf(
			"a VM has no '%s'; it has no-ip, isolated, no-network-config, fail-customization, drops, machine-id, unplug, inaccessible and accessible",
			action))
		return
	}
	reply(w, done)
}

func (lab *Lab) actOnPresent(vm *simulator.VirtualMachine, action string) {
	if action == "unplug" {
		lab.unplug(vm)
		return
	}
	lab.setReadable(lab.context(nil), vm, action == "accessible")
}

func (lab *Lab) actOnHost(w http.ResponseWriter, r *http.Request) {
	self := lab.hostNamed(r.PathValue("name"))
	host, ok := lab.registry.Get(self).(*simulator.HostSystem)
	if !ok {
		refuse(w, http.StatusNotFound, fmt.Errorf("there is no host '%s'", r.PathValue("name")))
		return
	}
	ctx := lab.context(nil)
	switch r.PathValue("action") {
	case "disconnect":
		lab.connectHost(ctx, host, false)
	case "reconnect":
		lab.connectHost(ctx, host, true)
	case "power-off":
		lab.powerOffHost(ctx, host, types.HostSystemConnectionStateNotResponding)
	case "maintenance":
		lab.changeHost(ctx, host, func(m *mo.HostSystem) { m.Runtime.InMaintenanceMode = true })
	case "exit-maintenance":
		lab.changeHost(ctx, host, func(m *mo.HostSystem) { m.Runtime.InMaintenanceMode = false })
	default:
		refuse(w, http.StatusNotFound, fmt.Errorf(
			"a host has no '%s'; it has disconnect, reconnect, power-off, maintenance, exit-maintenance", r.PathValue("action")))
		return
	}
	reply(w, done)
}

func (lab *Lab) vmNamed(name string) *simulator.VirtualMachine {
	for _, vm := range lab.allVMs() {
		if lab.nameOf(vm.Self) == name {
			return vm
		}
	}
	return nil
}

// listed is a VM or template, in any folder.
type listed struct {
	Name      string `json:"name"`
	Template  bool   `json:"template"`
	PoweredOn bool   `json:"powered_on"`
	Snapshots int    `json:"snapshots"`
}

func (lab *Lab) listVMs() []listed {
	vms := []listed{}
	for _, vm := range lab.allVMs() {
		lab.locked(lab.context(nil), vm.Self, func() {
			one := listed{Name: vm.Name, Template: vm.Config.Template, PoweredOn: vm.Runtime.PowerState == poweredOn}
			if vm.Snapshot != nil {
				one.Snapshots = countSnapshots(vm.Snapshot.RootSnapshotList)
			}
			vms = append(vms, one)
		})
	}
	slices.SortFunc(vms, func(a, b listed) int { return strings.Compare(a.Name, b.Name) })
	return vms
}

func countSnapshots(trees []types.VirtualMachineSnapshotTree) int {
	n := len(trees)
	for _, tree := range trees {
		n += countSnapshots(tree.ChildSnapshotList)
	}
	return n
}

// binding is a GPU of a running VM.
type binding struct {
	VM         string `json:"vm"`
	Host       string `json:"host"`
	PCIAddress string `json:"pci_address"`
	Profile    string `json:"profile,omitempty"`
}

func (lab *Lab) bindings() []binding {
	bindings := []binding{}
	for vm, holding := range lab.allocations.all() {
		for _, grant := range holding.devices {
			b := binding{VM: lab.nameOf(vm), Host: grant.gpu.host.name, PCIAddress: grant.gpu.PCIAddress}
			if grant.profile != nil {
				b.Profile = grant.profile.Name
			}
			bindings = append(bindings, b)
		}
	}
	return bindings
}

func read(w http.ResponseWriter, r *http.Request, into any) bool {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		refuse(w, http.StatusBadRequest, err)
		return false
	}
	return true
}

func reply(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // the client may be gone
}

func refuse(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
}
