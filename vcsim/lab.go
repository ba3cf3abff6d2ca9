package main

import (
	"crypto/sha1"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// Short names for types in almost every signature.
type (
	ref   = types.ManagedObjectReference
	fault = types.BaseMethodFault
)

// Lab is one simulated data centre: govmomi's inventory and the state that the rules need.
//
// Locks: an object of the inventory is locked through the registry (locked, update). The lab's own
// state is in parts, each with its own mutex. A part never takes an inventory lock while it holds
// its own mutex.
type Lab struct {
	description *Description
	service     *simulator.Service
	registry    *simulator.Registry
	root        *simulator.Context // the context of which requests and operations get copies

	datacenter   ref
	cluster      ref
	pool         ref
	vmFolder     ref
	hosts        map[ref]*hardware // fixed after start
	hostRefs     []ref             // in the order of the description
	datastores   map[string]ref
	networks     map[string]ref
	opaque       map[string]opaqueNetwork // keyed by id
	thin         thinDisks
	policies     appliedPolicies
	unregistered unregisteredVMs

	accounts    *accounts
	calls       *calls
	faults      *faults
	sessions    *sessions
	allocations *allocations
	slots       *slots
	addresses   *addresses
	names       *names
	macs        *macs
	bootTimers  *bootTimers
	guests      *guestSettings
	tasks       *operations

	collectors  *collectors
	paths       *paths
	pages       *pages
	requests    *requests
	filterCount atomic.Int64

	deleted    deletedFiles
	unreadable *unreadable
	hidden     *hidden
	adding     sync.Mutex // serializes the creation of unrelated VMs
}

// newLab builds the inventory; files is the folder for the datastores' (empty) files.
func newLab(d *Description, passwords map[string]string, files string) (*Lab, error) {
	lab := &Lab{
		description: d,
		hosts:       map[ref]*hardware{},
		datastores:  map[string]ref{},
		networks:    map[string]ref{},
		opaque:      map[string]opaqueNetwork{},
		accounts:    newAccounts(d.Users, passwords),
		calls:       newCalls(),
		faults:      &faults{},
		sessions:    newSessions(seconds(d.SessionIdleS)),
		allocations: newAllocations(),
		slots:       newSlots(),
		unreadable:  newUnreadable(),
		hidden:      newHidden(),
		addresses:   newAddresses(d.AddressBlock),
		names:       newNames(),
		macs:        &macs{},
		bootTimers:  newBootTimers(),
		guests:      newGuestSettings(),
		tasks:       newOperations(),
		collectors:  newCollectors(),
		paths:       newPaths(d.About.APIVersion),
		pages:       newPages(),
		requests:    newRequests(),
	}
	if err := lab.build(files); err != nil {
		return nil, err
	}
	lab.registry.AddHandler(&listener{Self: ref{Type: "Listener", Value: "gpuvm"}, collectors: lab.collectors})
	lab.registry.Handler = lab.dispatch
	go lab.expireIdleSessions()
	return lab, nil
}

// context returns a new context for work that outlives its request. Without a session it is for the
// lab's own work.
func (lab *Lab) context(session *simulator.Session) *simulator.Context {
	ctx := *lab.root
	if session != nil {
		ctx.Session = session
	}
	return &ctx
}

// listenURL returns the URL on which the simulator assumes that it listens. The user in it enables
// the simulator's login check.
func listenURL(endpoint *url.URL) *url.URL {
	u := *endpoint
	u.User = url.UserPassword("nobody", uuid.NewString())
	return &u
}

// atLeast reports whether the lab's API version is at least this one.
func (lab *Lab) atLeast(version string) bool {
	return slices.Compare(numbers(lab.description.About.APIVersion), numbers(version)) >= 0
}

func numbers(version string) []int {
	var n []int
	for _, part := range strings.Split(version, ".") {
		i, _ := strconv.Atoi(part) // already checked with the description
		n = append(n, i)
	}
	return n
}

// stableUUID returns the same UUID for the same name, so that a restarted lab keeps its identity.
func stableUUID(kind, name string) string {
	return uuid.NewHash(sha1.New(), uuid.NameSpaceURL, []byte("gpuvm-lab/"+kind+"/"+name), 5).String()
}
