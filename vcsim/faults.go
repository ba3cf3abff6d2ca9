package main

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// faultRule defines which calls fail, and how (R11). A rule without a fault only delays.
type faultRule struct {
	Method      string  `json:"method"`
	Object      string  `json:"object,omitempty"`
	Fault       string  `json:"fault,omitempty"`
	Message     string  `json:"message,omitempty"`
	Count       int     `json:"count,omitempty"`       // 0: without limit
	Probability float64 `json:"probability,omitempty"` // 0: always
	DelayS      float64 `json:"delay_s,omitempty"`
	Where       string  `json:"where,omitempty"`   // call: refused at once; task: the task fails; after: when its work is done
	Skip        int     `json:"skip,omitempty"`    // this many calls pass first
	Expired     bool    `json:"expired,omitempty"` // the session ends, and the call is refused for it
	Injected    int     `json:"injected"`
}

const (
	atCall = "call"
	inTask = "task"
	after  = "after"
)

type faults struct {
	sync.Mutex
	rules []*faultRule
	drops []*dropRule
}

// dropRule cuts the connection, without an answer, after the next calls of a method have been
// served. A lost call is not served at all. With Hold the connection stays open, without an answer,
// until the client gives up.
type dropRule struct {
	Method string `json:"method"`
	Count  int    `json:"count"`
	Skip   int    `json:"skip"` // this many calls pass first
	Lost   bool   `json:"lost"`
	Hold   bool   `json:"hold"`
}

// trouble is what happens to one call.
type trouble struct{ answer, call, hold bool }

func (f *faults) add(rule faultRule) error {
	if rule.Method == "" {
		return fmt.Errorf("method: it is needed; * stands for every method")
	}
	if rule.Expired {
		rule.Fault = "NotAuthenticated"
	}
	if rule.Fault != "" {
		if _, err := newFault(rule.Fault, ""); err != nil {
			return err
		}
	} else if rule.DelayS == 0 {
		return fmt.Errorf("fault: a fault or a delay_s is needed")
	}
	if orElse(&rule.Where, atCall); !slices.Contains([]string{atCall, inTask, after}, rule.Where) {
		return fmt.Errorf("where: '%s' is none of call, task, after", rule.Where)
	}
	f.Lock()
	defer f.Unlock()
	rule.Injected = 0
	f.rules = append(f.rules, &rule)
	return nil
}

func (f *faults) list() []faultRule {
	f.Lock()
	defer f.Unlock()
	rules := []faultRule{}
	for _, rule := range f.rules {
		rules = append(rules, *rule)
	}
	return rules
}

func (f *faults) clear() {
	f.Lock()
	defer f.Unlock()
	f.rules, f.drops = nil, nil
}

func (f *faults) drop(rule dropRule) {
	f.Lock()
	defer f.Unlock()
	f.drops = append(f.drops, &rule)
}

// dropped reports whether this call's answer is dropped, and whether the call itself is lost.
func (f *faults) dropped(method string) trouble {
	f.Lock()
	defer f.Unlock()
	for i, rule := range f.drops {
		switch {
		case rule.Method != method:
		case rule.Skip > 0:
			rule.Skip--
		default:
			if rule.Count--; rule.Count <= 0 {
				f.drops = slices.Delete(f.drops, i, i+1)
			}
			return trouble{answer: true, call: rule.Lost, hold: rule.Hold}
		}
	}
	return trouble{}
}

// pending returns the drops that have not happened yet.
func (f *faults) pending() []dropRule {
	f.Lock()
	defer f.Unlock()
	rules := []dropRule{}
	for _, rule := range f.drops {
		rules = append(rules, *rule)
	}
	return rules
}

func (f *faults) dropping() bool {
	f.Lock()
	defer f.Unlock()
	return len(f.drops) > 0
}

