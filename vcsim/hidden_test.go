package main

import (
	"strings"
	"testing"

	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// R11: a hidden property is unset, or refused, with everything below it, until it is shown again.
func TestPropertiesAreHidden(t *testing.T) {
	r := newRig(t)
	host := r.host("esx-01")
	read := func() types.ObjectContent {
		t.Helper()
		req := types.RetrieveProperties{SpecSet: []types.PropertyFilterSpec{{
			ObjectSet: []types.ObjectSpec{{Obj: host}},
			PropSet:   []types.PropertySpec{{Type: "HostSystem", PathSet: []string{"name", "hardware.memorySize"}}},
		}}}
		res, fault := property.DefaultCollector(r.client.Client).RetrieveProperties(r.ctx, req)
		if fault != nil {
			t.Fatal(fault)
		}
		found := res.Returnval
		if len(found) != 1 {
			t.Fatalf("%d objects", len(found))
		}
		return found[0]
	}
	if o := read(); len(o.PropSet) != 2 || len(o.MissingSet) != 0 {
		t.Fatalf("%+v", o)
	}
	r.control("POST", "/hide", `{"object": "`+host.Value+`", "path": "hardware"}`)
	if o := read(); len(o.PropSet) != 1 || len(o.MissingSet) != 0 {
		t.Errorf("unset: %+v", o)
	}
	r.control("DELETE", "/hide", "")
	r.control("POST", "/hide", `{"object": "`+host.Value+`", "path": "hardware.memorySize", "denied": true}`)
	o := read()
	if len(o.PropSet) != 1 || len(o.MissingSet) != 1 {
		t.Fatalf("refused: %+v", o)
	}
	if _, ok := o.MissingSet[0].Fault.Fault.(*types.NoPermission); !ok {
		t.Errorf("%+v", o.MissingSet[0])
	}
	r.control("DELETE", "/hide", "")
	if o := read(); len(o.PropSet) != 2 {
		t.Errorf("given back: %+v", o)
	}
	if status, answer := r.tryControl("POST", "/hide", `{"object": "`+host.Value+`", "path": "nonsense"}`); status != 400 || !strings.Contains(string(answer), "nonsense") {
		t.Errorf("%d %s", status, answer)
	}
	if status, _ := r.tryControl("POST", "/hide", `{"object": "host-0"}`); status != 404 {
		t.Errorf("%d", status)
	}
}

func TestObjectsAreHidden(t *testing.T) {
	r := newRig(t)
	host := r.host("esx-01")
	listed := func() bool {
		var cluster mo.ClusterComputeResource
		r.read(r.lab.cluster, &cluster, "host")
		var hosts []mo.HostSystem
		if err := property.DefaultCollector(r.client.Client).Retrieve(r.ctx, cluster.Host, []string{"name"}, &hosts); err != nil {
			return false
		}
		return len(hosts) == len(cluster.Host)
	}
	if !listed() {
		t.Fatal("not there before")
	}
	r.control("POST", "/hide", `{"object": "`+host.Value+`"}`)
	if listed() {
		t.Error("still there")
	}
	ids := decode[[]identified](t, r.control("GET", "/ids", ""))
	named := false
	for _, one := range ids {
		named = named || one == identified{host.Value, "HostSystem", "esx-01"}
	}
	if !named {
		t.Error("GET /ids does not list what is hidden")
	}
}
