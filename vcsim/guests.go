package main

import (
	"sync"

	"github.com/vmware/govmomi/vim25/types"
)

// guestSettings holds the pending customizations of guests, and the problems requested through the
// control endpoint. These are keyed by name, because the VM need not exist yet.
type guestSettings struct {
	sync.Mutex
	pending map[ref]*types.CustomizationSpec
	applied map[ref]instance
	ordered map[string]map[guestTrouble]bool
}

// guestTrouble is a problem of a guest that the control endpoint can simulate, by its name there.
type guestTrouble string

const (
	noIP               guestTrouble = "no-ip"
	isolated           guestTrouble = "isolated"          // the address of the first network card is unreachable
	noNetworkConfig    guestTrouble = "no-network-config" // its cloud-init does not configure the network
	failsCustomization guestTrouble = "fail-customization"
	drops              guestTrouble = "drops"      // it powers off by itself when it boots
	oneMachineID       guestTrouble = "machine-id" // that of all others with this trouble: one DHCP address
)

// instance is what cloud-init did at the first boot of an instance id, which it does once.
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

// take returns and removes the pending customization, which is applied once, at the first power-on.
func (g *guestSettings) take(vm ref) *types.CustomizationSpec {
	g.Lock()
	defer g.Unlock()
	spec := g.pending[vm]
	delete(g.pending, vm)
	return spec
}

// network returns the network configuration of the guest's cloud-init, which does not change after
// the first boot of an instance.
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
