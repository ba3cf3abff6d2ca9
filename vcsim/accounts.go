package main

import (
	"crypto/subtle"
	"slices"
	"strings"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/simulator/esx"
	"github.com/vmware/govmomi/vim25/types"
)

// accounts are the lab's users: passwords and what each may do (R13).
type accounts struct {
	users     map[string]UserDescription
	passwords map[string]string
	all       []string // every privilege there is

	failing sync.Mutex
	failed  map[string]int // wrong passwords in a row
}

// lockedAfter is the number of wrong passwords in a row that lock an account, as in vCenter's
// default policy. vCenter unlocks it after five minutes, which is longer than any test of the lab.
const lockedAfter = 5

func newAccounts(users []UserDescription, passwords map[string]string) *accounts {
	a := &accounts{users: map[string]UserDescription{}, passwords: passwords, failed: map[string]int{}}
	for _, user := range users {
		a.users[user.Name] = user
	}
	for _, role := range esx.RoleList {
		if role.Name == "Admin" {
			a.all = role.Privilege
		}
	}
	return a
}

func (a *accounts) validLogin(login *types.Login) bool {
	_, known := a.users[login.UserName]
	password := a.passwords[login.UserName]
	same := subtle.ConstantTimeCompare([]byte(password), []byte(login.Password)) == 1
	a.failing.Lock()
	defer a.failing.Unlock()
	if !known || password == "" || !same || a.failed[login.UserName] >= lockedAfter {
		a.failed[login.UserName]++
		return false
	}
	a.failed[login.UserName] = 0
	return true
}

func (a *accounts) isTools(name string) bool { return a.users[name].Role == "tools" }

// restricted reports whether the user has permissions on parts of the inventory only.
func (a *accounts) restricted(name string) bool { return a.users[name].Role == roleNone }

// may reports whether a user whose role applies to the whole inventory has the privilege.
func (a *accounts) may(name, privilege string) bool {
	if strings.HasPrefix(privilege, "System.") && privilege != defaultPrivilege {
		return true
	}
	user, known := a.users[name]
	return known && user.Role != "readonly" && !slices.Contains(user.Without, privilege)
}

// authorize checks the privileges for a call and returns a fault that names the first missing one,
// and the inventory object that it is missing on.
func (lab *Lab) authorize(user string, method *simulator.Method) fault {
	for _, needed := range lab.needs(method) {
		if !lab.may(user, needed.privilege, needed.object) {
			object := needed.object
			if entity, ok := lab.entityOf(object); ok {
				object = entity
			}
			return &types.NoPermission{Object: &object, PrivilegeId: needed.privilege}
		}
	}
	return nil
}
