package main

import (
	"testing"

	"github.com/vmware/govmomi/vim25/types"
)

func (r *rig) dynamicSpec(label string, ids ...int32) types.VirtualMachineCloneSpec {
	spec := r.gpuSpec()
	backing := &types.VirtualPCIPassthroughDynamicBackingInfo{CustomLabel: label}
	for _, id := range ids {
		backing.AllowedDevice = append(backing.AllowedDevice, types.VirtualPCIPassthroughAllowedDevice{VendorId: 4318, DeviceId: id})
	}
	spec.Config.DeviceChange = []types.BaseVirtualDeviceConfigSpec{addDevice(backing)}
	return spec
}

// R6: any free matching GPU is bound at power-on, shown, and released at power-off.
func TestDynamicPassthrough(t *testing.T) {
	r := newRig(t)
	first, second := r.clone("first", r.dynamicSpec("", 5624)), r.clone("second", r.dynamicSpec("", 1, 5624))
	r.finish(first.PowerOn(r.ctx))
	r.finish(second.PowerOn(r.ctx))
	r.refusesPowerOn(r.clone("third", r.dynamicSpec("", 5624)), "Failed to find a suitable device for pciPassthru0")
	bound := map[string]ref{}
	for _, b := range r.readHost("esx-01", "config.assignableHardwareBinding").Config.AssignableHardwareBinding {
		bound[b.InstanceId] = b.Vm
	}
	assigned := func() string {
		device := passthroughDevices(r.readVM(first, "config.hardware.device").Config)[0]
		return device.Backing.(*types.VirtualPCIPassthroughDynamicBackingInfo).AssignedId
	}
	if len(bound) != 2 || bound["pcipassthru:"+assigned()] != first.Reference() {
		t.Errorf("%v, assigned %s", bound, assigned())
	}
	r.finish(first.PowerOff(r.ctx))
	if assigned() != "" || len(r.readHost("esx-01", "config.assignableHardwareBinding").Config.AssignableHardwareBinding) != 1 {
		t.Error("it is still bound")
	}
}

func TestDynamicPassthroughRefuses(t *testing.T) {
	r := newRig(t, func(d *Description) { d.Hosts[0].GPUs[1].HardwareLabel = "training" })
	const none = "Failed to find a suitable device"
	old := r.dynamicSpec("", 5624)
	old.Config.Version = "vmx-15"
	r.refusesPowerOn(r.clone("old", old), "hardware version 17")
	r.refusesPowerOn(r.clone("other-id", r.dynamicSpec("", 7864)), none)
	r.refusesPowerOn(r.clone("other-label", r.dynamicSpec("inference", 5624)), none)
	r.finish(r.clone("label", r.dynamicSpec("training", 5624)).PowerOn(r.ctx))
	r.refusesPowerOn(r.clone("again", r.dynamicSpec("training", 5624)), none)
	fixed := r.clone("fixed", r.gpuSpecOn("esx-01", "0000:af:00.0"))
	r.refusesPowerOn(fixed, "already in use")
}
