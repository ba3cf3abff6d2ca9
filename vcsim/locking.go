package main

import (
	"reflect"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// Other goroutines may read and encode any object of the inventory at any time. Hence two rules: an
// object is changed under its lock only, and slices and devices in it are replaced, never modified.

// locked runs f while the object is locked.
func (lab *Lab) locked(ctx *simulator.Context, obj mo.Reference, f func()) {
	lab.registry.WithLock(ctx, obj.Reference(), f)
}

// changeVM lets f modify a copy of the VM's state and publishes the differences, property by
// property. f must replace slices, maps and devices instead of modifying them.
func (lab *Lab) changeVM(ctx *simulator.Context, vm *simulator.VirtualMachine, f func(*mo.VirtualMachine)) {
	lab.locked(ctx, vm.Self, func() {
		next := copyVM(&vm.VirtualMachine)
		f(&next)
		summarize(&next)
		changes := apply("", reflect.ValueOf(&vm.VirtualMachine).Elem(), reflect.ValueOf(next), nil)
		if len(changes) > 0 {
			lab.registry.Update(ctx, vm, changes)
		}
	})
}

// copyVM copies what changeVM's callers modify. Deeper data is shared and must be replaced.
func copyVM(vm *mo.VirtualMachine) mo.VirtualMachine {
	next := *vm
	next.Config = copied(vm.Config)
	next.Guest = copied(vm.Guest)
	next.Summary.Guest = copied(vm.Summary.Guest)
	next.Summary.Storage = copied(vm.Summary.Storage)
	return next
}

func copied[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}

// changeHost is like changeVM, for hosts.
func (lab *Lab) changeHost(ctx *simulator.Context, host *simulator.HostSystem, f func(*mo.HostSystem)) {
	var before, after bool
	lab.locked(ctx, host.Self, func() {
		before = runsVMs(host)
		next := host.HostSystem
		next.Config = copied(host.Config)
		f(&next)
		changes := apply("", reflect.ValueOf(&host.HostSystem).Elem(), reflect.ValueOf(next), nil)
		for _, change := range changes {
			if strings.HasPrefix(change.Name, "runtime.") { // in the simulator both share one runtime
				changes = append(changes, types.PropertyChange{Name: "summary." + change.Name, Val: change.Val})
			}
		}
		if len(changes) > 0 {
			lab.registry.Update(ctx, host, changes)
		}
		after = runsVMs(host)
	})
	if before != after { // every VM that starts changes its host, and this reads all hosts
		lab.updateCapacity(ctx)
	}
}

var (
	timeType = reflect.TypeOf(time.Time{})
	refType  = reflect.TypeOf(ref{})
)

// apply sets the properties of object that differ in next, and returns them as deep as clients name
// them (config.hardware.device). Unchanged properties are not written, because they may be read
// without a lock.
func apply(prefix string, object, next reflect.Value, changes []types.PropertyChange) []types.PropertyChange {
	for i := range object.NumField() {
		field := object.Type().Field(i)
		old, now := object.Field(i), next.Field(i)
		if field.Anonymous {
			changes = apply(prefix, old, now, changes)
			continue
		}
		path := prefix + strings.ToLower(field.Name[:1]) + field.Name[1:]
		if old.Kind() == reflect.Pointer && !old.IsNil() && !now.IsNil() {
			if old.Pointer() == now.Pointer() {
				continue
			}
			old, now = old.Elem(), now.Elem()
		}
		if isContainer(old) && strings.Count(path, ".") < 2 {
			changes = apply(path+".", old, now, changes)
		} else if !reflect.DeepEqual(old.Interface(), now.Interface()) {
			old.Set(now)
			changes = append(changes, types.PropertyChange{Name: path, Val: published(now)})
		}
	}
	return changes
}

func isContainer(v reflect.Value) bool {
	return v.Kind() == reflect.Struct && v.Type() != timeType && v.Type() != refType
}

func published(v reflect.Value) any {
	if v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		if v.IsNil() {
			return nil
		}
		if v.Kind() == reflect.Pointer {
			return v.Elem().Interface()
		}
	}
	if v.Kind() == reflect.Slice && v.IsNil() {
		return nil
	}
	return v.Interface()
}
