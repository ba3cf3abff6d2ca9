package main

import (
	"strings"
	"testing"

	"github.com/vmware/govmomi/vim25/types"
)

// populated has an agent and ordinary VMs on esx-01, one of which is excluded from DRS.
func populated(drs bool, level string) func(*Description) {
	return func(d *Description) {
		d.DRS, d.Automation = drs, level
		d.VMs = []VMDescription{
			{Name: "vCLS-{uuid}", Host: "esx-01", Agent: true},
			{Name: "worker", Host: "esx-01"},
			{Name: "anchored", Host: "esx-01", DRS: "manual", Power: "off"},
		}
	}
}

func (r *rig) enters(name string) bool {
	r.Helper()
	task, err := r.hostSystem(name).EnterMaintenanceMode(r.ctx, 1, false, nil)
	must(r.T, err)
	if err = task.Wait(r.ctx); err == nil {
		return true
	}
	if _, ok := faultOf(r.T, err).(*types.Timedout); !ok {
		r.Fatalf("unexpected fault: %s", err)
	}
	return false
}

func (r *rig) hostOf(name string) ref {
	return *r.readVM(r.vm(r.lab.vmNamed(name).Self), "runtime.host").Runtime.Host
}

func (r *rig) agent() string {
	for _, vm := range decode[[]struct{ Name string }](r.T, r.control("GET", "/vms", "")) {
		if strings.HasPrefix(vm.Name, "vCLS-") {
			return vm.Name
		}
	}
	return ""
}

// R4: fully automated DRS evacuates the host; after its reboot no VM is moved back.
func TestDRSEvacuatesAHost(t *testing.T) {
	r := newRig(t, populated(true, "fullyAutomated"))
	if !r.enters("esx-01") {
		t.Fatal("it was not evacuated")
	}
	for _, name := range []string{"worker", r.agent()} {
		if r.hostOf(name) != r.host("esx-02") {
			t.Errorf("%s is on %v", name, r.hostOf(name))
		}
	}
}

// R4: VMs are not moved where DRS is partially automated, manual or off, for the cluster or for a
// VM.
func TestNothingMovesWithoutAFullyAutomatedDRS(t *testing.T) {
	for name, edit := range map[string]func(*Description){
		"off":    populated(false, "fullyAutomated"),
		"manual": populated(true, "manual"),
		"by VM": func(d *Description) {
			populated(true, "fullyAutomated")(d)
			d.VMs[2].Power = "on"
		},
		"nowhere to go": func(d *Description) {
			populated(true, "fullyAutomated")(d)
			d.Hosts = d.Hosts[:1]
		},
		"vGPU": func(d *Description) {
			sharing(d)
			populated(true, "fullyAutomated")(d)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, edit)
			if name == "vGPU" {
				r.finish(r.clone("shared", r.vgpuSpec("grid_p100-8q")).PowerOn(r.ctx))
			}
			if r.enters("esx-01") {
				t.Error("it was evacuated")
			}
		})
	}
}

// Agents leave by themselves since 8.0.3; one without another host is powered on again afterwards.
// Before that they needed DRS, and before 7.0.1 there were none.
func TestAgentsOfClusterServices(t *testing.T) {
	only := func(version string, hosts int) func(*Description) {
		return func(d *Description) {
			d.About.APIVersion, d.Hosts = version, d.Hosts[:hosts]
			d.VMs = []VMDescription{{Name: "vCLS-{uuid}", Host: "esx-01", Agent: true}}
		}
	}
	r := newRig(t, only("8.0.3.0", 1))
	agent := r.vm(r.lab.vmNamed(r.agent()).Self)
	if by := r.readVM(agent, "config.managedBy").Config.ManagedBy; by == nil || by.ExtensionKey != "com.vmware.vim.eam" {
		t.Errorf("it is managed by %v", by)
	}
	if !r.enters("esx-01") {
		t.Error("8.0.3: the agent stays")
	}
	r.reboot("esx-01", false)
	if state, _ := agent.PowerState(r.ctx); state != poweredOff {
		t.Errorf("in maintenance mode it is %s", state)
	}
	r.finish(r.hostSystem("esx-01").ExitMaintenanceMode(r.ctx, 0))
	if state, _ := agent.PowerState(r.ctx); state != poweredOn {
		t.Errorf("afterwards it is %s", state)
	}
	if newRig(t, only("7.0.3.0", 2)).enters("esx-01") {
		t.Error("7.0.3 without DRS: the agent went")
	}
	if old := newRig(t, only("6.7.3", 2)); old.agent() != "" {
		t.Error("6.7 has an agent")
	}
}
