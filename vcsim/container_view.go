package main

import (
	"reflect"
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// viewMethods creates container views that are computed when they are read, with each list locked
// while it is read. The simulator's views walk the inventory without locks whenever an object is
// created.
type viewMethods struct{ methodsOf }

// containerView lives in its session's registry and gets no updates.
type containerView struct {
	mo.ContainerView
	lab *Lab
}

func (v *viewMethods) CreateContainerView(ctx *simulator.Context, req *types.CreateContainerView) soap.HasFault {
	root := v.lab.registry.Get(req.Container)
	if root == nil {
		f := &types.ManagedObjectNotFound{Obj: req.Container}
		return &methods.CreateContainerViewBody{Fault_: simulator.Fault(describe(f), f)}
	}
	for _, name := range req.Type {
		if !isEntity(name) {
			f := &types.InvalidArgument{InvalidProperty: "type"}
			return &methods.CreateContainerViewBody{Fault_: simulator.Fault(describe(f), f)}
		}
	}
	view := &containerView{lab: v.lab}
	view.Self.Type = "ContainerView" // the session adds the value
	view.Container, view.Type, view.Recursive = req.Container, req.Type, req.Recursive
	ctx.Session.Put(view)
	return &methods.CreateContainerViewBody{Res: &types.CreateContainerViewResponse{Returnval: view.Self}}
}

func (v *containerView) DestroyView(ctx *simulator.Context, _ *types.DestroyView) soap.HasFault {
	ctx.Session.Remove(ctx, v.Self)
	return &methods.DestroyViewBody{Res: &types.DestroyViewResponse{}}
}

// Get returns the view with its current contents.
func (v *containerView) Get() mo.Reference {
	now := v.ContainerView
	now.View = nil
	walk := &viewWalk{view: v, ctx: v.lab.context(nil), seen: map[ref]bool{}}
	walk.from(v.Container, &now.View)
	return &now
}

type viewWalk struct {
	view *containerView
	ctx  *simulator.Context
	seen map[ref]bool
}

func (w *viewWalk) from(container ref, list *[]ref) {
	for _, child := range w.children(container) {
		if w.seen[child] {
			continue
		}
		w.seen[child] = true
		if w.includes(child) {
			*list = append(*list, child)
		}
		if w.view.Recursive {
			w.from(child, list)
		}
	}
}

func (w *viewWalk) includes(child ref) bool {
	if len(w.view.Type) == 0 {
		return true
	}
	object := w.view.lab.registry.Get(child)
	return object != nil && slices.ContainsFunc(w.view.Type, func(name string) bool { return isA(managed(object).Type(), name) })
}

// children returns the objects that an inventory object contains.
func (w *viewWalk) children(container ref) []ref {
	object := w.view.lab.registry.Get(container)
	if object == nil {
		return nil
	}
	var children []ref
	w.view.lab.locked(w.ctx, container, func() {
		switch e := managed(object).Addr().Interface().(type) {
		case *mo.Datacenter:
			children = []ref{e.VmFolder, e.HostFolder, e.DatastoreFolder, e.NetworkFolder}
		case *mo.Folder:
			children = slices.Clone(e.ChildEntity)
		case *mo.StoragePod:
			children = slices.Clone(e.ChildEntity)
		case *mo.ComputeResource:
			children = append(slices.Clone(e.Host), *e.ResourcePool)
		case *mo.ClusterComputeResource:
			children = append(slices.Clone(e.Host), *e.ResourcePool)
		case *mo.ResourcePool:
			children = slices.Concat(e.ResourcePool, e.Vm)
		case *mo.VirtualApp:
			children = slices.Concat(e.ResourcePool.ResourcePool, e.Vm)
		case *mo.HostSystem:
			children = slices.Clone(e.Vm)
		}
	})
	return children
}

// isEntity reports whether views can select this type.
func isEntity(name string) bool {
	if name == "ManagedEntity" {
		return true
	}
	kind, ok := managedTypes[name]
	return ok && isA(kind, "ManagedEntity")
}

var managedTypes = map[string]reflect.Type{
	"Folder": reflect.TypeFor[mo.Folder](), "Datacenter": reflect.TypeFor[mo.Datacenter](),
	"ComputeResource":        reflect.TypeFor[mo.ComputeResource](),
	"ClusterComputeResource": reflect.TypeFor[mo.ClusterComputeResource](),
	"HostSystem":             reflect.TypeFor[mo.HostSystem](), "ResourcePool": reflect.TypeFor[mo.ResourcePool](),
	"VirtualApp": reflect.TypeFor[mo.VirtualApp](), "VirtualMachine": reflect.TypeFor[mo.VirtualMachine](),
	"Datastore": reflect.TypeFor[mo.Datastore](), "StoragePod": reflect.TypeFor[mo.StoragePod](),
	"Network": reflect.TypeFor[mo.Network](), "OpaqueNetwork": reflect.TypeFor[mo.OpaqueNetwork](),
	"DistributedVirtualPortgroup": reflect.TypeFor[mo.DistributedVirtualPortgroup](),
	"DistributedVirtualSwitch":    reflect.TypeFor[mo.DistributedVirtualSwitch](),
}
