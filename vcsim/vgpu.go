package main

import (
	"github.com/vmware/govmomi/vim25/types"
)

// shared places a vGPU on a GPU with enough free framebuffer (R7). The caller holds the lock of the
// allocations.
func (a *admission) shared(b *types.VirtualPCIPassthroughVmiopBackingInfo, granted map[int32]grant) (grant, fault) {
	known, offered := false, false
	for _, g := range a.hardware.gpus {
		profile := g.profile(b.Vgpu)
		if profile == nil {
			continue
		}
		known = true
		if !a.direct[g.PCIAddress] {
			continue
		}
		offered = true
		if a.fits(g, profile, granted) {
			return a.mapped(grant{gpu: g, profile: profile}, granted)
		}
	}
	if known && !offered {
		return grant{}, devicePowerOnFault(message("msg.vmiop.notSharedDirect",
			"The graphics type of the host's cards is not Shared Direct: vGPU '"+b.Vgpu+"' cannot be started."))
	}
	if !offered {
		return grant{}, devicePowerOnFault(message("msg.vmiop.unknownProfile",
			"The host does not offer the vGPU profile '"+b.Vgpu+"'."))
	}
	return grant{}, &types.InsufficientGraphicsResourcesFault{}
}

// fits reports whether the GPU is not passed through, all its vGPUs have the same size, and enough
// framebuffer is free.
func (a *admission) fits(g *gpu, profile *VGPUProfile, granted map[int32]grant) bool {
	if _, held := a.lab.allocations.holder(g); held || a.active[g.PCIAddress] {
		return false
	}
	placed := a.lab.allocations.shares(g)
	for _, other := range granted {
		if other.gpu == g && other.profile != nil {
			placed = append(placed, other.profile)
		}
	}
	used := profile.FramebufferGiB
	for _, p := range placed {
		if p.FramebufferGiB != profile.FramebufferGiB {
			return false
		}
		used += p.FramebufferGiB
	}
	return used <= g.MemoryGiB
}