// match returns the rule for a call and counts it as used. Before a login the caller is unknown and
// may be a guest, so only a rule that names the method matches such a call.
func (f *faults) match(where, user, method string, names []string) (faultRule, bool) {
	f.Lock()
	defer f.Unlock()
	for _, rule := range f.rules {
		if rule.Where != where {
			continue
		}
		if rule.Method != method && (rule.Method != "*" || user == "") {
			continue
		}
		if rule.Object != "" && !slices.Contains(names, rule.Object) {
			continue
		}
		if rule.Count > 0 && rule.Injected >= rule.Count {
			continue
		}
		if rule.Probability > 0 && rand.Float64() >= rule.Probability {
			continue
		}
		if rule.Skip > 0 {
			rule.Skip--
			continue
		}
		rule.Injected++
		return *rule, true
	}
	return faultRule{}, false
}

// inject delays or fails a call according to the rules.
func (lab *Lab) inject(ctx *simulator.Context, user string, method *simulator.Method, names []string) fault {
	rule, ok := lab.faults.match(atCall, user, method.Name, names)
	if !ok {
		return nil
	}
	time.Sleep(seconds(rule.DelayS))
	if rule.Expired && ctx.Session != nil {
		key := ctx.Session.Key
		lab.endSessions(func(s *types.UserSession) bool { return s.Key == key })
		return &types.NotAuthenticated{NoPermission: types.NoPermission{Object: &method.This, PrivilegeId: "System.View"}}
	}
	if rule.Fault == "" {
		return nil
	}
	return rule.make()
}

func (r *faultRule) make() fault {
	f, err := newFault(r.Fault, r.Message)
	if err != nil {
		panic(err) // it could be created when the rule was added
	}
	return f
}

// taskRule returns the rule for a fault inside a task: half way through, or after the work is done,
// so that what it created is left.
func (lab *Lab) taskRule(user string, method *simulator.Method, names []string) *faultRule {
	for _, where := range []string{inTask, after} {
		if rule, ok := lab.faults.match(where, user, method.Name, names); ok && strings.HasSuffix(method.Name, "_Task") {
			return &rule
		}
	}
	return nil
}

// wrap returns the function of a failing task instead of its original one.
func (r *faultRule) wrap(run func(*operation) (types.AnyType, fault)) func(*operation) (types.AnyType, fault) {
	if r.Where != after {
		return r.fail
	}
	return func(op *operation) (types.AnyType, fault) {
		if _, fault := run(op); fault != nil {
			return nil, fault
		}
		return nil, r.make()
	}
}

func (r *faultRule) fail(op *operation) (types.AnyType, fault) {
	op.started()
	if fault := op.work(seconds(r.DelayS), 0, 50); fault != nil {
		return nil, fault
	}
	return nil, r.make()
}

// callNames returns the names by which a rule can select this call: its object's, and a clone's new
// name.
func (lab *Lab) callNames(method *simulator.Method) []string {
	names := []string{method.This.Value, lab.nameOf(method.This)}
	if clone, ok := method.Body.(*types.CloneVM_Task); ok {
		names = append(names, clone.Name)
	}
	return names
}

// newFault creates a fault by the name of its type, with the text in the field that vCenter uses.
func newFault(name, text string) (fault, error) {
	kind, ok := types.TypeFunc()(strings.TrimPrefix(name, "vim25:"))
	if !ok {
		return nil, fmt.Errorf("fault: '%s' is not a type of the vSphere API", name)
	}
	value := reflect.New(kind)
	f, ok := value.Interface().(fault)
	if !ok {
		return nil, fmt.Errorf("fault: '%s' is not a fault", name)
	}
	if text != "" {
		f.GetMethodFault().FaultMessage = []types.LocalizableMessage{message("gpuvm.lab.injected", text)}
		if reason := value.Elem().FieldByName("Reason"); reason.IsValid() && reason.Kind() == reflect.String {
			reason.SetString(text)
		}
	}
	return f, nil
}
