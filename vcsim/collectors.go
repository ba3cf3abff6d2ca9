package main

import (
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// The simulator's own PropertyCollector reads everything anew for every change of anything. The lab
// has many VMs, several clients that wait, and tasks that report progress: it keeps, for each
// collector, which objects matter and which properties of them changed.

// collectors are the property collectors of all sessions.
type collectors struct {
	sync.Mutex
	sessions map[string]map[ref]*collector
}

// collector is one PropertyCollector. Its mutex guards what changes reach it by; calls is held for
// the whole of a WaitForUpdatesEx, since vCenter answers one at a time.
type collector struct {
	self     ref
	calls    sync.Mutex
	mutex    sync.Mutex
	filters  []*filter
	wake     chan struct{} // something that matters may have changed
	canceled chan fault

	version int
	pending []filterUpdate // found already, not sent yet
	sent    []*updateSet   // the last answers, each with the version after it: what clients of older ones get
}

func newCollectors() *collectors {
	return &collectors{sessions: map[string]map[ref]*collector{}}
}

// get returns a session's collector; the one of the service content is there from the start.
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

// endSession drops a session's collectors; who waits on one learns that the session is over.
func (c *collectors) endSession(session string) {
	c.Lock()
	ended := c.sessions[session]
	delete(c.sessions, session)
	c.Unlock()
	for self, collector := range ended {
		collector.cancel(&types.NotAuthenticated{NoPermission: types.NoPermission{Object: &self, PrivilegeId: "System.View"}})
	}
}

// filter finds the filter of a session, and the collector that it belongs to.
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
	default: // cancelled already
	}
}

// note tells the filters of a change; it is called while the changed object is locked, so it only
// takes notes.
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
		default: // it is awake
		}
	}
}

// listener hears of every change in the registry.
type listener struct {
	Self       ref
	collectors *collectors
}

func (l *listener) Reference() types.ManagedObjectReference { return l.Self }

// PutObject: a new object matters to filters that select by traversal.
func (l *listener) PutObject(_ *simulator.Context, object mo.Reference) {
	if object.Reference().Type == "Task" {
		return // nobody finds a task by traversal before some list of recent tasks has changed
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

// touches says whether a change of one property path shows in another: the same, above or below.
func touches(changed, followed string) bool {
	below := func(a, b string) bool {
		return strings.HasPrefix(a, b) && (len(a) == len(b) || a[len(b)] == '.' || a[len(b)] == '[')
	}
	return below(changed, followed) || below(followed, changed)
}
