package main

import (
	"crypto/x509"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// R13: only the right password logs in.
func TestLoginIsChecked(t *testing.T) {
	r := newRig(t)
	for user, password := range map[string]string{
		"administrator@lab.local": "wrong", "readonly@lab.local": "", "stranger@lab.local": testPassword, "": "",
	} {
		_, err := r.tryLogin(user, password)
		if err == nil {
			t.Fatalf("%s logged in with %q", user, password)
		}
		if _, ok := faultOf(t, err).(*types.InvalidLogin); !ok || err.Error() == "" {
			t.Errorf("%s: %v", user, err)
		}
	}
}

// R13: five wrong passwords in a row lock an account; fewer do not.
func TestWrongPasswordsLockAnAccount(t *testing.T) {
	r := newRig(t)
	const user = "readonly@lab.local"
	for range lockedAfter - 1 {
		if _, err := r.tryLogin(user, "wrong"); err == nil {
			t.Fatal("a wrong password logs in")
		}
	}
	r.login(user)
	for range lockedAfter {
		if _, err := r.tryLogin(user, "wrong"); err == nil {
			t.Fatal("a wrong password logs in")
		}
	}
	if _, err := r.tryLogin(user, testPassword); err == nil {
		t.Error("a locked account logs in")
	}
	r.login("administrator@lab.local")
}

// R13: the certificate is verified with the CA file, and with nothing else.
func TestCertificateIsSignedByTheCA(t *testing.T) {
	r := newRig(t)
	u, err := url.Parse(r.server.url)
	must(t, err)
	_, err = vim25.NewClient(r.ctx, soap.NewClient(u, false))
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		t.Errorf("without the CA file: %v", err)
	}
	for _, host := range []string{"localhost", "127.0.0.1"} {
		u.Host = host + ":" + u.Port()
		client := soap.NewClient(u, false)
		must(t, client.SetRootCAs(r.dir+"/ca.pem"))
		_, err := vim25.NewClient(r.ctx, client)
		must(t, err)
	}
}

// R13: without a session nothing is visible.
func TestNothingIsVisibleWithoutASession(t *testing.T) {
	r := newRig(t)
	u, err := url.Parse(r.server.url)
	must(t, err)
	client := soap.NewClient(u, false)
	must(t, client.SetRootCAs(r.dir+"/ca.pem"))
	vim, err := vim25.NewClient(r.ctx, client)
	must(t, err)
	var m mo.Folder
	err = property.DefaultCollector(vim).RetrieveOne(r.ctx, r.lab.vmFolder, []string{"childEntity"}, &m)
	if _, ok := faultOf(t, err).(*types.NotAuthenticated); !ok {
		t.Errorf("%v", err)
	}
	_, err = methods.LoginByToken(r.ctx, vim, &types.LoginByToken{This: *vim.ServiceContent.SessionManager})
	if _, ok := faultOf(t, err).(*types.InvalidLogin); !ok {
		t.Errorf("login by token: %v", err)
	}
}

// R13: an idle session expires; one that is used, or waits, does not.
func TestIdleSessionsEnd(t *testing.T) {
	r := newRig(t, func(d *Description) { d.SessionIdleS = 0.4 })
	tools := r.login("tools@lab.local")
	used := r.login("administrator@lab.local")
	r.until("the session ends", func() bool {
		_, err := methods.GetCurrentTime(r.ctx, used.Client)
		must(t, err)
		for _, session := range r.sessionsOf("administrator@lab.local", used) {
			if session.Key == r.key(r.client) {
				return false
			}
		}
		return true
	})
	if _, ok := faultOf(t, r.currentTime()).(*types.NotAuthenticated); !ok {
		t.Error("unexpected fault")
	}
	_, err := methods.GetCurrentTime(r.ctx, tools.Client)
	must(t, err) // the guests' own session is not touched
}

// R13: waiting counts as use.
func TestWaitingKeepsASessionAlive(t *testing.T) {
	r := newRig(t, func(d *Description) { d.SessionIdleS = 0.3 })
	f := r.follow(r.client, "name")
	f.next()
	if set := f.wait(f.version, 1, 0); set != nil {
		t.Errorf("%v", texts(set))
	}
	must(t, r.currentTime())
}

func (r *rig) key(c *govmomi.Client) string {
	key, _ := r.keys.Load(c)
	return key.(string)
}

