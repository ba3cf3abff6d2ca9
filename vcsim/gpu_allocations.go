package main

import (
	"maps"
	"sync"
)

// allocations knows what powered-on VMs hold of their hosts: devices and memory. A VM holds from the
// moment its power-on passes the checks until it is off.
type allocations struct {
	sync.Mutex
	held map[ref]holding // by VM
}

type holding struct {
	vm       ref
	host     ref
	devices  map[int32]grant // by key of the VM's device
	memoryMB int64
}

// grant is a card, or for vGPU a part of one.
type grant struct {
	gpu     *gpu
	profile *VGPUProfile // nil: the whole card
}

func newAllocations() *allocations {
	return &allocations{held: map[ref]holding{}}
}

func (l *allocations) release(vm ref) {
	l.Lock()
	defer l.Unlock()
	delete(l.held, vm)
}

// holdings returns what is held of a host.
func (l *allocations) holdings(host ref) []holding {
	l.Lock()
	defer l.Unlock()
	return l.onHost(host)
}

func (l *allocations) of(vm ref) (holding, bool) {
	l.Lock()
	defer l.Unlock()
	h, ok := l.held[vm]
	return h, ok
}

func (l *allocations) all() map[ref]holding {
	l.Lock()
	defer l.Unlock()
	return maps.Clone(l.held)
}

// onHost is holdings for callers that have the lock.
func (l *allocations) onHost(host ref) []holding {
	var found []holding
	for _, h := range l.held {
		if h.host == host {
			found = append(found, h)
		}
	}
	return found
}

// holder returns the VM that holds the whole card; the caller has the lock.
func (l *allocations) holder(g *gpu) (ref, bool) {
	for vm, h := range l.held {
		for _, grant := range h.devices {
			if grant.gpu == g && grant.profile == nil {
				return vm, true
			}
		}
	}
	return ref{}, false
}

// shares returns the profiles that are placed on a card; the caller has the lock.
func (l *allocations) shares(g *gpu) []*VGPUProfile {
	var profiles []*VGPUProfile
	for _, h := range l.held {
		for _, grant := range h.devices {
			if grant.gpu == g && grant.profile != nil {
				profiles = append(profiles, grant.profile)
			}
		}
	}
	return profiles
}
