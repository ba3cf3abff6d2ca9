package main

import (
	_ "embed"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// A vCenter resolves a property path through the declared types of its API, not through the
// object's types at run time: `configurationEx.drsConfig` of a cluster is refused, because
// configurationEx is declared as a type without a drsConfig. A path that is unknown, or newer than
// the vCenter, fails the whole call with InvalidProperty; it is not a missing value of one object.

// newerProperties has a line for every property that came after vSphere 6.7: its type and name, and
// the API version. newer_properties.py prints it.
//
//go:embed newer_properties.txt
var newerProperties string

var newer = sync.OnceValue(func() map[string][]int {
	found := map[string][]int{}
	for line := range strings.Lines(newerProperties) {
		name, since, _ := strings.Cut(strings.TrimSpace(line), " ")
		found[name] = numbers(since)
	}
	return found
})

// paths knows the property paths of a vCenter with one API version.
type paths struct {
	version []int
	checked sync.Map // pathOf -> bool
}

type pathOf struct {
	kind reflect.Type
	name string
}

func newPaths(version string) *paths { return &paths{version: numbers(version)} }

// check returns InvalidProperty for the first path of a filter that the vCenter does not have.
func (p *paths) check(spec *types.PropertyFilterSpec) fault {
	for i := range spec.PropSet {
		kind := kindOf(spec.PropSet[i].Type)
		if kind == nil {
			return &types.InvalidArgument{InvalidProperty: "specSet.propSet.type"}
		}
		for _, name := range spec.PropSet[i].PathSet {
			if !p.has(kind, name) {
				return &types.InvalidProperty{Name: name}
			}
		}
	}
	return nil
}

func (p *paths) has(kind reflect.Type, name string) bool {
	key := pathOf{kind, name}
	if known, ok := p.checked.Load(key); ok {
		return known.(bool)
	}
	known := p.walk(kind, name)
	p.checked.Store(key, known)
	return known
}

func (p *paths) walk(kind reflect.Type, name string) bool {
	var field mo.Field
	if !field.FromString(name) {
		return false
	}
	kind, ok := p.follow(kind, field.Path)
	if !ok || field.Key == nil {
		return ok
	}
	if kind.Kind() != reflect.Slice {
		return false
	}
	if field.Item != "" {
		_, ok = p.follow(kind.Elem(), field.Item)
	}
	return ok
}

// follow returns the declared type at the end of a dotted path.
func (p *paths) follow(kind reflect.Type, dotted string) (reflect.Type, bool) {
	for name := range strings.SplitSeq(dotted, ".") {
		kind = declared(kind)
		if kind.Kind() != reflect.Struct || kind == reflect.TypeFor[ref]() {
			return nil, false
		}
		field, ok := fieldOf(kind, name)
		if !ok || slices.Compare(newer()[owner(kind, field)+"."+name], p.version) > 0 {
			return nil, false
		}
		kind = field.Type
	}
	return kind, true
}

// declared returns the data object type for a field's Go type: the type behind a pointer, or the
// one that an interface such as BaseComputeResourceConfigInfo is named after.
func declared(kind reflect.Type) reflect.Type {
	for kind.Kind() == reflect.Pointer {
		kind = kind.Elem()
	}
	if kind.Kind() == reflect.Interface {
		if found, ok := types.TypeFunc()(strings.TrimPrefix(kind.Name(), "Base")); ok {
			return found
		}
	}
	return kind
}

// fieldOf finds a field by its name in the API.
func fieldOf(kind reflect.Type, name string) (reflect.StructField, bool) {
	if name == "" || strings.ToLower(name[:1]) != name[:1] || name == "self" {
		return reflect.StructField{}, false
	}
	field, ok := kind.FieldByName(strings.ToUpper(name[:1]) + name[1:])
	return field, ok && !field.Anonymous
}

// owner returns the name of the type that declares a field: the type itself, or one that it
// extends.
func owner(kind reflect.Type, field reflect.StructField) string {
	for _, index := range field.Index[:len(field.Index)-1] {
		kind = kind.Field(index).Type
	}
	return kind.Name()
}

// kindOf returns the managed object type of that name, or nil if no client of the lab can read it.
func kindOf(name string) reflect.Type {
	for _, kind := range managedKinds {
		if kind.Name() == name {
			return kind
		}
	}
	return nil
}

var managedKinds = []reflect.Type{
	reflect.TypeFor[mo.VirtualMachine](), reflect.TypeFor[mo.HostSystem](), reflect.TypeFor[mo.Folder](),
	reflect.TypeFor[mo.Datacenter](), reflect.TypeFor[mo.ClusterComputeResource](), reflect.TypeFor[mo.ComputeResource](),
	reflect.TypeFor[mo.ResourcePool](), reflect.TypeFor[mo.Datastore](), reflect.TypeFor[mo.Network](),
	reflect.TypeFor[mo.OpaqueNetwork](), reflect.TypeFor[mo.DistributedVirtualPortgroup](),
	reflect.TypeFor[mo.DistributedVirtualSwitch](), reflect.TypeFor[mo.VmwareDistributedVirtualSwitch](),
	reflect.TypeFor[mo.StoragePod](), reflect.TypeFor[mo.VirtualApp](), reflect.TypeFor[mo.ManagedEntity](),
	reflect.TypeFor[mo.Task](), reflect.TypeFor[mo.TaskManager](), reflect.TypeFor[mo.EventManager](),
	reflect.TypeFor[mo.SessionManager](), reflect.TypeFor[mo.ViewManager](), reflect.TypeFor[mo.ContainerView](),
	reflect.TypeFor[mo.ListView](), reflect.TypeFor[mo.ServiceInstance](), reflect.TypeFor[mo.AuthorizationManager](),
	reflect.TypeFor[mo.EnvironmentBrowser](), reflect.TypeFor[mo.LicenseManager](),
	reflect.TypeFor[mo.LicenseAssignmentManager](), reflect.TypeFor[mo.HostPciPassthruSystem](),
	reflect.TypeFor[mo.HostDatastoreSystem](), reflect.TypeFor[mo.HostNetworkSystem](),
	reflect.TypeFor[mo.HostStorageSystem](), reflect.TypeFor[mo.HostDatastoreBrowser](),
	reflect.TypeFor[mo.VirtualMachineSnapshot](), reflect.TypeFor[mo.OptionManager](),
	reflect.TypeFor[mo.CustomFieldsManager](), reflect.TypeFor[mo.PerformanceManager](),
	reflect.TypeFor[mo.EventHistoryCollector](), reflect.TypeFor[mo.TaskHistoryCollector](),
	reflect.TypeFor[mo.HostGraphicsManager](), reflect.TypeFor[mo.ExtensionManager](), reflect.TypeFor[mo.StorageResourceManager](),
}
