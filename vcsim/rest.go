package main

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/google/uuid"
	vapi "github.com/vmware/govmomi/vapi/simulator"
)

// The REST API: sessions, tags and content libraries are served by govmomi's simulator of it. gpuvm
// does not use it; Terraform, Packer and govc do.

// restUser is the account with which the REST API's simulator uses the vSphere API, to deploy from
// libraries.
const restUser = "rest@gpuvm-vcsim"

// addRestUser creates the account with a random password.
func (a *accounts) addRestUser() string {
	password := uuid.NewString()
	a.users[restUser] = UserDescription{Name: restUser, Role: "admin"}
	a.passwords[restUser] = password
	return password
}

// serveREST serves it on the address of the vSphere API.
func (lab *Lab) serveREST(mux *http.ServeMux, endpoint *url.URL) {
	own := *endpoint
	own.User = url.UserPassword(restUser, lab.accounts.addRestUser())
	patterns, handler := vapi.New(&own, lab.registry)
	for _, pattern := range patterns {
		mux.Handle(pattern, onlyPasswords(handler))
	}
}

// onlyPasswords refuses two kinds of login that the simulator accepts without checking: a signed
// token, and JSON-RPC. vCenter checks both, and the lab cannot.
func onlyPasswords(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := strings.HasPrefix(r.Header.Get("Authorization"), "SIGN ")
		if token || strings.TrimSuffix(r.URL.Path, "/") == "/api" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}