func (r *rig) sessionsOf(user string, by *govmomi.Client) []types.UserSession {
	r.Helper()
	var m mo.SessionManager
	err := property.DefaultCollector(by.Client).RetrieveOne(r.ctx, *by.ServiceContent.SessionManager, []string{"sessionList"}, &m)
	must(r.T, err)
	return slices.DeleteFunc(m.SessionList, func(s types.UserSession) bool { return s.UserName != user })
}

// R11, R13: all sessions except the guests' can be ended; waiting calls fail at once.
func TestSessionsExpire(t *testing.T) {
	r := newRig(t)
	tools := r.login("tools@lab.local")
	waits := make(chan error, 1)
	collector := property.DefaultCollector(r.client.Client)
	_, err := collector.CreateFilter(r.ctx, types.CreateFilter{Spec: types.PropertyFilterSpec{
		PropSet:   []types.PropertySpec{{Type: "Folder", PathSet: []string{"name"}}},
		ObjectSet: []types.ObjectSpec{{Obj: r.lab.vmFolder}},
	}})
	must(t, err)
	go func() {
		request := types.WaitForUpdatesEx{This: r.client.ServiceContent.PropertyCollector}
		set, err := methods.WaitForUpdatesEx(r.ctx, r.client.Client, &request)
		if err == nil {
			request.Version = set.Returnval.Version
			_, err = methods.WaitForUpdatesEx(r.ctx, r.client.Client, &request)
		}
		waits <- err
	}()
	r.until("it waits", func() bool { return r.lab.calls.read()["administrator@lab.local"]["WaitForUpdatesEx"] == 2 })
	if ended := decode[map[string]int](t, r.control("POST", "/sessions/expire", ""))["ended"]; ended != 1 {
		t.Errorf("%d sessions ended", ended)
	}
	if _, ok := faultOf(t, <-waits).(*types.NotAuthenticated); !ok {
		t.Error("waiting: unexpected fault")
	}
	if _, ok := faultOf(t, r.currentTime()).(*types.NotAuthenticated); !ok {
		t.Error("unexpected fault")
	}
	_, err = methods.GetCurrentTime(r.ctx, tools.Client)
	must(t, err)
}

// R13: a read-only user gets a fault with the missing privilege and the object, and nothing is
// changed.
func TestReadOnlyUser(t *testing.T) {
	r := newRig(t)
	vm := r.clone("vm", r.plainSpec("esx-01"))
	look := r.login("readonly@lab.local")
	theirs := object.NewVirtualMachine(look.Client, vm.Reference())
	folder := object.NewFolder(look.Client, r.lab.vmFolder)
	template := object.NewVirtualMachine(look.Client, r.template().Reference())
	for privilege, call := range map[string]func() (*object.Task, error){
		"VirtualMachine.Interact.PowerOn":            func() (*object.Task, error) { return theirs.PowerOn(r.ctx) },
		"VirtualMachine.Inventory.Delete":            func() (*object.Task, error) { return theirs.Destroy(r.ctx) },
		"VirtualMachine.Provisioning.DeployTemplate": func() (*object.Task, error) { return template.Clone(r.ctx, folder, "x", r.plainSpec("esx-01")) },
		"VirtualMachine.Config.Annotation": func() (*object.Task, error) {
			return theirs.Reconfigure(r.ctx, types.VirtualMachineConfigSpec{Annotation: "x"})
		},
		"System.Modify": func() (*object.Task, error) { return theirs.UpgradeTools(r.ctx, "") },
	} {
		_, err := call()
		if err == nil {
			t.Fatalf("%s is not needed", privilege)
		}
		f, ok := faultOf(t, err).(*types.NoPermission)
		if !ok || f.PrivilegeId != privilege || f.Object == nil || !strings.Contains(err.Error(), privilege) {
			t.Errorf("%s: %v", privilege, err)
		}
	}
	var m mo.VirtualMachine
	must(t, property.DefaultCollector(look.Client).RetrieveOne(r.ctx, vm.Reference(), []string{"config", "runtime"}, &m))
	if m.Runtime.PowerState != poweredOff || m.Config.Annotation == "x" {
		t.Error("something happened")
	}
}

