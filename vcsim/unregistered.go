package main

import (
	"path"
	"strings"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// unregisteredVMs stand for the .vmx files that UnregisterVM leaves on the datastores, keyed by
// path, for RegisterVM_Task. The simulated datastores have no such files.
type unregisteredVMs struct {
	sync.Mutex
	configs map[string]*types.VirtualMachineConfigInfo
}

func (u *unregisteredVMs) keep(config *types.VirtualMachineConfigInfo) {
	u.Lock()
	defer u.Unlock()
	if u.configs == nil {
		u.configs = map[string]*types.VirtualMachineConfigInfo{}
	}
	u.configs[config.Files.VmPathName] = config
}

// take returns the VM of a file and removes it.
func (u *unregisteredVMs) take(file string) *types.VirtualMachineConfigInfo {
	u.Lock()
	defer u.Unlock()
	config := u.configs[file]
	delete(u.configs, file)
	return config
}

// RegisterVMTask registers an unregistered VM again, with its devices. It is a new object.
func (f *folderMethods) RegisterVMTask(ctx *simulator.Context, req *types.RegisterVM_Task) soap.HasFault {
	task := f.begin(ctx, "RegisterVM_Task", "Folder.registerVm", func(op *operation) (types.AnyType, fault) {
		op.started()
		vm, fault := f.registerVM(op.ctx, req)
		if fault != nil {
			return nil, fault
		}
		return vm.Self, nil
	})
	return &methods.RegisterVM_TaskBody{Res: &types.RegisterVM_TaskResponse{Returnval: task}}
}

func (f *folderMethods) registerVM(ctx *simulator.Context, req *types.RegisterVM_Task) (*simulator.VirtualMachine, fault) {
	lab := f.lab
	p := placement{name: req.Name, pool: req.Pool, folder: f.self, host: lab.hostRefs[0], template: req.AsTemplate}
	p.datastore = lab.datastoreOfPath(&types.VirtualMachineFileInfo{VmPathName: req.Path})
	if p.datastore.Value == "" {
		return nil, &types.InvalidDatastorePath{DatastorePath: req.Path}
	}
	if req.Host != nil {
		p.host = *req.Host
	}
	if lab.hosts[p.host] == nil {
		return nil, &types.ManagedObjectNotFound{Obj: p.host}
	}
	switch _, ok := lab.poolOf(p.pool); {
	case p.template:
		p.pool = nil
	case !ok:
		return nil, &types.InvalidArgument{InvalidProperty: "pool"}
	}
	if fault := lab.checkHost(ctx, p.host); fault != nil {
		return nil, fault
	}
	config := lab.unregistered.take(req.Path)
	if config == nil {
		return nil, lab.noSuchVM(req.Path)
	}
	if p.name == "" {
		p.name = config.Name
	}
	if !lab.names.claim(p.folder, p.name) {
		lab.unregistered.keep(config)
		return nil, &types.DuplicateName{Name: p.name, Object: p.folder}
	}
	defer lab.names.release(p.folder, p.name)
	if fault := lab.checkName(ctx, p.folder, p.name); fault != nil {
		lab.unregistered.keep(config)
		return nil, fault
	}
	config = copied(config)
	config.Name, config.InstanceUuid = p.name, lab.freeInstanceUUID(config.InstanceUuid)
	return lab.createVM(ctx, p, config), nil
}

func (lab *Lab) poolOf(r *ref) (*simulator.ResourcePool, bool) {
	if r == nil {
		return nil, false
	}
	pool, ok := lab.registry.Get(*r).(*simulator.ResourcePool)
	return pool, ok
}

// noSuchVM returns one fault for a file that a VM of the inventory uses, and another for a missing
// file.
func (lab *Lab) noSuchVM(file string) fault {
	for _, object := range lab.registry.All("VirtualMachine") {
		vm, ok := object.(*simulator.VirtualMachine)
		if !ok {
			continue
		}
		var own string
		lab.locked(lab.context(nil), vm.Self, func() { own = vm.Config.Files.VmPathName })
		if own == file {
			return &types.AlreadyExists{Name: strings.TrimSuffix(path.Base(file), path.Ext(file))}
		}
	}
	return &types.NotFound{}
}
