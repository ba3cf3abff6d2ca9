package main

import (
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// Roles on parts of the inventory, for accounts with the role "none" (R13). The permission on an
// object itself holds there; else the nearest one above that propagates. A VM is below its folder and
// below its resource pool, and has what it gets from either. Without System.View an object is in no
// list and nothing can be done with it; without System.Read most of its properties are refused.

// PermissionDescription gives a principal a role on an entity, which is named as people do: by name,
// by inventory path, or "/" for the root folder.
type PermissionDescription struct {
	Principal  string   `json:"principal"`
	Entity     string   `json:"entity"`
	Role       string   `json:"role"`       // noaccess, view, readonly, or empty with Privileges of its own
	Privileges []string `json:"privileges"` // beside System.*, which every role but view has
	Propagate  bool     `json:"propagate"`
}

const roleNone = "none"

// viewed are the properties for which System.View is enough, by the API reference.
var viewed = []string{
	"name", "parent", "value", "availableField", "customValue", "effectiveRole", "tag", "childType", "childEntity",
	"vmFolder", "hostFolder", "datastoreFolder", "networkFolder", "host", "resourcePool", "environmentBrowser",
	"owner", "datastore", "network",
}

// access is what a caller may see of one object.
type access struct{ view, read bool }

var everything = access{true, true}

func (a access) reads(name string) bool {
	first, _, _ := strings.Cut(name, ".")
	return a.read || a.view && slices.Contains(viewed, first)
}

// accessTo must be asked before the object is locked, because it looks at those above it.
func (lab *Lab) accessTo(ctx *simulator.Context, self ref) access {
	if ctx.Session == nil || !lab.accounts.restricted(ctx.Session.UserName) {
		return everything
	}
	user := ctx.Session.UserName
	return access{view: lab.may(user, "System.View", self), read: lab.may(user, "System.Read", self)}
}

func (lab *Lab) sees(ctx *simulator.Context, self ref) bool {
	return !lab.hidden.object(self) && lab.accessTo(ctx, self).view
}

// may says whether the user has the privilege on the object. What is no part of the inventory counts
// as its root, but anybody may look at it.
func (lab *Lab) may(user, privilege string, object ref) bool {
	if !lab.accounts.restricted(user) {
		return lab.accounts.may(user, privilege)
	}
	entity, ok := lab.entityOf(object)
	system := strings.HasPrefix(privilege, "System.") && privilege != defaultPrivilege
	if !ok {
		return system || lab.holds(user, privilege, lab.content().RootFolder, true)
	}
	return lab.holds(user, privilege, entity, true)
}

// holds looks at the object itself, where every permission counts, and then upwards.
func (lab *Lab) holds(user, privilege string, entity ref, itself bool) bool {
	for i := range lab.description.Permissions {
		p := &lab.description.Permissions[i]
		if p.Principal == user && (itself || p.Propagate) && lab.isCalled(entity, p.Entity) {
			return p.grants(privilege)
		}
	}
	return slices.ContainsFunc(lab.above(entity), func(parent ref) bool {
		return lab.holds(user, privilege, parent, false)
	})
}

func (p *PermissionDescription) grants(privilege string) bool {
	switch {
	case p.Role == "noaccess":
		return false
	case privilege == "System.View" || privilege == "System.Anonymous":
		return true
	case p.Role == "view":
		return false
	case privilege == "System.Read":
		return true
	}
	return slices.Contains(p.Privileges, privilege)
}

func (lab *Lab) privileges(user string, entity ref) []string {
	var granted []string
	for _, privilege := range lab.accounts.all {
		if lab.may(user, privilege, entity) {
			granted = append(granted, privilege)
		}
	}
	return granted
}

func (lab *Lab) isCalled(entity ref, wanted string) bool {
	if wanted == "/" {
		return entity == lab.content().RootFolder
	}
	if !strings.HasPrefix(wanted, "/") {
		return lab.nameOf(entity) == wanted
	}
	path := ""
	for entity != lab.content().RootFolder {
		path = "/" + lab.nameOf(entity) + path
		parent := lab.parentOf(entity)
		if parent == nil {
			break
		}
		entity = *parent
	}
	return path == wanted
}

func (lab *Lab) parentOf(self ref) *ref {
	var parent *ref
	if entity, ok := lab.registry.Get(self).(mo.Entity); ok {
		lab.locked(lab.context(nil), self, func() { parent = entity.Entity().Parent })
	}
	return parent
}

// above are the objects that an object inherits permissions from.
func (lab *Lab) above(self ref) []ref {
	var parents []ref
	if parent := lab.parentOf(self); parent != nil {
		parents = append(parents, *parent)
	}
	if vm, ok := lab.registry.Get(self).(*simulator.VirtualMachine); ok {
		lab.locked(lab.context(nil), self, func() {
			if vm.ResourcePool != nil { // a template has none
				parents = append(parents, *vm.ResourcePool)
			}
		})
	}
	return parents
}

// extended are the types that others extend, in whose name clients may call an object.
var extended = []string{"ManagedEntity", "ComputeResource", "Network", "ResourcePool"}

// typed is the reference with the type that its object has: vCenter goes by the id, and clients may
// call anything a ManagedEntity, or a cluster a ComputeResource.
func (lab *Lab) typed(self ref) ref {
	if !slices.Contains(extended, self.Type) || lab.registry.Get(self) != nil {
		return self
	}
	for _, entity := range lab.registry.All("") {
		if entity.Reference().Value == self.Value {
			return entity.Reference()
		}
	}
	return self
}

// entityOf is the object of the inventory that something belongs to.
func (lab *Lab) entityOf(self ref) (ref, bool) {
	self = lab.typed(self)
	switch object := lab.registry.Get(self).(type) {
	case mo.Entity:
		return self, true
	case *simulator.EnvironmentBrowser:
		return lab.cluster, true
	case *simulator.VirtualMachineSnapshot:
		return object.Vm, true
	case *simulator.Task:
		var entity *types.ManagedObjectReference
		lab.locked(lab.context(nil), self, func() { entity = object.Info.Entity })
		if entity != nil && lab.registry.Get(*entity) != nil { // a destroy's is gone by its end
			return *entity, true
		}
	}
	return ref{}, false
}
