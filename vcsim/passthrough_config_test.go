package main

import (
	"strings"
	"testing"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

func (r *rig) updatePassthru(host string, config types.HostPciPassthruConfig) error {
	system := r.readHost(host, "configManager.pciPassthruSystem").ConfigManager.PciPassthruSystem
	_, err := methods.UpdatePassthruConfig(r.ctx, r.client.Client, &types.UpdatePassthruConfig{
		This: *system, Config: []types.BaseHostPciPassthruConfig{&config},
	})
	return err
}

func (r *rig) passthruInfoOf(host, address string) *types.HostPciPassthruInfo {
	for _, base := range r.readHost(host, "config.pciPassthruInfo").Config.PciPassthruInfo {
		if info := base.GetHostPciPassthruInfo(); info.Id == address {
			return info
		}
	}
	r.Fatalf("%s has no %s", host, address)
	return nil
}

// R3: an enabled device is active after a reboot, and a device in use stays enabled.
func TestPassthroughChangesAtReboot(t *testing.T) {
	r := newRig(t)
	must(t, r.updatePassthru("esx-01", types.HostPciPassthruConfig{Id: "0000:3b:00.0", PassthruEnabled: false, ApplyNow: ptr(true)}))
	if info := r.passthruInfoOf("esx-01", "0000:3b:00.0"); info.PassthruEnabled || !info.PassthruActive {
		t.Fatalf("before the reboot: %+v", info)
	}
	r.finish(r.hostSystem("esx-01").EnterMaintenanceMode(r.ctx, 10, false, nil))
	r.reboot("esx-01", false)
	if info := r.passthruInfoOf("esx-01", "0000:3b:00.0"); info.PassthruEnabled || info.PassthruActive {
		t.Fatalf("after the reboot: %+v", info)
	}
	must(t, r.updatePassthru("esx-01", types.HostPciPassthruConfig{Id: "0000:3b:00.0", PassthruEnabled: true}))
	if info := r.passthruInfoOf("esx-01", "0000:3b:00.0"); !info.PassthruEnabled || info.PassthruActive {
		t.Fatalf("enabled again: %+v", info)
	}
	var system mo.HostPciPassthruSystem
	r.read(*r.readHost("esx-01", "configManager").ConfigManager.PciPassthruSystem, &system, "pciPassthruInfo")
	if len(system.PciPassthruInfo) != 4 {
		t.Errorf("%d devices", len(system.PciPassthruInfo))
	}
}

// R3: changes are immediate where the host can rebind and the caller requests it.
func TestPassthroughChangesAtOnceWhereItCan(t *testing.T) {
	r := newRig(t, func(d *Description) { d.Hosts[1].RebindWithoutReboot = true })
	off := types.HostPciPassthruConfig{Id: "0000:3b:00.0", ApplyNow: ptr(false)}
	must(t, r.updatePassthru("esx-02", off))
	if info := r.passthruInfoOf("esx-02", "0000:3b:00.0"); info.PassthruEnabled || !info.PassthruActive {
		t.Errorf("applyNow false: %+v", info)
	}
	off.ApplyNow = ptr(true)
	must(t, r.updatePassthru("esx-02", off))
	if info := r.passthruInfoOf("esx-02", "0000:3b:00.0"); info.PassthruEnabled || info.PassthruActive {
		t.Errorf("applyNow true: %+v", info)
	}
}

// R3: a device is in use if one that depends on it is, and both ways of switching are refused then.
func TestPassthroughRefusesForDependents(t *testing.T) {
	r := newRig(t, func(d *Description) {
		d.Hosts[0].GPUs[1].DependentDevice = "0000:3b:00.0"
	})
	holder := r.clone("holder", r.gpuSpecOn("esx-01", "0000:af:00.0"))
	r.finish(holder.PowerOn(r.ctx))
	err := r.updatePassthru("esx-01", types.HostPciPassthruConfig{Id: "0000:3b:00.0"})
	if err == nil || !strings.Contains(faultOf(t, err).(*types.HostConfigFault).FaultMessage[0].Message, "is in use") {
		t.Errorf("a device was taken from a running VM: %v", err)
	}
	if !r.passthruInfoOf("esx-01", "0000:af:00.0").PassthruEnabled {
		t.Error("the dependent function was switched")
	}
}

// R3: a function that depends on another one is configured through that one.
func TestPassthroughRefuses(t *testing.T) {
	r := newRig(t, func(d *Description) {
		d.Hosts[0].GPUs[1].DependentDevice = "0000:3b:00.0"
	})
	holder := r.clone("holder", r.gpuSpec())
	r.finish(holder.PowerOn(r.ctx))
	for address, text := range map[string]string{
		"0000:af:00.0": "depends on 0000:3b:00.0",
		"0000:00:01.0": "cannot be passed through",
		"0000:99:00.0": "There is no device",
		"0000:3b:00.0": "is in use",
	} {
		err := r.updatePassthru("esx-01", types.HostPciPassthruConfig{Id: address})
		if err == nil {
			t.Errorf("%s was accepted", address)
			continue
		}
		f, ok := faultOf(t, err).(*types.HostConfigFault)
		if !ok || !strings.Contains(f.FaultMessage[0].Message, text) {
			t.Errorf("%s: %s", address, err)
		}
	}
	r.finish(holder.PowerOff(r.ctx))
	must(t, r.updatePassthru("esx-01", types.HostPciPassthruConfig{Id: "0000:3b:00.0"}))
	if r.passthruInfoOf("esx-01", "0000:af:00.0").PassthruEnabled {
		t.Error("the dependent function is still enabled")
	}
}
