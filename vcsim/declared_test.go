package main

import (
	"testing"

	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// A path follows the declared types, and one that does not exist fails the whole call.
func TestPathsFollowDeclaredTypes(t *testing.T) {
	cases := []struct {
		version, kind, path string
		refused             bool
	}{
		{"8.0.3.0", "ClusterComputeResource", "configurationEx.drsConfig", true},
		{"8.0.3.0", "ClusterComputeResource", "configuration.drsConfig.enabled", false},
		{"8.0.3.0", "ClusterComputeResource", "configurationEx", false},
		{"8.0.3.0", "VirtualMachine", "runtime.host.name", true},
		{"8.0.3.0", "VirtualMachine", "Runtime.host", true},
		{"8.0.3.0", "VirtualMachine", "self", true},
		{"8.0.3.0", "VirtualMachine", "managedEntity", true},
		{"8.0.3.0", "VirtualMachine", `config.extraConfig["gpuvm.index"]`, false},
		{"8.0.3.0", "VirtualMachine", `config.extraConfig["gpuvm.index"].value`, false},
		{"8.0.3.0", "VirtualMachine", `config.hardware.device[4000].backing`, false},
		{"8.0.3.0", "VirtualMachine", `config.hardware.device[4000].macAddress`, true},
		{"8.0.3.0", "HostSystem", "summary.hardware.noSuch", true},
		{"8.0.3.0", "HostSystem", "config.assignableHardwareBinding", false},
		{"7.0.0.0", "HostSystem", "config.assignableHardwareBinding", false},
		{"6.7.3", "HostSystem", "config.assignableHardwareBinding", true},
		{"6.7.3", "HostSystem", "capability.deviceRebindWithoutRebootSupported", true},
		{"8.0.2.0", "HostSystem", "config.cimSupported", true},
		{"8.0.3.0", "HostSystem", "capability.cimSupported", true},
		{"9.0.0.0", "HostSystem", "capability.cimSupported", false},
	}
	for _, c := range cases {
		paths := newPaths(c.version)
		spec := types.PropertyFilterSpec{PropSet: []types.PropertySpec{{Type: c.kind, PathSet: []string{"name", c.path}}}}
		fault, refused := paths.check(&spec).(*types.InvalidProperty)
		if refused != c.refused || (refused && fault.Name != c.path) {
			t.Errorf("%s on %s: %s is refused: %t", c.version, c.kind, c.path, refused)
		}
	}
}

// Reads and filters alike, whether or not there is an object to read.
func TestUnknownPathsFailTheCall(t *testing.T) {
	r := newRig(t)
	var cluster mo.ClusterComputeResource
	err := property.DefaultCollector(r.client.Client).RetrieveOne(r.ctx, r.lab.cluster, []string{"name", "configurationEx.drsConfig"}, &cluster)
	if f, ok := faultOf(t, err).(*types.InvalidProperty); !ok || f.Name != "configurationEx.drsConfig" {
		t.Errorf("%v", err)
	}
	_, err = methods.CreateFilter(r.ctx, r.client.Client, &types.CreateFilter{
		This: r.client.ServiceContent.PropertyCollector,
		Spec: types.PropertyFilterSpec{
			ObjectSet: []types.ObjectSpec{{Obj: r.lab.cluster}},
			PropSet:   []types.PropertySpec{{Type: "VirtualMachine", PathSet: []string{"runtime.noSuch"}}},
		},
	})
	if f, ok := faultOf(t, err).(*types.InvalidProperty); !ok || f.Name != "runtime.noSuch" {
		t.Errorf("%v", err)
	}
}
