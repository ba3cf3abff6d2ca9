package main

import (
	"testing"

	"github.com/vmware/govmomi/vim25/types"
)

const pair = "Nvidia:2@grid_p100-16q%NVLink"

func linked(d *Description) {
	sharing(d)
	h := &d.Hosts[0]
	h.DeviceGroups = []DeviceGroupDescription{
		{Name: pair, Profile: "grid_p100-16q", GPUs: []string{h.GPUs[0].PCIAddress, h.GPUs[1].PCIAddress}},
	}
}

// groupSpec requests a group as a client should: with the device templates of the host's answer.
func (r *rig) groupSpec(name string) types.VirtualMachineCloneSpec {
	spec := r.vgpuSpec()
	spec.Config.ExtraConfig[1] = &types.OptionValue{Key: "pciPassthru.64bitMMIOSizeGB", Value: "64"}
	spec.Config.DeviceGroups = &types.VirtualMachineVirtualDeviceGroups{
		DeviceGroup: []types.BaseVirtualMachineVirtualDeviceGroupsDeviceGroup{
			&types.VirtualMachineVirtualDeviceGroupsVendorDeviceGroup{
				VirtualMachineVirtualDeviceGroupsDeviceGroup: types.VirtualMachineVirtualDeviceGroupsDeviceGroup{GroupInstanceKey: -1},
				DeviceGroupName: name,
			},
		},
	}
	for i, component := range r.configTarget("esx-01").VendorDeviceGroupInfo[0].ComponentDeviceInfo {
		device := cloneDevice(component.Device).(*types.VirtualPCIPassthrough)
		device.Key = int32(-100 - i)
		spec.Config.DeviceChange = append(spec.Config.DeviceChange, &types.VirtualDeviceConfigSpec{
			Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: device,
		})
	}
	return spec
}

// A group's GPUs are assigned together, to one VM.
func TestDeviceGroupIsGrantedWhole(t *testing.T) {
	r := newRig(t, linked)
	offered := r.configTarget("esx-01").VendorDeviceGroupInfo
	if len(offered) != 1 || len(offered[0].ComponentDeviceInfo) != 2 || len(r.configTarget("esx-02").VendorDeviceGroupInfo) != 0 {
		t.Fatalf("%+v", offered)
	}
	first := r.clone("first", r.groupSpec(pair))
	r.finish(first.PowerOn(r.ctx))
	if held := r.lab.allocations.holdings(r.host("esx-01")); len(held) != 1 || len(held[0].devices) != 2 {
		t.Errorf("%+v", held)
	}
	devices := passthroughDevices(r.readVM(first, "config").Config)
	if len(devices) != 2 || devices[0].DeviceGroupInfo.GroupInstanceKey != 0 {
		t.Errorf("%+v", devices)
	}
	r.refusesPowerOn(r.clone("second", r.groupSpec(pair)), "No free devices are left for the device group")
}

// One vGPU of another VM is enough to make the pair unavailable.
func TestDeviceGroupNeedsAllOfItsGPUs(t *testing.T) {
	r := newRig(t, linked)
	r.finish(r.clone("single", r.vgpuSpec("grid_p100-4q")).PowerOn(r.ctx))
	r.refusesPowerOn(r.clone("pair", r.groupSpec(pair)), "No free devices are left")
}

// A group is added and removed as a whole.
func TestDeviceGroupIsNeverChanged(t *testing.T) {
	r := newRig(t, linked)
	refused := func(name string, spoil func(*types.VirtualMachineConfigSpec)) {
		t.Helper()
		spec := r.groupSpec(pair)
		spoil(spec.Config)
		if f, ok := r.fails(r.startClone(name, spec), nil).(*types.InvalidArgument); !ok || f.InvalidProperty != "configSpec.deviceGroups" {
			t.Errorf("%s: %#v", name, f)
		}
	}
	refused("half", func(s *types.VirtualMachineConfigSpec) { s.DeviceChange = s.DeviceChange[:1] })
	refused("no group", func(s *types.VirtualMachineConfigSpec) { s.DeviceGroups = nil })
	refused("unknown", func(s *types.VirtualMachineConfigSpec) {
		s.DeviceGroups.DeviceGroup[0].(*types.VirtualMachineVirtualDeviceGroupsVendorDeviceGroup).DeviceGroupName = "Nvidia:8"
	})
	vm := r.clone("whole", r.groupSpec(pair))
	devices := passthroughDevices(r.readVM(vm, "config").Config)
	removal := func(n int) types.VirtualMachineConfigSpec {
		spec := types.VirtualMachineConfigSpec{}
		for _, device := range devices[:n] {
			spec.DeviceChange = append(spec.DeviceChange, &types.VirtualDeviceConfigSpec{
				Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: device,
			})
		}
		return spec
	}
	if _, ok := r.fails(vm.Reconfigure(r.ctx, removal(1))).(*types.InvalidArgument); !ok {
		t.Error("half of the group was removed")
	}
	r.finish(vm.Reconfigure(r.ctx, removal(2)))
	if groups := r.readVM(vm, "config").Config.DeviceGroups; groups != nil {
		t.Errorf("%+v", groups)
	}
}
