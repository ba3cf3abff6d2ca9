package main

import (
	"reflect"
	"strings"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// unreadable are the VMs whose host or datastore is inaccessible. vCenter lists them with their
// last summary, does not show their configuration and guest, and refuses operations on them.
type unreadable struct {
	mutex sync.RWMutex
	vms   map[ref]bool
}

func newUnreadable() *unreadable { return &unreadable{vms: map[ref]bool{}} }

func (u *unreadable) has(vm ref) bool {
	u.mutex.RLock()
	defer u.mutex.RUnlock()
	return u.vms[vm]
}

func (u *unreadable) set(vm ref, away bool) {
	u.mutex.Lock()
	defer u.mutex.Unlock()
	u.vms[vm] = away
}

func (u *unreadable) hides(self ref, path string) bool {
	first, _, _ := strings.Cut(path, ".")
	switch first {
	case "config", "guest", "layout", "layoutEx", "snapshot", "environmentBrowser":
		return u.has(self)
	}
	return false
}

// propertyOf is like readProperty, for an object that may be unreadable or hidden from the user.
// The caller holds the object's lock, and called accessTo before locking it.
func (lab *Lab) propertyOf(may access, self ref, object reflect.Value, name string) (any, fault) {
	if !may.reads(name) {
		return nil, refusedToRead(self)
	}
	if lab.unreadable.hides(self, name) {
		return nil, nil
	}
	if found, denied := lab.hidden.find(self, name); denied {
		return nil, refusedToRead(self)
	} else if found {
		return nil, nil
	}
	return readProperty(object, name)
}

// setReadable makes a VM's files inaccessible to vCenter, or accessible again.
func (lab *Lab) setReadable(ctx *simulator.Context, vm *simulator.VirtualMachine, readable bool) {
	state := types.VirtualMachineConnectionStateConnected
	if !readable {
		state = types.VirtualMachineConnectionStateInaccessible
	}
	lab.unreadable.set(vm.Self, !readable)
	lab.changeVM(ctx, vm, func(m *mo.VirtualMachine) {
		m.Runtime.ConnectionState = state
		m.Summary.Runtime.ConnectionState = state
	})
}

// refusesUnreadable returns InvalidState for every task on such a VM, and for ShutdownGuest.
// UnregisterVM still works.
func (lab *Lab) refusesUnreadable(method *simulator.Method) fault {
	works := strings.HasSuffix(method.Name, "_Task") || method.Name == "ShutdownGuest"
	if works && lab.unreadable.has(method.This) {
		return &types.InvalidState{}
	}
	return nil
}
