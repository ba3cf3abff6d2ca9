package main

import (
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// The simulator's own PropertyCollector reads everything again after every change. The lab has many
// VMs, several waiting clients, and tasks that report progress. So it keeps, for each collector,
// the selected objects and their changed properties.

// collectors are the property collectors of all sessions.
type collectors struct {
	sync.Mutex
	sessions map[string]map[ref]*collector
}

// collector is one PropertyCollector. Its mutex guards the fields that changes are reported
// through; calls is held during a whole WaitForUpdatesEx, because vCenter answers one at a time.
type collector struct {
	self     ref
	calls    sync.Mutex
	mutex    sync.Mutex
	filters  []*filter
	wake     chan struct{} // a selected object may have changed
	canceled chan fault

	version int
	pending []filterUpdate // found, not sent yet
	sent    []*updateSet   // the last answers, each with its version, for clients that have an older version
}

func newCollectors() *collectors {
	return &collectors{sessions: map[string]map[ref]*collector{}}
}

// get returns a session's collector. The one of the service content always exists.
func (c *collectors) get(session string, self, singleton ref) *collector {
	c.Lock()
	defer c.Unlock()
	if found := c.sessions[session][self]; found != nil {
		return found
	}
	if self != singleton {
		return nil
	}
	return c.put(session, self)
}

func (c *collectors) create(session string) *collector {
	c.Lock()
	defer c.Unlock()
	return c.put(session, ref{Type: "PropertyCollector", Value: "session[" + session + "]" + uuid.NewString()})
}

func (c *collectors) put(session string, self ref) *collector {
	if c.sessions[session] == nil {
		c.sessions[session] = map[ref]*collector{}
	}
	created := &collector{self: self, wake: make(chan struct{}, 1), canceled: make(chan fault, 1)}
	c.sessions[session][self] = created
	return created
}

func (c *collectors) destroy(session string, self ref) {
	c.Lock()
	found := c.sessions[session][self]
	delete(c.sessions[session], self)
	c.Unlock()
	if found != nil {
		found.cancel(&types.ManagedObjectNotFound{Obj: self})
	}
}

// endSession removes a session's collectors; calls that wait on them fail.
func (c *collectors) endSession(session string) {
	c.Lock()
	ended := c.sessions[session]
	delete(c.sessions, session)
	c.Unlock()
	for self, collector := range ended {
		collector.cancel(&types.NotAuthenticated{NoPermission: types.NoPermission{Object: &self, PrivilegeId: "System.View"}})
	}
}

// filter returns a session's filter and its collector.
func (c *collectors) filter(session string, self ref) (*collector, *filter) {
	c.Lock()
	defer c.Unlock()
	for _, collector := range c.sessions[session] {
		collector.mutex.Lock()
		for _, f := range collector.filters {
			if f.self == self {
				collector.mutex.Unlock()
				return collector, f
			}
		}
		collector.mutex.Unlock()
	}
	return nil, nil
}

// count returns a session's collectors that it created, and the filters of all.
func (c *collectors) count(session string) (created, filters int) {
	c.Lock()
	defer c.Unlock()
	for self, collector := range c.sessions[session] {
		if strings.HasPrefix(self.Value, "session[") {
			created++
		}
		collector.mutex.Lock()
		filters += len(collector.filters)
		collector.mutex.Unlock()
	}
	return created, filters
}

func (c *collectors) each(f func(*collector)) {
	c.Lock()
	var all []*collector
	for _, session := range c.sessions {
		for _, collector := range session {
			all = append(all, collector)
		}
	}
	c.Unlock()
	for _, collector := range all {
		f(collector)
	}
}

func (c *collector) cancel(reason fault) {
	select {
	case c.canceled <- reason:
	default: // already cancelled
	}
}

// note records a change in the filters. It is called while the changed object is locked, so it does
// nothing else.
func (c *collector) note(mark func(*filter) bool) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	matters := false
	for _, f := range c.filters {
		matters = mark(f) || matters
	}
	if matters {
		select {
		case c.wake <- struct{}{}:
		default: // a wake-up is already pending
		}
	}
}

// listener is called for every change in the registry.
type listener struct {
	Self       ref
	collectors *collectors
}

func (l *listener) Reference() types.ManagedObjectReference { return l.Self }

// PutObject marks filters that select by traversal, because they may select the new object.
func (l *listener) PutObject(_ *simulator.Context, object mo.Reference) {
	if object.Reference().Type == "Task" {
		return // no traversal finds a task before a list of recent tasks has changed
	}
	l.collectors.each(func(c *collector) { c.note((*filter).objectCreated) })
}

func (l *listener) UpdateObject(_ *simulator.Context, object mo.Reference, changes []types.PropertyChange) {
	self := object.Reference()
	l.collectors.each(func(c *collector) {
		c.note(func(f *filter) bool { return f.objectChanged(self, changes) })
	})
}

func (l *listener) RemoveObject(_ *simulator.Context, self ref) {
	l.collectors.each(func(c *collector) {
		c.note(func(f *filter) bool { return f.objectRemoved(self) })
	})
}

// touches reports whether a change of one property path affects another: the same one, one above or
// one below.
func touches(changed, followed string) bool {
	below := func(a, b string) bool {
		return strings.HasPrefix(a, b) && (len(a) == len(b) || a[len(b)] == '.' || a[len(b)] == '[')
	}
	return below(changed, followed) || below(followed, changed)
}
