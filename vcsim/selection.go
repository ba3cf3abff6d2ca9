package main

import (
	"reflect"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// selection is the result of a filter's object set: the objects in the order in which they were
// found, and the objects on which the result depends.
type selection struct {
	ctx     *simulator.Context
	lab     *Lab
	objects []ref
	seen    map[ref]bool
	watch   func(ref) // called for every object before it is read, so that no change is missed
	names   map[string]*types.TraversalSpec
	visited map[visit]bool
}

type visit struct {
	object ref
	spec   *types.TraversalSpec
}

// selectObjects evaluates a filter's object set. A missing start object is ManagedObjectNotFound,
// unless the client set reportMissingObjectsInResults.
func (lab *Lab) selectObjects(ctx *simulator.Context, spec *types.PropertyFilterSpec, watch func(ref)) ([]ref, fault) {
	s := &selection{ctx: ctx, lab: lab, seen: map[ref]bool{}, watch: watch,
		names: map[string]*types.TraversalSpec{}, visited: map[visit]bool{}}
	for i := range spec.ObjectSet {
		s.collectNames(spec.ObjectSet[i].SelectSet)
	}
	for i := range spec.ObjectSet {
		object := &spec.ObjectSet[i]
		object.Obj = lab.typed(object.Obj)
		if find(ctx, object.Obj) == nil || lab.hidden.object(object.Obj) {
			if isTrue(spec.ReportMissingObjectsInResults) {
				continue
			}
			return nil, &types.ManagedObjectNotFound{Obj: object.Obj}
		}
		if !isTrue(object.Skip) {
			s.add(object.Obj)
		}
		if fault := s.follow(object.Obj, object.SelectSet); fault != nil {
			return nil, fault
		}
	}
	return s.objects, nil
}

func (s *selection) collectNames(specs []types.BaseSelectionSpec) {
	for _, spec := range specs {
		if traversal, ok := spec.(*types.TraversalSpec); ok {
			if traversal.Name != "" {
				s.names[traversal.Name] = traversal
			}
			s.collectNames(traversal.SelectSet)
		}
	}
}

func (s *selection) add(object ref) {
	if !s.seen[object] {
		s.seen[object] = true
		s.objects = append(s.objects, object)
	}
}

// follow follows the traversals that match the object's type.
func (s *selection) follow(from ref, specs []types.BaseSelectionSpec) fault {
	for _, spec := range specs {
		traversal, ok := spec.(*types.TraversalSpec)
		if !ok {
			if traversal = s.names[spec.GetSelectionSpec().Name]; traversal == nil {
				return &types.InvalidArgument{InvalidProperty: "selectSet." + spec.GetSelectionSpec().Name}
			}
		}
		if s.visited[visit{from, traversal}] {
			continue
		}
		s.visited[visit{from, traversal}] = true
		for _, to := range s.references(from, traversal) {
			if !s.lab.sees(s.ctx, to) {
				continue
			}
			if !isTrue(traversal.Skip) {
				s.add(to)
			}
			if fault := s.follow(to, traversal.SelectSet); fault != nil {
				return fault
			}
		}
	}
	return nil
}

// references reads the property that a traversal follows.
func (s *selection) references(from ref, traversal *types.TraversalSpec) []ref {
	s.watch(from)
	var refs []ref
	may := s.lab.accessTo(s.ctx, from)
	s.lab.locked(s.ctx, from, func() {
		object := find(s.ctx, from)
		if object == nil {
			return
		}
		value := managed(object)
		if !isA(value.Type(), traversal.Type) {
			return
		}
		found, fault := s.lab.propertyOf(may, from, value, traversal.Path)
		if fault != nil {
			return
		}
		switch v := found.(type) {
		case ref:
			refs = []ref{v}
		case *types.ArrayOfManagedObjectReference:
			refs = append(refs, v.ManagedObjectReference...)
		}
	})
	return refs
}

// pathsFor returns the properties of an object that a filter selects.
func pathsFor(spec *types.PropertyFilterSpec, object reflect.Type) (paths []string, wanted bool) {
	seen := map[string]bool{}
	for i := range spec.PropSet {
		set := &spec.PropSet[i]
		if !isA(object, set.Type) {
			continue
		}
		wanted = true
		names := set.PathSet
		if isTrue(set.All) {
			names = allProperties(object)
		}
		for _, name := range names {
			if !seen[name] {
				seen[name] = true
				paths = append(paths, name)
			}
		}
	}
	return paths, wanted
}
