package main

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/google/uuid"
	vapi "github.com/vmware/govmomi/vapi/simulator"
)

// The REST API beside the vSphere API: sessions, tags and content libraries are govmomi's simulator
// of it. gpuvm does not use it; Terraform, Packer and govc do.

// restUser is who the REST API's simulator is towards the vSphere API: it deploys from libraries.
const restUser = "rest@gpuvm-vcsim"

// addRestUser makes the account, with a password that nobody else has.
func (a *accounts) addRestUser() string {
	password := uuid.NewString()
	a.users[restUser] = UserDescription{Name: restUser, Role: "admin"}
	a.passwords[restUser] = password
	return password
}

// serveREST puts it beside the vSphere API.
func (lab *Lab) serveREST(mux *http.ServeMux, endpoint *url.URL) {
	own := *endpoint
	own.User = url.UserPassword(restUser, lab.accounts.addRestUser())
	patterns, handler := vapi.New(&own, lab.registry)
	for _, pattern := range patterns {
		mux.Handle(pattern, onlyPasswords(handler))
	}
}

// onlyPasswords refuses the two ways to a session that the simulator lets in without looking: a
// signed token, and JSON-RPC. vCenter checks both, and the lab has nothing to check them with.
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
