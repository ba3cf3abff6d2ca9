package main

import (
	"slices"
	"strconv"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// mostUpdates is the number of objects in one answer of vCenter when the client sets no limit.
const mostUpdates = 100

// keptAnswers is how many answers old a client's version may be. vCenter's own limit is not
// documented.
const keptAnswers = 64

// gathering is how long a waiting call collects changes before it answers.
const gathering = 10 * time.Millisecond

type objectUpdate struct {
	Kind       types.ObjectUpdateKind  `xml:"kind"`
	Obj        ref                     `xml:"obj"`
	ChangeSet  []rawXML                `xml:"changeSet,omitempty"`
	MissingSet []types.MissingProperty `xml:"missingSet,omitempty"`
}

type filterUpdate struct {
	Filter    ref            `xml:"filter"`
	ObjectSet []objectUpdate `xml:"objectSet,omitempty"`
}

type updateSet struct {
	Version   string         `xml:"version"`
	FilterSet []filterUpdate `xml:"filterSet,omitempty"`
	Truncated *bool          `xml:"truncated"`
}

type WaitForUpdatesExResponse struct {
	Returnval *updateSet `xml:"returnval,omitempty"`
}

type WaitForUpdatesResponse struct {
	Returnval *updateSet `xml:"returnval"`
}

type CheckForUpdatesResponse struct {
	Returnval *updateSet `xml:"returnval,omitempty"`
}

type waitExBody struct {
	Res    *WaitForUpdatesExResponse `xml:"WaitForUpdatesExResponse,omitempty"`
	Fault_ *soap.Fault
}

type waitBody struct {
	Res    *WaitForUpdatesResponse `xml:"WaitForUpdatesResponse,omitempty"`
	Fault_ *soap.Fault
}

type checkBody struct {
	Res    *CheckForUpdatesResponse `xml:"CheckForUpdatesResponse,omitempty"`
	Fault_ *soap.Fault
}

func (b *waitExBody) Fault() *soap.Fault { return b.Fault_ }
func (b *waitBody) Fault() *soap.Fault   { return b.Fault_ }
func (b *checkBody) Fault() *soap.Fault  { return b.Fault_ }

func (c *collectorMethods) WaitForUpdatesEx(ctx *simulator.Context, req *types.WaitForUpdatesEx) soap.HasFault {
	set, fault := c.collector.wait(c.lab, ctx, req.Version, optionsOf(req.Options))
	if fault != nil {
		return &waitExBody{Fault_: simulator.Fault(describe(fault), fault)}
	}
	return &waitExBody{Res: &WaitForUpdatesExResponse{Returnval: set}}
}

func (c *collectorMethods) WaitForUpdates(ctx *simulator.Context, req *types.WaitForUpdates) soap.HasFault {
	set, fault := c.collector.wait(c.lab, ctx, req.Version, waitOptions{patience: -1})
	if fault != nil {
		return &waitBody{Fault_: simulator.Fault(describe(fault), fault)}
	}
	return &waitBody{Res: &WaitForUpdatesResponse{Returnval: set}}
}

func (c *collectorMethods) CheckForUpdates(ctx *simulator.Context, req *types.CheckForUpdates) soap.HasFault {
	set, fault := c.collector.wait(c.lab, ctx, req.Version, waitOptions{})
	if fault != nil {
		return &checkBody{Fault_: simulator.Fault(describe(fault), fault)}
	}
	return &checkBody{Res: &CheckForUpdatesResponse{Returnval: set}}
}

func (c *collectorMethods) CancelWaitForUpdates(*simulator.Context, *types.CancelWaitForUpdates) soap.HasFault {
	c.collector.cancel(&types.RequestCanceled{})
	return &methods.CancelWaitForUpdatesBody{Res: &types.CancelWaitForUpdatesResponse{}}
}

func (c *collectorMethods) CreateFilter(ctx *simulator.Context, req *types.CreateFilter) soap.HasFault {
	for i := range req.Spec.ObjectSet {
		object := c.lab.typed(req.Spec.ObjectSet[i].Obj)
		if find(ctx, object) == nil && !isTrue(req.Spec.ReportMissingObjectsInResults) {
			fault := &types.ManagedObjectNotFound{Obj: object}
			return &methods.CreateFilterBody{Fault_: simulator.Fault(describe(fault), fault)}
		}
	}
	if fault := c.lab.paths.check(&req.Spec); fault != nil {
		return &methods.CreateFilterBody{Fault_: simulator.Fault(describe(fault), fault)}
	}
	self := c.lab.createFilter(ctx.Session.Key, c.collector, req.Spec)
	return &methods.CreateFilterBody{Res: &types.CreateFilterResponse{Returnval: self}}
}

func (c *collectorMethods) CreatePropertyCollector(ctx *simulator.Context, _ *types.CreatePropertyCollector) soap.HasFault {
	created := c.lab.collectors.create(ctx.Session.Key)
	return &methods.CreatePropertyCollectorBody{Res: &types.CreatePropertyCollectorResponse{Returnval: created.self}}
}

func (c *collectorMethods) DestroyPropertyCollector(ctx *simulator.Context, _ *types.DestroyPropertyCollector) soap.HasFault {
	c.lab.collectors.destroy(ctx.Session.Key, c.self)
	return &methods.DestroyPropertyCollectorBody{Res: &types.DestroyPropertyCollectorResponse{}}
}

// filterMethods are a PropertyFilter's.
type filterMethods struct {
	methodsOf
	collector *collector
}

func (f *filterMethods) DestroyPropertyFilter(*simulator.Context, *types.DestroyPropertyFilter) soap.HasFault {
	f.collector.mutex.Lock()
	f.collector.filters = slices.DeleteFunc(f.collector.filters, func(other *filter) bool { return other.self == f.self })
	f.collector.mutex.Unlock()
	return &methods.DestroyPropertyFilterBody{Res: &types.DestroyPropertyFilterResponse{}}
}

type waitOptions struct {
	patience time.Duration // 0: do not wait; negative: without limit
	most     int
}

func optionsOf(options *types.WaitOptions) waitOptions {
	o := waitOptions{patience: -1, most: mostUpdates}
	if options == nil {
		return o
	}
	if options.MaxWaitSeconds != nil {
		o.patience = time.Duration(*options.MaxWaitSeconds) * time.Second
	}
	if options.MaxObjectUpdates > 0 {
		o.most = int(options.MaxObjectUpdates)
	}
	return o
}

// wait returns the changes since the version, and waits if there are none. It returns nil when
// maxWaitSeconds is over. For an older version it returns the set that followed it: the client lost
// an answer, or several clients of one session use the collector, each with its own version.
func (c *collector) wait(lab *Lab, ctx *simulator.Context, version string, o waitOptions) (*updateSet, fault) {
	c.calls.Lock()
	defer c.calls.Unlock()
	switch {
	case version == "":
		c.restart()
	case version != strconv.Itoa(c.version):
		if set := c.after(version); set != nil {
			return set, nil
		}
		return nil, &types.InvalidCollectorVersion{}
	}
	var over <-chan time.Time
	if o.patience > 0 {
		over = time.After(o.patience)
	}
	for {
		if fault := c.gather(lab, ctx); fault != nil {
			return nil, fault
		}
		if len(c.pending) > 0 || version == "" {
			return c.send(o.most), nil
		}
		if o.patience == 0 {
			return nil, nil
		}
		select {
		case reason := <-c.canceled:
			return nil, reason
		case <-over:
			return nil, nil
		case <-ctx.Done(): // the client disconnected
			return nil, &types.RequestCanceled{}
		case <-c.wake:
			time.Sleep(gathering)
		}
	}
}

// restart discards the state that the client has.
func (c *collector) restart() {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for i, f := range c.filters {
		c.filters[i] = newFilter(f.self, f.spec)
	}
	c.pending = nil
	select {
	case <-c.canceled: // it was meant for an earlier call
	default:
	}
}

func (c *collector) gather(lab *Lab, ctx *simulator.Context) fault {
	c.mutex.Lock()
	filters := slices.Clone(c.filters)
	c.mutex.Unlock()
	for _, f := range filters {
		updates, fault := f.updates(lab, ctx, c)
		if fault != nil {
			return fault
		}
		if len(updates) > 0 {
			c.pending = append(c.pending, filterUpdate{Filter: f.self, ObjectSet: updates})
		}
	}
	return nil
}

// after returns the answer that was sent to clients with this version.
func (c *collector) after(version string) *updateSet {
	number, err := strconv.Atoi(version)
	if err != nil || number < 1 {
		return nil
	}
	next := strconv.Itoa(number + 1)
	for _, set := range c.sent {
		if set.Version == next {
			return set
		}
	}
	return nil
}

// send returns at most the given number of pending objects.
func (c *collector) send(most int) *updateSet {
	c.version++
	set := &updateSet{Version: strconv.Itoa(c.version)}
	if most <= 0 {
		most = mostUpdates
	}
	for most > 0 && len(c.pending) > 0 {
		first := &c.pending[0]
		n := min(most, len(first.ObjectSet))
		set.FilterSet = append(set.FilterSet, filterUpdate{Filter: first.Filter, ObjectSet: first.ObjectSet[:n]})
		first.ObjectSet = first.ObjectSet[n:]
		if len(first.ObjectSet) == 0 {
			c.pending = c.pending[1:]
		}
		most -= n
	}
	if len(c.pending) > 0 {
		set.Truncated = types.NewBool(true)
	}
	c.sent = append(c.sent, set)
	c.sent = c.sent[max(0, len(c.sent)-keptAnswers):]
	return set
}

func (lab *Lab) createFilter(session string, c *collector, spec types.PropertyFilterSpec) ref {
	self := ref{Type: "PropertyFilter", Value: "session[" + session + "]" + strconv.FormatInt(lab.filterCount.Add(1), 10)}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.filters = append(c.filters, newFilter(self, spec))
	select {
	case c.wake <- struct{}{}:
	default: // a wake-up is already pending
	}
	return self
}
