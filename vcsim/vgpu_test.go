package main

import (
	"slices"
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

func sharing(d *Description) {
	h := &d.Hosts[0]
	h.GraphicsType = "sharedDirect"
	for i := range h.GPUs {
		h.GPUs[i].Passthrough = &Passthrough{Capable: true}
		h.GPUs[i].VGPUProfiles = []VGPUProfile{{"grid_p100-8q", 8}, {"grid_p100-16q", 16}, {"grid_p100-4q", 4}}
	}
}

func (r *rig) vgpuSpec(profiles ...string) types.VirtualMachineCloneSpec {
	spec := r.specWith("esx-01")
	for i, profile := range profiles {
		change := addDevice(&types.VirtualPCIPassthroughVmiopBackingInfo{Vgpu: profile})
		change.Device.GetVirtualDevice().Key -= int32(i)
		spec.Config.DeviceChange = append(spec.Config.DeviceChange, change)
	}
	return spec
}

// R7: framebuffer is counted per GPU, and all vGPUs on a GPU have one size.
func TestVGPUsShareFramebuffer(t *testing.T) {
	r := newRig(t, sharing)
	if types := r.readHost("esx-01", "config.sharedPassthruGpuTypes").Config.SharedPassthruGpuTypes; !slices.Contains(types, "grid_p100-8q") {
		t.Fatalf("%v", types)
	}
	if offered := r.configTarget("esx-01").SharedGpuPassthroughTypes; len(offered) != 3 {
		t.Errorf("%v", offered)
	}
	small := r.clone("small-1", r.vgpuSpec("grid_p100-8q"))
	r.finish(small.PowerOn(r.ctx))
	r.finish(r.clone("large", r.vgpuSpec("grid_p100-16q")).PowerOn(r.ctx)) // on the other card
	r.finish(r.clone("small-2", r.vgpuSpec("grid_p100-8q")).PowerOn(r.ctx))
	third := r.clone("small-3", r.vgpuSpec("grid_p100-8q"))
	if _, ok := r.fails(third.PowerOn(r.ctx)).(*types.InsufficientGraphicsResourcesFault); !ok {
		t.Error("unexpected fault")
	}
	r.finish(small.PowerOff(r.ctx))
	r.finish(third.PowerOn(r.ctx))
	if n := r.readVM(third, "summary.config").Summary.Config.NumVmiopBackings; n != 1 {
		t.Errorf("%d vGPUs in the summary", n)
	}
}

// R7: a GPU with enough framebuffer is refused if its vGPUs have another size.
func TestVGPUNeedsOneSizePerCard(t *testing.T) {
	r := newRig(t, sharing)
	r.finish(r.clone("both", r.vgpuSpec("grid_p100-8q", "grid_p100-4q")).PowerOn(r.ctx)) // a card each
	r.finish(r.clone("large", r.vgpuSpec("grid_p100-8q")).PowerOn(r.ctx))
	if _, ok := r.fails(r.clone("more", r.vgpuSpec("grid_p100-8q")).PowerOn(r.ctx)).(*types.InsufficientGraphicsResourcesFault); !ok {
		t.Error("unexpected fault")
	}
	r.finish(r.clone("small", r.vgpuSpec("grid_p100-4q")).PowerOn(r.ctx))
}

func TestVGPURefuses(t *testing.T) {
	r := newRig(t, sharing)
	r.refusesPowerOn(r.clone("unknown", r.vgpuSpec("grid_t4-16q")), "does not offer")
	unreserved := r.vgpuSpec("grid_p100-8q")
	unreserved.Config.MemoryReservationLockedToMax = nil
	r.refusesPowerOn(r.clone("unreserved", unreserved), "memory reservation")
	manager := *r.readHost("esx-01", "configManager").ConfigManager.GraphicsManager
	_, err := methods.UpdateGraphicsConfig(r.ctx, r.client.Client, &types.UpdateGraphicsConfig{
		This: manager, Config: types.HostGraphicsConfig{HostDefaultGraphicsType: "shared"},
	})
	must(t, err)
	r.refusesPowerOn(r.clone("shared", r.vgpuSpec("grid_p100-8q")), "not Shared Direct")
	var m mo.HostGraphicsManager
	r.read(manager, &m, "sharedPassthruGpuTypes")
	if len(m.SharedPassthruGpuTypes) != 0 || len(r.configTarget("esx-01").SharedGpuPassthroughTypes) != 0 {
		t.Error("profiles are still offered")
	}
}

// R7: each GPU has its own graphics type, whatever the host's default.
func TestGraphicsTypeIsPerGPU(t *testing.T) {
	r := newRig(t, sharing, func(d *Description) {
		h := &d.Hosts[0]
		h.GraphicsType = "shared"
		h.GPUs[0].GraphicsType, h.GPUs[1].GraphicsType = "shared", "sharedDirect"
	})
	vm := r.clone("first", r.vgpuSpec("grid_p100-16q"))
	r.finish(vm.PowerOn(r.ctx))
	config := r.readHost("esx-01", "config").Config
	if config.GraphicsConfig.HostDefaultGraphicsType != "shared" || config.GraphicsConfig.DeviceType[1].GraphicsType != "sharedDirect" {
		t.Errorf("%+v", config.GraphicsConfig)
	}
	if in := config.GraphicsInfo; in[0].GraphicsType != "shared" || in[0].Vm != nil || in[1].GraphicsType != "sharedDirect" || len(in[1].Vm) != 1 {
		t.Errorf("%+v", in)
	}
	if _, ok := r.fails(r.clone("second", r.vgpuSpec("grid_p100-16q")).PowerOn(r.ctx)).(*types.InsufficientGraphicsResourcesFault); !ok {
		t.Error("the other card was used, or unexpected fault")
	}
}

// R7: graphicsInfo does not list a VM that runs with a whole GPU.
func TestGraphicsInfoNamesVGPUsOnly(t *testing.T) {
	r := newRig(t)
	r.finish(r.clone("whole", r.gpuSpec()).PowerOn(r.ctx))
	for _, info := range r.readHost("esx-01", "config.graphicsInfo").Config.GraphicsInfo {
		if len(info.Vm) != 0 || info.GraphicsType != "direct" {
			t.Errorf("%s, %s: %v", info.PciId, info.GraphicsType, info.Vm)
		}
	}
}

// R7: the MMIO space of a vGPU depends on its GPU and its profile.
func TestLargeVGPUsNeedEFIAndMMIO(t *testing.T) {
	const pages = "PCIPassthru: total number of pages needed"
	small := func(d *Description) {
		for i := range d.Hosts[0].GPUs {
			d.Hosts[0].GPUs[i].BARsMiB = []int64{16, 256, 32}
		}
	}
	series := func(d *Description) {
		sharing(d)
		d.Hosts[0].GPUs[0].VGPUProfiles = append(d.Hosts[0].GPUs[0].VGPUProfiles, VGPUProfile{"grid_p100c-4c", 4})
	}
	r, onSmall := newRig(t, series), newRig(t, sharing, small)
	bios := func(r *rig, name, profile string) *object.VirtualMachine {
		spec := r.vgpuSpec(profile)
		spec.Config.Firmware, spec.Config.ExtraConfig = "bios", nil
		return r.clone(name, spec)
	}
	r.refusesPowerOn(bios(r, "whole", "grid_p100-16q"), pages)
	r.refusesPowerOn(bios(r, "compute", "grid_p100c-4c"), pages)
	r.finish(bios(r, "part", "grid_p100-8q").PowerOn(r.ctx))
	onSmall.finish(bios(onSmall, "whole", "grid_p100-16q").PowerOn(onSmall.ctx))
	narrow := r.vgpuSpec("grid_p100-16q")
	narrow.Config.ExtraConfig[1] = &types.OptionValue{Key: "pciPassthru.64bitMMIOSizeGB", Value: "8"}
	r.refusesPowerOn(r.clone("narrow", narrow), pages)
}
