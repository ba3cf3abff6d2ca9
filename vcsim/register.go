package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// register adds a complete VM to the lists of its host, pool, datastore, networks and folder.
func (lab *Lab) register(ctx *simulator.Context, vm *simulator.VirtualMachine, folder ref) {
	add := func(list []ref) []ref { return append(slices.Clone(list), vm.Self) }
	lab.editOwners(ctx, vm, add)
	f := lab.registry.Get(folder).(*simulator.Folder)
	lab.locked(ctx, folder, func() {
		f.ChildEntity = add(f.ChildEntity) // before Put, because views look for it there
		lab.registry.PutEntity(f, vm)
		lab.registry.Update(ctx, f, []types.PropertyChange{{Name: "childEntity", Val: f.ChildEntity}})
	})
}

// unregister is the reverse of register.
func (lab *Lab) unregister(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	remove := func(list []ref) []ref {
		return slices.DeleteFunc(slices.Clone(list), func(r ref) bool { return r == vm.Self })
	}
	lab.editOwners(ctx, vm, remove)
	if f, ok := lab.registry.Get(*vm.Parent).(*simulator.Folder); ok {
		lab.editList(ctx, f, "childEntity", &f.ChildEntity, remove)
	}
	lab.registry.Remove(ctx, vm.Self)
	lab.registry.Remove(ctx, browserOf(vm.Self))
}

func (lab *Lab) editOwners(ctx *simulator.Context, vm *simulator.VirtualMachine, edit func([]ref) []ref) {
	host := lab.registry.Get(*vm.Runtime.Host).(*simulator.HostSystem)
	lab.editList(ctx, host, "vm", &host.Vm, edit)
	if vm.ResourcePool != nil {
		if pool, ok := lab.registry.Get(*vm.ResourcePool).(*simulator.ResourcePool); ok {
			lab.editList(ctx, pool, "vm", &pool.Vm, edit)
		}
	}
	for _, r := range vm.Datastore {
		store := lab.registry.Get(r).(*simulator.Datastore)
		lab.editList(ctx, store, "vm", &store.Vm, edit)
	}
	for _, r := range vm.Network {
		switch network := lab.registry.Get(r).(type) {
		case *mo.Network:
			lab.editList(ctx, network, "vm", &network.Vm, edit)
		case *mo.OpaqueNetwork:
			lab.editList(ctx, network, "vm", &network.Vm, edit)
		}
	}
}

func (lab *Lab) editList(ctx *simulator.Context, owner mo.Reference, name string, list *[]ref, edit func([]ref) []ref) {
	lab.locked(ctx, owner, func() {
		*list = edit(*list)
		lab.registry.Update(ctx, owner, []types.PropertyChange{{Name: name, Val: *list}})
	})
}

// names keeps VM names unique within a folder from the start of a clone, and folders unique on a
// datastore.
type names struct {
	sync.Mutex
	pending map[string]bool
	folders map[string]bool
}

func newNames() *names {
	return &names{pending: map[string]bool{}, folders: map[string]bool{}}
}

// claim reserves a name in a folder. It returns false if another clone in progress has the name.
func (n *names) claim(folder ref, name string) bool {
	n.Lock()
	defer n.Unlock()
	key := folder.Value + "/" + name
	if n.pending[key] {
		return false
	}
	n.pending[key] = true
	return true
}

func (n *names) release(folder ref, name string) {
	n.Lock()
	defer n.Unlock()
	delete(n.pending, folder.Value+"/"+name)
}

// folder returns an unused folder name on the datastore.
func (n *names) folder(datastore, name string) string {
	n.Lock()
	defer n.Unlock()
	free := name
	for i := 1; n.folders[datastore+"/"+free]; i++ {
		free = fmt.Sprintf("%s_%d", name, i)
	}
	n.folders[datastore+"/"+free] = true
	return free
}

func (n *names) forgetFolder(vmPath string) {
	n.Lock()
	defer n.Unlock()
	datastore, rest, ok := strings.Cut(strings.TrimPrefix(vmPath, "["), "] ")
	if ok {
		delete(n.folders, datastore+"/"+filepath.ToSlash(filepath.Dir(rest)))
	}
}
