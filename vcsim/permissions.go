package main

import (
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// Roles on parts of the inventory, for accounts with the role "none" (R13). A permission on the
// object itself applies, else the nearest propagating one above it. A VM inherits from its folder
// and from its resource pool. Without System.View an object is in no list and cannot be used;
// without System.Read most of its properties are refused.

// PermissionDescription gives a principal a role on an entity, given by name, by inventory path, or
// as "/" for the root folder.
type PermissionDescription struct {
	Principal  string   `json:"principal"`
	Entity     string   `json:"entity"`
	Role       string   `json:"role"`       // noaccess, view, readonly, or empty with Privileges of its own
	Privileges []string `json:"privileges"` // in addition to System.*, which every role except view has
	Propagate  bool     `json:"propagate"`
}

const roleNone = "none"

// viewed are the properties for which the API reference requires only System.View.
var viewed = []string{
	"name", "parent", "value", "availableField", "customValue", "effectiveRole", "tag", "childType", "childEntity",
	"vmFolder", "hostFolder", "datastoreFolder", "networkFolder", "host", "resourcePool", "environmentBrowser",
	"owner", "datastore", "network",
}

// access is what a caller may read of one object.
type access struct{ view, read bool }

var everything = access{true, true}

func (a access) reads(name string) bool {
	first, _, _ := strings.Cut(name, ".")
	return a.read || a.view && slices.Contains(viewed, first)
}

// accessTo must be called before the object is locked, because it reads the objects above it.
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

// may reports whether the user has the privilege on the object. Objects outside the inventory are
// treated as its root, but every user may read them.
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

// holds checks the object itself, where every permission applies, and then the objects above it.
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

// above returns the objects from which an object inherits permissions.
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

// extended are the base types by which clients may refer to an object.
var extended = []string{"ManagedEntity", "ComputeResource", "Network", "ResourcePool"}

// typed returns the reference with its object's own type. vCenter uses the id only, so clients may
// use ManagedEntity for any object, or ComputeResource for a cluster.
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

// entityOf returns the inventory object to which an object belongs.
func (lab *Lab) entityOf(self ref) (ref, bool) {
	self = lab.typed(self)
	switch object := lab.registry.Get(self).(type) {
	case mo.Entity:
		return self, true
	case *simulator.EnvironmentBrowser:
		return lab.cluster, true
	case *vmBrowser:
		return object.vm, true
	case *simulator.VirtualMachineSnapshot:
		return object.Vm, true
	case *mo.HostPciPassthruSystem, *mo.HostGraphicsManager:
		_, host, _ := strings.Cut(self.Value, "-")
		return ref{Type: "HostSystem", Value: host}, true
	case *simulator.Task:
		var entity *types.ManagedObjectReference
		lab.locked(lab.context(nil), self, func() { entity = object.Info.Entity })
		if entity != nil && lab.registry.Get(*entity) != nil { // the object of a Destroy_Task no longer exists at its end
			return *entity, true
		}
	}
	return ref{}, false
}
