package main

import (
	"maps"
	"sync"
)

// allocations records the devices and memory of their hosts that powered-on VMs hold. A VM holds
// them from the moment its power-on passes the checks until it is off.
type allocations struct {
	sync.Mutex
	held     map[ref]holding         // keyed by VM
	byHost   map[ref]map[ref]holding // the same by host and VM
	memoryMB int64                   // of all
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
	return &allocations{held: map[ref]holding{}, byHost: map[ref]map[ref]holding{}}
}

// put records what a VM holds. The caller holds the lock.
func (l *allocations) put(h holding) {
	l.remove(h.vm)
	if l.byHost[h.host] == nil {
		l.byHost[h.host] = map[ref]holding{}
	}
	l.held[h.vm], l.byHost[h.host][h.vm] = h, h
	l.memoryMB += h.memoryMB
}

// remove is like release, for callers that hold the lock.
func (l *allocations) remove(vm ref) {
	if h, ok := l.held[vm]; ok {
		delete(l.held, vm)
		delete(l.byHost[h.host], vm)
		l.memoryMB -= h.memoryMB
	}
}

func (l *allocations) release(vm ref) {
	l.Lock()
	defer l.Unlock()
	l.remove(vm)
}

// move records that a VM has moved to another host.
func (l *allocations) move(vm, host ref) {
	l.Lock()
	defer l.Unlock()
	if h, ok := l.held[vm]; ok {
		l.remove(vm)
		h.host = host
		l.put(h)
	}
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

// reservedMB returns the memory that VMs hold on all hosts.
func (l *allocations) reservedMB() int64 {
	l.Lock()
	defer l.Unlock()
	return l.memoryMB
}

// onHost is like holdings, for callers that hold the lock.
func (l *allocations) onHost(host ref) []holding {
	var found []holding
	for _, h := range l.byHost[host] {
		found = append(found, h)
	}
	return found
}

// holder returns the VM that holds the whole GPU. The caller holds the lock.
func (l *allocations) holder(g *gpu) (ref, bool) {
	for vm, h := range l.byHost[g.host.self] {
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
	for _, h := range l.byHost[g.host.self] {
		for _, grant := range h.devices {
			if grant.gpu == g && grant.profile != nil {
				profiles = append(profiles, grant.profile)
			}
		}
	}
	return profiles
}
