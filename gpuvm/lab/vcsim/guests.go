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
	noIP    map[string]bool
	failing map[string]bool
}

func newGuestSettings() *guestSettings {
	return &guestSettings{pending: map[ref]*types.CustomizationSpec{}, noIP: map[string]bool{}, failing: map[string]bool{}}
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

func (g *guestSettings) hasNoIP(name string) bool {
	g.Lock()
	defer g.Unlock()
	return g.noIP[name]
}

func (g *guestSettings) failsCustomization(name string) bool {
	g.Lock()
	defer g.Unlock()
	return g.failing[name]
}

func (g *guestSettings) silence(name string) {
	g.Lock()
	defer g.Unlock()
	g.noIP[name] = true
}

func (g *guestSettings) failCustomization(name string) {
	g.Lock()
	defer g.Unlock()
	g.failing[name] = true
}

func (g *guestSettings) forget(vm ref, name string) {
	g.Lock()
	defer g.Unlock()
	delete(g.pending, vm)
	delete(g.noIP, name)
	delete(g.failing, name)
}
