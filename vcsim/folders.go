package main

import (
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// folderMethods create VMs and remove whole folders, so that VMs follow the rules however they were
// created.
type folderMethods struct {
	methodsOf
	folder *simulator.Folder
}

func (f *folderMethods) CreateVMTask(ctx *simulator.Context, req *types.CreateVM_Task) soap.HasFault {
	task := f.begin(ctx, "CreateVM_Task", "Folder.createVm", func(op *operation) (types.AnyType, fault) {
		op.started()
		vm, fault := f.createVM(op.ctx, req)
		if fault != nil {
			return nil, fault
		}
		return vm.Self, nil
	})
	return &methods.CreateVM_TaskBody{Res: &types.CreateVM_TaskResponse{Returnval: task}}
}

func (f *folderMethods) createVM(ctx *simulator.Context, req *types.CreateVM_Task) (*simulator.VirtualMachine, fault) {
	lab, spec := f.lab, req.Config
	p := placement{name: spec.Name, pool: &req.Pool, folder: f.self, host: lab.hostRefs[0]}
	if req.Host != nil {
		p.host = *req.Host
	}
	if lab.hosts[p.host] == nil {
		return nil, &types.ManagedObjectNotFound{Obj: p.host}
	}
	if _, ok := lab.registry.Get(req.Pool).(*simulator.ResourcePool); !ok {
		return nil, &types.ManagedObjectNotFound{Obj: req.Pool}
	}
	if p.datastore = lab.datastoreOfPath(spec.Files); p.datastore.Value == "" {
		return nil, &types.InvalidVmConfig{Property: "configSpec.files.vmPathName"}
	}
	if fault := lab.checkHost(ctx, p.host); fault != nil {
		return nil, fault
	}
	if !lab.names.claim(p.folder, p.name) {
		return nil, &types.DuplicateName{Name: p.name, Object: p.folder}
	}
	defer lab.names.release(p.folder, p.name)
	if fault := lab.checkName(ctx, p.folder, p.name); fault != nil {
		return nil, fault
	}
	config := newConfig(p.name, "otherGuest", "bios", lab.defaultHardware(p.host), 1, 32)
	lab.setFiles(config, p.datastore)
	next := mo.VirtualMachine{Config: config}
	spec.InstanceUuid = lab.freeInstanceUUID(spec.InstanceUuid)
	if fault := lab.applySpec(&next, &spec); fault != nil {
		lab.names.forgetFolder(config.Files.VmPathName)
		return nil, fault
	}
	if fault := lab.reserveSpace(ctx, p.datastore, lab.ownDiskBytes(config)); fault != nil {
		lab.names.forgetFolder(config.Files.VmPathName)
		return nil, fault
	}
	return lab.createVM(ctx, p, config), nil
}

// datastoreOfPath reads "[datastore] folder/file.vmx".
func (lab *Lab) datastoreOfPath(files *types.VirtualMachineFileInfo) ref {
	if files == nil {
		return ref{}
	}
	return lab.datastoreOf(files.VmPathName)
}

func (lab *Lab) datastoreOf(path string) ref {
	for name, r := range lab.datastores {
		if strings.HasPrefix(path, "["+name+"]") {
			return r
		}
	}
	return ref{}
}

// DestroyTask removes the folder with all VMs in it. If one of them runs, nothing is removed.
func (f *folderMethods) DestroyTask(ctx *simulator.Context, _ *types.Destroy_Task) soap.HasFault {
	task := f.begin(ctx, "Destroy_Task", "Folder.destroy", func(op *operation) (types.AnyType, fault) {
		op.started()
		return nil, f.destroy(op)
	})
	return &methods.Destroy_TaskBody{Res: &types.Destroy_TaskResponse{Returnval: task}}
}

func (f *folderMethods) destroy(op *operation) fault {
	ctx := op.ctx
	parent, ok := f.lab.registry.Get(*f.folder.Parent).(*simulator.Folder)
	if !ok {
		return &types.NotSupported{} // one of a datacenter's root folders
	}
	walk := &viewWalk{view: &containerView{lab: f.lab}, ctx: ctx, seen: map[ref]bool{}}
	walk.view.Recursive = true
	var content []ref
	walk.from(f.self, &content)
	vms, others := f.lab.split(content)
	for _, vm := range vms {
		if fault := f.lab.checkRemovable(ctx, vm); fault != nil {
			return fault
		}
	}
	for _, vm := range vms {
		if fault := f.lab.remove(ctx, vm, op.task.Self, true); fault != nil {
			return fault
		}
	}
	for _, folder := range others {
		f.lab.registry.Remove(ctx, folder)
	}
	f.lab.editList(ctx, parent, "childEntity", &parent.ChildEntity, func(list []ref) []ref {
		return slices.DeleteFunc(slices.Clone(list), func(r ref) bool { return r == f.self })
	})
	f.lab.registry.Remove(ctx, f.self)
	return nil
}

func (lab *Lab) split(content []ref) (vms []*simulator.VirtualMachine, others []ref) {
	for _, r := range content {
		if vm, ok := lab.registry.Get(r).(*simulator.VirtualMachine); ok {
			vms = append(vms, vm)
		} else {
			others = append(others, r)
		}
	}
	return vms, others
}

// checkName checks that the name is unique in the folder.
func (lab *Lab) checkName(ctx *simulator.Context, folder ref, name string) fault {
	f := lab.registry.Get(folder).(*simulator.Folder)
	var children []ref
	lab.locked(ctx, folder, func() { children = f.ChildEntity })
	for _, child := range children {
		if lab.nameOf(child) == name {
			return &types.DuplicateName{Name: name, Object: child}
		}
	}
	return nil
}
