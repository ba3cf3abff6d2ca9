package main

import (
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// sessions records when each session was last used. A waiting call counts as use (R13).
type sessions struct {
	sync.Mutex
	idle    time.Duration
	waiting map[string]int
	last    map[string]time.Time
	known   map[string]*simulator.Session
	locales map[string]string // of sessions that changed it after their login
}

func newSessions(idle time.Duration) *sessions {
	return &sessions{
		idle: idle, waiting: map[string]int{}, last: map[string]time.Time{}, known: map[string]*simulator.Session{}, locales: map[string]string{},
	}
}

func (s *sessions) remember(session *simulator.Session) {
	s.Lock()
	defer s.Unlock()
	s.known[session.Key] = session
}

// user returns the name of a session's user, or nothing before its first call.
func (s *sessions) user(key string) string {
	s.Lock()
	defer s.Unlock()
	if session := s.known[key]; session != nil {
		return session.UserName
	}
	return ""
}

func (s *sessions) locale(key string) string {
	s.Lock()
	defer s.Unlock()
	if chosen := s.locales[key]; chosen != "" {
		return chosen
	}
	if session := s.known[key]; session != nil {
		return session.Locale
	}
	return ""
}

func (s *sessions) setLocale(key, locale string) {
	s.Lock()
	defer s.Unlock()
	s.locales[key] = locale
}

func (s *sessions) enter(key string) {
	s.Lock()
	defer s.Unlock()
	s.waiting[key]++
}

func (s *sessions) leave(key string) {
	s.Lock()
	defer s.Unlock()
	s.last[key] = time.Now()
	if s.waiting[key]--; s.waiting[key] <= 0 {
		delete(s.waiting, key)
	}
}

func (s *sessions) expired(key string, login time.Time) bool {
	s.Lock()
	defer s.Unlock()
	last, ok := s.last[key]
	if !ok {
		last = login
	}
	return s.idle > 0 && s.waiting[key] == 0 && time.Since(last) > s.idle
}

func (s *sessions) forget(key string) {
	s.Lock()
	defer s.Unlock()
	delete(s.last, key)
	delete(s.known, key)
	delete(s.locales, key)
}

func (lab *Lab) expireIdleSessions() {
	interval := min(max(lab.sessions.idle/4, 50*time.Millisecond), 10*time.Second)
	for range time.Tick(interval) {
		lab.endSessions(func(s *types.UserSession) bool { return lab.sessions.expired(s.Key, s.LoginTime) })
	}
}

// endSessions ends the sessions that match the condition, except the guests' own, and returns their
// number.
func (lab *Lab) endSessions(picked func(*types.UserSession) bool) int {
	manager := lab.registry.SessionManager()
	view := lab.root.Session.Get(manager.Self).(*simulator.SessionManager)
	ended := 0
	for i := range view.SessionList {
		session := &view.SessionList[i]
		if lab.accounts.isTools(session.UserName) || !picked(session) {
			continue
		}
		if lab.endSession(manager, session.Key) {
			ended++
		}
	}
	return ended
}

// endSession logs a session out, which removes its views. A session that never made a call has
// none, and is terminated.
func (lab *Lab) endSession(manager *simulator.SessionManager, key string) bool {
	lab.sessions.Lock()
	known := lab.sessions.known[key]
	lab.sessions.Unlock()
	lab.forgetSession(key)
	if known != nil {
		return manager.Logout(lab.context(known), &types.Logout{This: manager.Self}).Fault() == nil
	}
	request := &types.TerminateSession{This: manager.Self, SessionId: []string{key}}
	return manager.TerminateSession(lab.context(nil), request).Fault() == nil
}

// held is what the sessions of all clients but the guests hold in the vCenter.
type held struct {
	Sessions   int `json:"sessions"`
	Collectors int `json:"collectors"`
	Filters    int `json:"filters"`
	Views      int `json:"views"`
}

func (lab *Lab) listHeld() held {
	view := lab.root.Session.Get(lab.registry.SessionManager().Self).(*simulator.SessionManager)
	var sum held
	for _, session := range view.SessionList {
		if lab.accounts.isTools(session.UserName) {
			continue
		}
		sum.Sessions++
		collectors, filters := lab.collectors.count(session.Key)
		sum.Collectors += collectors
		sum.Filters += filters
		lab.sessions.Lock()
		if known := lab.sessions.known[session.Key]; known != nil {
			sum.Views += len(known.AllReference("ContainerView"))
		}
		lab.sessions.Unlock()
	}
	return sum
}

func (lab *Lab) forgetSession(key string) {
	lab.collectors.endSession(key)
	lab.sessions.forget(key)
}

// sessionMethods allows login by password only; the simulator has other ways.
type sessionMethods struct{ methodsOf }

func (s *sessionMethods) LoginByToken(*simulator.Context, *types.LoginByToken) soap.HasFault {
	return &methods.LoginByTokenBody{Fault_: loginRefused()}
}

func (s *sessionMethods) LoginExtensionByCertificate(*simulator.Context, *types.LoginExtensionByCertificate) soap.HasFault {
	return &methods.LoginExtensionByCertificateBody{Fault_: loginRefused()}
}

func (s *sessionMethods) ImpersonateUser(*simulator.Context, *types.ImpersonateUser) soap.HasFault {
	return &methods.ImpersonateUserBody{Fault_: loginRefused()}
}

// Login checks the password. A session without a locale gets the server's.
func (s *sessionMethods) Login(ctx *simulator.Context, req *types.Login) soap.HasFault {
	own := *req
	orElse(&own.Locale, s.lab.description.Locale)
	return s.lab.registry.SessionManager().Login(ctx, &own)
}

// SetLocale sets the locale of this session. The simulator does not have it.
func (s *sessionMethods) SetLocale(ctx *simulator.Context, req *types.SetLocale) soap.HasFault {
	s.lab.sessions.setLocale(ctx.Session.Key, req.Locale)
	return &methods.SetLocaleBody{Res: &types.SetLocaleResponse{}}
}

func loginRefused() *soap.Fault {
	f := &types.InvalidLogin{}
	return simulator.Fault(describe(f), f)
}

// authorizationMethods answer which privileges a user has.
type authorizationMethods struct{ methodsOf }

func (a *authorizationMethods) HasPrivilegeOnEntities(ctx *simulator.Context, req *types.HasPrivilegeOnEntities) soap.HasFault {
	result := a.availability(a.userOf(ctx, req.SessionId), req.Entity, req.PrivId)
	return &methods.HasPrivilegeOnEntitiesBody{Res: &types.HasPrivilegeOnEntitiesResponse{Returnval: result}}
}

func (a *authorizationMethods) HasUserPrivilegeOnEntities(_ *simulator.Context, req *types.HasUserPrivilegeOnEntities) soap.HasFault {
	result := a.availability(req.UserName, req.Entities, req.PrivId)
	return &methods.HasUserPrivilegeOnEntitiesBody{Res: &types.HasUserPrivilegeOnEntitiesResponse{Returnval: result}}
}

func (a *authorizationMethods) HasPrivilegeOnEntity(ctx *simulator.Context, req *types.HasPrivilegeOnEntity) soap.HasFault {
	user := a.userOf(ctx, req.SessionId)
	var granted []bool
	for _, privilege := range req.PrivId {
		granted = append(granted, a.lab.may(user, privilege, req.Entity))
	}
	return &hasPrivilegeBody{Res: &HasPrivilegeOnEntityResponse{Returnval: granted}}
}

// hasPrivilegeBody exists because govmomi's own omits every false.
type hasPrivilegeBody struct {
	Res *HasPrivilegeOnEntityResponse `xml:"HasPrivilegeOnEntityResponse,omitempty"`
}

type HasPrivilegeOnEntityResponse struct {
	Returnval []bool `xml:"returnval"`
}

func (*hasPrivilegeBody) Fault() *soap.Fault { return nil }

func (a *authorizationMethods) FetchUserPrivilegeOnEntities(_ *simulator.Context, req *types.FetchUserPrivilegeOnEntities) soap.HasFault {
	var result []types.UserPrivilegeResult
	for _, entity := range req.Entities {
		result = append(result, types.UserPrivilegeResult{Entity: entity, Privileges: a.lab.privileges(req.UserName, entity)})
	}
	return &methods.FetchUserPrivilegeOnEntitiesBody{Res: &types.FetchUserPrivilegeOnEntitiesResponse{Returnval: result}}
}

func (a *authorizationMethods) availability(user string, entities []ref, privileges []string) []types.EntityPrivilege {
	var result []types.EntityPrivilege
	for _, entity := range entities {
		e := types.EntityPrivilege{Entity: entity}
		for _, privilege := range privileges {
			e.PrivAvailability = append(e.PrivAvailability, types.PrivilegeAvailability{
				PrivId: privilege, IsGranted: a.lab.may(user, privilege, entity),
			})
		}
		result = append(result, e)
	}
	return result
}

// userOf returns the user of a session, or an empty name, which has no privileges, for an unknown
// one.
func (a *authorizationMethods) userOf(ctx *simulator.Context, session string) string {
	if ctx.Session.Key == session {
		return ctx.Session.UserName
	}
	view := a.lab.root.Session.Get(a.lab.registry.SessionManager().Self).(*simulator.SessionManager)
	for _, s := range view.SessionList {
		if s.Key == session {
			return s.UserName
		}
	}
	return ""
}
