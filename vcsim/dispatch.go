package main

import (
	"reflect"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// dispatch handles every call before the simulator: it counts it (R12), checks session and
// privileges (R13), injects faults (R11), and passes methods that have rules to the lab's own code.
func (lab *Lab) dispatch(ctx *simulator.Context, method *simulator.Method) (mo.Reference, fault) {
	method.This = lab.typed(method.This)
	user := lab.callerOf(ctx, method)
	lab.calls.add(user, method.Name)
	if fault := lab.admitCall(ctx, user, method); fault != nil {
		return nil, fault
	}
	var failing *faultRule
	if !lab.accounts.isTools(user) {
		names := lab.callNames(method)
		if fault := lab.inject(ctx, user, method, names); fault != nil {
			return nil, fault
		}
		failing = lab.taskRule(user, method, names)
	}
	if fault := lab.refusesUnreadable(method); fault != nil {
		return nil, fault
	}
	handler := lab.sessionHandler(ctx, method.This)
	if handler == nil {
		handler = lab.handler(method.This, failing)
	}
	if handler == nil || !implements(handler, method.Name) {
		return nil, nil
	}
	// The simulator prefers an object of the session with this reference. Under the empty reference
	// there is none, so it uses the handler. The body of the call keeps the real reference.
	method.This = ref{Type: "gpuvm." + method.This.Type, Value: method.This.Value}
	return handler, nil
}

// callerOf returns the user who calls; for a login, the user who wants to log in.
func (lab *Lab) callerOf(ctx *simulator.Context, method *simulator.Method) string {
	if login, ok := method.Body.(*types.Login); ok {
		return login.UserName
	}
	if ctx.Session == nil {
		return ""
	}
	lab.sessions.remember(ctx.Session)
	return ctx.Session.UserName
}

// admitCall checks the session, and the privileges that the call needs.
func (lab *Lab) admitCall(ctx *simulator.Context, user string, method *simulator.Method) fault {
	if ctx.Session == nil {
		return checkAnonymous(method)
	}
	if fault := lab.authorize(user, method); fault != nil {
		return fault
	}
	if method.Name == "Logout" {
		lab.forgetSession(ctx.Session.Key)
	}
	return nil
}

// handler returns the lab's own implementation of an object's methods, or nil.
func (lab *Lab) handler(self ref, failing *faultRule) mo.Reference {
	base := methodsOf{lab: lab, self: self, failing: failing}
	switch object := lab.registry.Get(self).(type) {
	case *simulator.VirtualMachine:
		return &vmMethods{methodsOf: base, vm: object}
	case *simulator.VirtualMachineSnapshot:
		return &snapshotMethods{methodsOf: base, snapshot: object}
	case *simulator.HostSystem:
		return &hostMethods{methodsOf: base, host: object}
	case *simulator.Folder:
		return &folderMethods{methodsOf: base, folder: object}
	case *simulator.EnvironmentBrowser:
		return &browserMethods{methodsOf: base, browser: object}
	case *vmBrowser:
		return &browserMethods{methodsOf: base, browser: lab.clusterBrowser(), vm: object.vm}
	case *simulator.Datacenter:
		return &datacenterMethods{methodsOf: base}
	case *simulator.Datastore:
		return &datastoreMethods{methodsOf: base}
	case *simulator.ResourcePool:
		return &poolMethods{methodsOf: base}
	case *simulator.SessionManager:
		return &sessionMethods{methodsOf: base}
	case *simulator.ViewManager:
		return &viewMethods{methodsOf: base}
	case *simulator.AuthorizationManager:
		return &authorizationMethods{methodsOf: base}
	case *simulator.Task:
		return &taskMethods{methodsOf: base}
	case *mo.HostPciPassthruSystem:
		return &passthruMethods{methodsOf: base, system: object}
	case *mo.HostGraphicsManager:
		return &graphicsMethods{methodsOf: base, manager: object}
	}
	return nil
}

// sessionHandler returns the implementation of objects that belong to a session: collectors and
// filters.
func (lab *Lab) sessionHandler(ctx *simulator.Context, self ref) mo.Reference {
	key := ""
	if ctx.Session != nil {
		key = ctx.Session.Key
	}
	base := methodsOf{lab: lab, self: self}
	switch self.Type {
	case "PropertyCollector":
		if c := lab.collectors.get(key, self, lab.content().PropertyCollector); c != nil {
			return &collectorMethods{methodsOf: base, collector: c}
		}
	case "PropertyFilter":
		if c, _ := lab.collectors.filter(key, self); c != nil {
			return &filterMethods{methodsOf: base, collector: c}
		}
	}
	return nil
}

// methodsOf is embedded in all of them. It opts out of the simulator's locking around a call: the
// methods lock what they access, only while they access it.
type methodsOf struct {
	lab     *Lab
	self    ref
	failing *faultRule // an injected fault for the task that this call starts
}

// begin starts a task for this call; see Lab.begin.
func (m methodsOf) begin(ctx *simulator.Context, name, description string, run func(*operation) (types.AnyType, fault)) ref {
	if m.failing != nil {
		run = m.failing.wrap(run)
	}
	return m.lab.begin(ctx, m.self, name, description, run)
}

func (m methodsOf) Reference() types.ManagedObjectReference { return m.self }
func (methodsOf) Lock()                                     {}
func (methodsOf) Unlock()                                   {}

// implements reports whether the handler has the method. As in the simulator, PowerOnVM_Task is
// named PowerOnVMTask.
func implements(handler mo.Reference, method string) bool {
	name := strings.ToUpper(method[:1]) + method[1:]
	if task, ok := strings.CutSuffix(name, "_Task"); ok {
		name = task + "Task"
	}
	return reflect.ValueOf(handler).MethodByName(name).IsValid()
}

// checkAnonymous allows the calls that a client needs to log in. A real vCenter, unlike the
// simulator, shows nothing of its inventory without a session.
func checkAnonymous(method *simulator.Method) fault {
	switch method.Name {
	case "Login", "LoginByToken", "LoginExtensionByCertificate", "CloneSession", "RetrieveServiceContent", "RetrieveInternalContent":
		return nil
	}
	if onlyServiceInstance(method.Body) {
		return nil
	}
	if method.Name == "Fetch" && reflect.ValueOf(method.Body).Elem().FieldByName("This").Interface() == vim25.ServiceInstance {
		return nil
	}
	return &types.NotAuthenticated{NoPermission: types.NoPermission{Object: &method.This, PrivilegeId: "System.View"}}
}

func onlyServiceInstance(body any) bool {
	var sets []types.PropertyFilterSpec
	switch request := body.(type) {
	case *types.RetrieveProperties:
		sets = request.SpecSet
	case *types.RetrievePropertiesEx:
		sets = request.SpecSet
	default:
		return false
	}
	for _, set := range sets {
		for _, object := range set.ObjectSet {
			if object.Obj.Type != "ServiceInstance" || len(object.SelectSet) > 0 {
				return false
			}
		}
	}
	return true
}
