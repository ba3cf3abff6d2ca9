package main

import (
	"maps"
	"sync"
)

// allocations records the devices and memory of their hosts that powered-on VMs hold. A VM holds
// them from the moment its power-on passes the checks until it is off.
type allocations struct {
	sync.Mutex
	held map[ref]holding // keyed by VM
}

type holding struct {
	vm       ref
	host     ref
	devices  map[int32]grant // keyed by the key of the VM's device
	memoryMB int64
}

// grant is a GPU, or for a vGPU a part of one.
type grant struct {
	gpu     *gpu
	profile *VGPUProfile // nil: the whole GPU
}

func newAllocations() *allocations {
	return &allocations{held: map[ref]holding{}}
}

func (l *allocations) release(vm ref) {
	l.Lock()
	defer l.Unlock()
	delete(l.held, vm)
}

// holdings returns what VMs hold on a host.
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

// onHost is like holdings, for callers that hold the lock.
func (l *allocations) onHost(host ref) []holding {
	var found []holding
	for _, h := range l.held {
		if h.host == host {
			found = append(found, h)
		}
	}
	return found
}

// holder returns the VM that holds the whole GPU. The caller holds the lock.
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

// shares returns the profiles that are placed on a GPU. The caller holds the lock.
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
