package main

import (
	"hash/maphash"
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// filter is one PropertyFilter. The recorded changes are guarded by its collector's mutex; the
// reported objects belong to the running WaitForUpdatesEx.
type filter struct {
	self    ref
	spec    types.PropertyFilterSpec
	watched map[ref]bool            // objects to follow; true if the selection depends on them
	dirty   map[ref]map[string]bool // changed properties, by object
	stale   bool                    // the selection must be repeated

	objects map[ref]*reported
}

// reported is the state of an object that the client has: a hash of each property's last value.
type reported struct {
	paths  []string
	hashes map[string]uint64
}

var hashSeed = maphash.MakeSeed()

func newFilter(self ref, spec types.PropertyFilterSpec) *filter {
	return &filter{
		self: self, spec: spec, stale: true,
		watched: map[ref]bool{}, dirty: map[ref]map[string]bool{}, objects: map[ref]*reported{},
	}
}

func (f *filter) selects() bool {
	return slices.ContainsFunc(f.spec.ObjectSet, func(o types.ObjectSpec) bool { return len(o.SelectSet) > 0 })
}

func (f *filter) objectCreated() bool {
	f.stale = f.stale || f.selects()
	return f.stale
}

func (f *filter) objectChanged(self ref, changes []types.PropertyChange) bool {
	depends, watched := f.watched[self]
	if !watched {
		return false
	}
	if f.dirty[self] == nil {
		f.dirty[self] = map[string]bool{}
	}
	for i := range changes {
		f.dirty[self][changes[i].Name] = true
	}
	f.stale = f.stale || depends
	return true
}

func (f *filter) objectRemoved(self ref) bool {
	if _, watched := f.watched[self]; watched {
		f.stale = true
		return true
	}
	return false
}

// take returns the recorded changes and resets them. The caller holds the collector's mutex.
func (f *filter) take() (dirty map[ref]map[string]bool, stale bool) {
	dirty, stale = f.dirty, f.stale
	f.dirty, f.stale = map[ref]map[string]bool{}, false
	return dirty, stale
}

// updates compares the inventory with the state that the client has.
func (f *filter) updates(lab *Lab, ctx *simulator.Context, c *collector) ([]objectUpdate, fault) {
	c.mutex.Lock()
	dirty, stale := f.take()
	c.mutex.Unlock()
	var updates []objectUpdate
	if stale {
		changed, fault := f.reselect(lab, ctx, c)
		if fault != nil {
			return nil, fault
		}
		updates = changed
	}
	for self, names := range dirty {
		known := f.objects[self]
		if known == nil {
			continue
		}
		if update := f.modified(lab, ctx, self, known, names); update != nil {
			updates = append(updates, *update)
		}
	}
	return updates, nil
}

// reselect repeats the selection: new objects enter, missing ones leave.
func (f *filter) reselect(lab *Lab, ctx *simulator.Context, c *collector) ([]objectUpdate, fault) {
	watched := map[ref]bool{}
	watch := func(self ref, depends bool) {
		watched[self] = watched[self] || depends
		c.mutex.Lock()
		f.watched[self] = f.watched[self] || depends
		c.mutex.Unlock()
	}
	selected, fault := lab.selectObjects(ctx, &f.spec, func(self ref) { watch(self, true) })
	if _, gone := fault.(*types.ManagedObjectNotFound); gone {
		selected = nil // the start object has been removed since the filter was created
	} else if fault != nil {
		return nil, fault
	}
	var updates []objectUpdate
	present := map[ref]bool{}
	for _, self := range selected {
		watch(self, false)
		if f.objects[self] != nil {
			present[self] = find(ctx, self) != nil
			continue
		}
		if update := f.entered(lab, ctx, self); update != nil {
			present[self] = true
			updates = append(updates, *update)
		}
	}
	for self := range f.objects {
		if !present[self] {
			delete(f.objects, self)
			updates = append(updates, objectUpdate{Kind: types.ObjectUpdateKindLeave, Obj: self})
		}
	}
	c.mutex.Lock()
	f.watched = watched
	c.mutex.Unlock()
	return updates, nil
}

// entered reports all properties of an object for the first time. It returns nil if the filter has
// none of them.
func (f *filter) entered(lab *Lab, ctx *simulator.Context, self ref) *objectUpdate {
	update := &objectUpdate{Kind: types.ObjectUpdateKindEnter, Obj: self}
	known := &reported{hashes: map[string]uint64{}}
	wanted := false
	may := lab.accessTo(ctx, self)
	lab.locked(ctx, self, func() {
		object := find(ctx, self)
		if object == nil {
			return
		}
		value := managed(object)
		known.paths, wanted = pathsFor(&f.spec, value.Type())
		for _, name := range known.paths {
			v, fault := lab.propertyOf(may, self, value, name)
			if fault != nil {
				update.MissingSet = append(update.MissingSet, missing(name, fault))
				continue
			}
			change, hash := encodeChange(name, v)
			known.hashes[name] = hash
			update.ChangeSet = append(update.ChangeSet, change)
		}
	})
	if !wanted {
		return nil
	}
	f.objects[self] = known
	return update
}

// modified reports the properties whose value differs from the one reported last.
func (f *filter) modified(lab *Lab, ctx *simulator.Context, self ref, known *reported, names map[string]bool) *objectUpdate {
	update := &objectUpdate{Kind: types.ObjectUpdateKindModify, Obj: self}
	may := lab.accessTo(ctx, self)
	lab.locked(ctx, self, func() {
		object := find(ctx, self)
		if object == nil {
			return
		}
		value := managed(object)
		for _, name := range known.paths {
			if !touched(names, name) || lab.withholds(object, name) {
				continue
			}
			v, fault := lab.propertyOf(may, self, value, name)
			if fault != nil {
				continue
			}
			change, hash := encodeChange(name, v)
			if hash != known.hashes[name] {
				known.hashes[name] = hash
				update.ChangeSet = append(update.ChangeSet, change)
			}
		}
	})
	if len(update.ChangeSet) == 0 {
		return nil
	}
	return update
}

func touched(names map[string]bool, followed string) bool {
	for changed := range names {
		if touches(changed, followed) {
			return true
		}
	}
	return false
}

func encodeChange(name string, value any) (rawXML, uint64) {
	text := encode(types.PropertyChange{Name: name, Op: types.PropertyChangeOpAssign, Val: value})
	return rawXML{text}, maphash.String(hashSeed, text)
}

// withholds reports whether an update must not have this property: with guestinfo_updates false,
// what a running guest sets in extraConfig is in no update.
func (lab *Lab) withholds(object mo.Reference, name string) bool {
	vm, ok := object.(*simulator.VirtualMachine)
	running := ok && vm.Runtime.PowerState == poweredOn
	return running && !*lab.description.GuestinfoUpdates && strings.HasPrefix(name, "config.extraConfig")
}
