package main

import (
	"testing"

	"github.com/vmware/govmomi/vim25/types"
)

// R10: a clone needs a datastore that its host can write to, and a source on a connected host.
func TestCloneNeedsAWritableDatastore(t *testing.T) {
	r := newRig(t, func(d *Description) {
		for _, name := range []string{"one", "kept", "lost", "old"} {
			d.Datastores = append(d.Datastores, DatastoreDescription{Name: name, CapacityGiB: 1000, FreeGiB: ptr(int64(900)), Hosts: []string{"esx-01"}})
		}
		d.Datastores[2].ReadOnlyOn, d.Datastores[3].LostOn, d.Datastores[4].Maintenance = []string{"esx-01"}, []string{"esx-01"}, true
	})
	spec := func(host, store string) types.VirtualMachineCloneSpec {
		s, moref := r.plainSpec(host), r.lab.datastores[store]
		s.Location.Datastore = &moref
		return s
	}
	r.clone("fine", spec("esx-01", "one"))
	for store, host := range map[string]string{"one": "esx-02", "kept": "esx-01", "lost": "esx-01"} {
		if _, ok := r.fails(r.startClone("no-"+store, spec(host, store)), nil).(*types.InaccessibleDatastore); !ok {
			t.Errorf("%s on %s", store, host)
		}
	}
	if _, ok := r.fails(r.startClone("no-old", spec("esx-01", "old")), nil).(*types.InvalidDatastoreState); !ok {
		t.Error("a datastore in maintenance takes a clone")
	}
	r.control("POST", "/hosts/esx-01/disconnect", "")
	if _, ok := r.fails(r.startClone("from", spec("esx-02", "store")), nil).(*types.InvalidHostState); !ok {
		t.Error("the template's host is away")
	}
}

// R10: virtual hardware that is newer than the host is not cloned to it.
func TestHardwareIsNotNewerThanTheHost(t *testing.T) {
	r := newRig(t, func(d *Description) { d.Templates[0].HardwareVersion, d.Hosts[1].Version = "vmx-20", "7.0.3" })
	r.clone("fine", r.plainSpec("esx-01"))
	f, ok := r.fails(r.startClone("newer", r.plainSpec("esx-02")), nil).(*types.VirtualHardwareVersionNotSupported)
	if !ok || f.HostName != "esx-02" {
		t.Errorf("%+v", f)
	}
}
