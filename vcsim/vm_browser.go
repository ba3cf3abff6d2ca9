package main

import (
	"strconv"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// vmBrowser is the environment browser of one VM. Where the caller names no version, it answers
// for the VM's own virtual hardware, from which Terraform's provider learns the VM's version.
type vmBrowser struct {
	mo.EnvironmentBrowser
	vm ref
}

// browserOf returns the reference of a VM's environment browser, as vCenter numbers them.
func browserOf(vm ref) ref {
	return ref{Type: "EnvironmentBrowser", Value: "envbrowser-" + strings.TrimPrefix(vm.Value, "vm-")}
}

// clusterBrowser has the devices and the datastores, which are those of the cluster for VMs too.
func (lab *Lab) clusterBrowser() *simulator.EnvironmentBrowser {
	return lab.registry.Get(lab.browser()).(*simulator.EnvironmentBrowser)
}

// QueryConfigOption describes one version of the virtual hardware.
func (b *browserMethods) QueryConfigOption(ctx *simulator.Context, req *types.QueryConfigOption) soap.HasFault {
	body := b.browser.QueryConfigOption(req).(*methods.QueryConfigOptionBody)
	body.Res.Returnval = b.ofVersion(ctx, body.Res.Returnval, req.Key)
	return body
}

// QueryConfigOptionEx is the newer form, which filters guest operating systems.
func (b *browserMethods) QueryConfigOptionEx(ctx *simulator.Context, req *types.QueryConfigOptionEx) soap.HasFault {
	key := ""
	if req.Spec != nil {
		key = req.Spec.Key
	}
	body := b.browser.QueryConfigOptionEx(req).(*methods.QueryConfigOptionExBody)
	body.Res.Returnval = b.ofVersion(ctx, body.Res.Returnval, key)
	return body
}

func (b *browserMethods) ofVersion(ctx *simulator.Context, option *types.VirtualMachineConfigOption, key string) *types.VirtualMachineConfigOption {
	if key == "" {
		key = b.ownVersion(ctx)
	}
	own := *option
	own.Version = key
	if version, err := strconv.ParseInt(strings.TrimPrefix(key, "vmx-"), 10, 32); err == nil {
		own.HardwareOptions.HwVersion = int32(version)
	}
	return &own
}

// ownVersion is the VM's, or the newest of the cluster.
func (b *browserMethods) ownVersion(ctx *simulator.Context) string {
	version := ""
	if vm, ok := b.lab.registry.Get(b.vm).(*simulator.VirtualMachine); ok {
		b.lab.locked(ctx, b.vm, func() { version = vm.Config.Version })
		return version
	}
	for _, descriptor := range b.browser.QueryConfigOptionDescriptorResponse.Returnval {
		if descriptor.DefaultConfigOption {
			version = descriptor.Key
		}
	}
	return version
}