// R13: one missing privilege is enough for a refusal, and privilege queries are answered correctly.
func TestMissingPrivilege(t *testing.T) {
	const missing = "VirtualMachine.Config.AddRemoveDevice"
	r := newRig(t)
	almost := r.login("nodevices@lab.local")
	template := object.NewVirtualMachine(almost.Client, r.template().Reference())
	folder := object.NewFolder(almost.Client, r.lab.vmFolder)
	_, err := template.Clone(r.ctx, folder, "gpu", r.gpuSpec())
	if f, ok := faultOf(t, err).(*types.NoPermission); !ok || f.PrivilegeId != missing {
		t.Errorf("%v", err)
	}
	task, err := template.Clone(r.ctx, folder, "plain", r.plainSpec("esx-01"))
	r.finish(task, err)

	manager := object.NewAuthorizationManager(almost.Client)
	wanted := []string{missing, "VirtualMachine.Interact.PowerOn"}
	result, err := manager.HasPrivilegeOnEntity(r.ctx, r.lab.vmFolder, r.key(almost), wanted)
	must(t, err)
	if !slices.Equal(result, []bool{false, true}) {
		t.Errorf("%v", result)
	}
	fetched, err := manager.FetchUserPrivilegeOnEntities(r.ctx, []ref{r.lab.vmFolder}, "nodevices@lab.local")
	must(t, err)
	if slices.Contains(fetched[0].Privileges, missing) || !slices.Contains(fetched[0].Privileges, wanted[1]) {
		t.Errorf("%v", fetched[0].Privileges)
	}
}

// R12: calls are counted by user and method.
func TestCallsAreCounted(t *testing.T) {
	r := newRig(t)
	r.control("POST", "/calls/reset", "")
	for range 3 {
		must(t, r.currentTime())
	}
	tools := r.login("tools@lab.local")
	_, err := methods.GetCurrentTime(r.ctx, tools.Client)
	must(t, err)
	counts := decode[map[string]map[string]int](t, r.control("GET", "/calls", ""))
	if counts["administrator@lab.local"]["CurrentTime"] != 3 || len(counts["administrator@lab.local"]) != 1 {
		t.Errorf("%v", counts)
	}
	if counts["tools@lab.local"]["CurrentTime"] != 1 || counts["tools@lab.local"]["Login"] != 1 || counts[anonymous]["RetrieveServiceContent"] != 1 {
		t.Errorf("%v", counts)
	}
}

// R12: the values that a call returns are counted by user, type and path; unset ones are none.
func TestValuesAreCounted(t *testing.T) {
	r := newRig(t)
	r.control("POST", "/calls/reset", "")
	var hosts []mo.HostSystem
	collector := property.DefaultCollector(r.client.Client)
	refs := []ref{r.host("esx-01"), r.host("esx-02")}
	must(t, collector.Retrieve(r.ctx, refs, []string{"name", "runtime.dasHostState"}, &hosts))
	values := decode[map[string]map[string]int](t, r.control("GET", "/calls/values", ""))
	if counts := values["administrator@lab.local"]; counts["HostSystem name"] != 2 || len(counts) != 1 {
		t.Errorf("%v", counts)
	}
}

// R11: faults never affect the guests' own user.
func TestFaultsDoNotAffectTools(t *testing.T) {
	r := newRig(t)
	r.control("POST", "/faults", `{"method": "*", "fault": "InvalidState"}`)
	if r.currentTime() == nil {
		t.Error("the administrator is spared")
	}
	tools := r.login("tools@lab.local")
	_, err := methods.GetCurrentTime(r.ctx, tools.Client)
	must(t, err)
}

// A restart keeps the CA and the vCenter's identity.
func TestRestartKeepsIdentity(t *testing.T) {
	first := newRig(t)
	certificate, err := serverCertificate(first.dir)
	must(t, err)
	again, err := serverCertificate(first.dir)
	must(t, err)
	if !slices.Equal(certificate.Certificate[0], again.Certificate[0]) {
		t.Error("different certificate")
	}
	second := newRig(t)
	uuid := func(r *rig) string { return r.client.ServiceContent.About.InstanceUuid }
	if uuid(first) != uuid(second) || first.lab.hosts[first.host("esx-01")].systemID != second.lab.hosts[second.host("esx-01")].systemID {
		t.Error("another identity")
	}
	deadline := time.Until(mustCert(t, certificate.Certificate[0]).NotAfter)
	if deadline < 365*24*time.Hour {
		t.Errorf("the certificate ends in %s", deadline)
	}
}

func mustCert(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	certificate, err := x509.ParseCertificate(der)
	must(t, err)
	return certificate
}
