package main

import (
	"testing"

	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// R9: the cluster's summary has the memory for VMs of all usable hosts.
func TestEffectiveMemory(t *testing.T) {
	r := newRig(t, func(d *Description) { d.Hosts[0].HypervisorGiB = ptr(6.5) })
	var all int64
	for _, h := range r.lab.description.Hosts {
		all += h.MemoryGiB<<10 - int64(*h.HypervisorGiB*1024)
	}
	if got := r.effectiveMemory(); got != all {
		t.Errorf("%d MB instead of %d", got, all)
	}
	r.control("POST", "/hosts/esx-01/maintenance", "")
	if got, want := r.effectiveMemory(), all-(64<<10-6656); got != want {
		t.Errorf("%d MB instead of %d", got, want)
	}
}

func (r *rig) effectiveMemory() int64 {
	var m mo.ClusterComputeResource
	must(r.T, property.DefaultCollector(r.client.Client).RetrieveOne(r.ctx, r.lab.cluster, []string{"summary"}, &m))
	return m.Summary.GetComputeResourceSummary().EffectiveMemory
}

// R9: reservations that do not fit into the host are refused; freed memory can be used again.
func TestMemoryIsFinite(t *testing.T) {
	r := newRig(t) // 64 GiB a host
	spec := func() types.VirtualMachineCloneSpec {
		s := r.plainSpec("esx-01")
		s.Config.MemoryMB, s.Config.MemoryReservationLockedToMax = 32<<10, ptr(true)
		return s
	}
	first, second := r.clone("first", spec()), r.clone("second", spec())
	r.finish(first.PowerOn(r.ctx))
	f, ok := r.fails(second.PowerOn(r.ctx)).(*types.InsufficientHostMemoryCapacityFault)
	if !ok || *f.Host != r.host("esx-01") || f.Requested <= f.Unreserved || f.Requested < 32<<30 {
		t.Fatalf("%#v", f)
	}
	r.finish(first.PowerOff(r.ctx))
	r.finish(second.PowerOn(r.ctx))
	free := r.plainSpec("esx-01") // without a reservation memory may be overcommitted
	free.Config.MemoryMB = 60 << 10
	r.finish(r.clone("third", free).PowerOn(r.ctx))
}

// R9: disks that do not fit on the datastore are refused.
func TestDatastoreSpaceIsFinite(t *testing.T) {
	r := newRig(t, func(d *Description) { d.Datastores[0].FreeGiB = ptr(int64(50)) })
	r.clone("first", r.plainSpec("esx-01"))
	f, ok := r.fails(r.startClone("second", r.plainSpec("esx-01")), nil).(*types.NoDiskSpace)
	if !ok || f.Datastore != "store" {
		t.Fatalf("%#v", f)
	}
	if r.lab.vmNamed("second") != nil {
		t.Error("a part of the clone stayed")
	}
}

// R9: a thin disk and its clones take their used space, until they are destroyed.
func TestThinDisksTakeTheirUsedSpace(t *testing.T) {
	r := newRig(t, func(d *Description) {
		d.Datastores[0].FreeGiB = ptr(int64(50))
		d.Templates[0].DiskUsedGiB = ptr(int64(15))
	})
	capacity := r.lab.description.Templates[0].DiskGiB
	first := r.clone("first", r.plainSpec("esx-01"))
	r.clone("second", r.plainSpec("esx-01"))
	r.clone("third", r.plainSpec("esx-01"))
	if _, ok := r.fails(r.startClone("fourth", r.plainSpec("esx-01")), nil).(*types.NoDiskSpace); !ok {
		t.Error("a fourth one fits")
	}
	storage := r.readVM(first, "summary.storage").Summary.Storage
	if storage.Committed != 15*gib || storage.Unshared != 15*gib || storage.Uncommitted != (capacity-15)*gib {
		t.Errorf("%+v", storage)
	}
	r.finish(first.Destroy(r.ctx))
	r.clone("fourth", r.plainSpec("esx-01"))
}
