package main

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// hidden holds what a test hides, object by object: properties that are unset, or refused, for all
// users; and whole objects, which are then in no list.
type hidden struct {
	mutex sync.RWMutex
	rules map[ref][]hiddenPath
}

// hiddenPath is one property with everything below it. An empty path is the object itself.
type hiddenPath struct {
	path   string
	denied bool
}

func newHidden() *hidden { return &hidden{rules: map[ref][]hiddenPath{}} }

func (h *hidden) add(object ref, path hiddenPath) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.rules[object] = append(h.rules[object], path)
}

func (h *hidden) clear() {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.rules = map[ref][]hiddenPath{}
}

// object reports whether the whole object is hidden.
func (h *hidden) object(self ref) bool {
	found, _ := h.find(self, "")
	return found
}

// find reports whether the property is hidden, and whether reading it is refused.
func (h *hidden) find(self ref, name string) (found, denied bool) {
	h.mutex.RLock()
	defer h.mutex.RUnlock()
	for _, rule := range h.rules[self] {
		below := strings.TrimPrefix(name, rule.path)
		if name == rule.path || rule.path != "" && below != name && strings.ContainsAny(below[:1], ".[") {
			return true, rule.denied
		}
	}
	return false, false
}

// hideRequest is the body of POST /hide. Without a path the object itself is hidden.
type hideRequest struct {
	Object string `json:"object"`
	Path   string `json:"path"`
	Denied bool   `json:"denied"`
}

func (lab *Lab) hide(w http.ResponseWriter, r *http.Request) {
	var wanted hideRequest
	if !read(w, r, &wanted) {
		return
	}
	object, ok := lab.objectWithID(wanted.Object)
	switch {
	case !ok:
		refuse(w, http.StatusNotFound, fmt.Errorf("there is no object '%s': GET /ids lists them", wanted.Object))
	case wanted.Path != "" && !lab.paths.has(managed(object).Type(), wanted.Path):
		refuse(w, http.StatusBadRequest, fmt.Errorf("%s has no property '%s'", object.Reference().Type, wanted.Path))
	default:
		lab.hidden.add(object.Reference(), hiddenPath{wanted.Path, wanted.Denied})
		reply(w, done)
	}
}

// identified is an object of the inventory.
type identified struct {
	ID   string `json:"id"`
	Kind string `json:"kind"`
	Name string `json:"name"`
}

func (lab *Lab) listIDs() []identified {
	ids := []identified{}
	for _, entity := range lab.registry.All("") {
		self := entity.Reference()
		ids = append(ids, identified{self.Value, self.Type, lab.nameOf(self)})
	}
	slices.SortFunc(ids, func(a, b identified) int { return cmp.Compare(a.ID, b.ID) })
	return ids
}

func (lab *Lab) objectWithID(id string) (mo.Reference, bool) {
	for kind := range managedTypes {
		if object := lab.registry.Get(ref{Type: kind, Value: id}); object != nil {
			return object, true
		}
	}
	for _, kind := range []string{"Task", "TaskManager"} {
		if object := lab.registry.Get(ref{Type: kind, Value: id}); object != nil {
			return object, true
		}
	}
	return nil, false
}

func refusedToRead(self ref) fault {
	return &types.NoPermission{Object: &self, PrivilegeId: "System.Read"}
}
