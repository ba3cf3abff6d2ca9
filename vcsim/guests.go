package main

import (
	"sync"

	"github.com/vmware/govmomi/vim25/types"
)

// guestSettings is what a guest is going to do: pending customization, and what the control endpoint
// asked for, which goes by name since it may be asked before the VM exists.
type guestSettings struct {
	sync.Mutex
	pending map[ref]*types.CustomizationSpec
	applied map[ref]instance
	ordered map[string]map[guestTrouble]bool
}

// guestTrouble is what the control endpoint can order for a guest, by the name it has there.
type guestTrouble string

const (
	noIP               guestTrouble = "no-ip"
	isolated           guestTrouble = "isolated"          // the first card's network is out of everybody's reach
	noNetworkConfig    guestTrouble = "no-network-config" // its cloud-init leaves the network alone
	failsCustomization guestTrouble = "fail-customization"
	drops              guestTrouble = "drops" // it powers off by itself when it boots
)

// instance is what cloud-init did at the first boot of an instance id; it does it once.
type instance struct {
	id   string
	plan *netplan
}

func newGuestSettings() *guestSettings {
	return &guestSettings{
		pending: map[ref]*types.CustomizationSpec{}, applied: map[ref]instance{},
		ordered: map[string]map[guestTrouble]bool{},
	}
}

func (g *guestSettings) customize(vm ref, spec *types.CustomizationSpec) {
	g.Lock()
	defer g.Unlock()
	g.pending[vm] = spec
}

// take returns the pending customization: it happens at the first power-on, once.
func (g *guestSettings) take(vm ref) *types.CustomizationSpec {
	g.Lock()
	defer g.Unlock()
	spec := g.pending[vm]
	delete(g.pending, vm)
	return spec
}

// network is what the guest's cloud-init has set up: at the first boot of an instance, and as then
// ever after.
func (g *guestSettings) network(vm ref, name string, metadata *cloudInit) *netplan {
	g.Lock()
	defer g.Unlock()
	if g.ordered[name][noNetworkConfig] {
		return nil
	}
	if metadata == nil {
		return g.applied[vm].plan
	}
	if now, known := g.applied[vm]; known && now.id == metadata.InstanceID {
		return now.plan
	}
	g.applied[vm] = instance{id: metadata.InstanceID, plan: metadata.plan()}
	return g.applied[vm].plan
}

func (g *guestSettings) has(trouble guestTrouble, name string) bool {
	g.Lock()
	defer g.Unlock()
	return g.ordered[name][trouble]
}

func (g *guestSettings) order(trouble guestTrouble, name string) {
	g.Lock()
	defer g.Unlock()
	if g.ordered[name] == nil {
		g.ordered[name] = map[guestTrouble]bool{}
	}
	g.ordered[name][trouble] = true
}

func (g *guestSettings) forget(vm ref, name string) {
	g.Lock()
	defer g.Unlock()
	delete(g.pending, vm)
	delete(g.applied, vm)
	delete(g.ordered, name)
}
