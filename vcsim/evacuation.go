package main

import (
	"path"
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// Agents are VMs that vCenter itself runs on some hosts of every cluster: vSphere Cluster Services.

const agentManager, agentType = "com.vmware.vim.eam", "cluster-agent"

// addAgent creates an agent VM as vCenter does: tiny, and without a network card.
func (lab *Lab) addAgent(ctx *simulator.Context, p placement) *simulator.VirtualMachine {
	config := newConfig(p.name, "other4xLinux64Guest", "efi", "vmx-11", 1, 128)
	config.ManagedBy = &types.ManagedByInfo{ExtensionKey: agentManager, Type: agentType}
	lab.setFiles(config, p.datastore)
	config.Hardware.Device = append(config.Hardware.Device, newDisk(2*gib, path.Dir(config.Files.VmPathName), p.datastore))
	return lab.createVM(ctx, p, config)
}

func isAgent(config *types.VirtualMachineConfigInfo) bool {
	return config.ManagedBy != nil && config.ManagedBy.ExtensionKey == agentManager
}

// evacuate moves VMs away from a host that enters maintenance mode (R4).
func (lab *Lab) evacuate(ctx *simulator.Context, host ref) {
	for _, holding := range lab.allocations.holdings(host) {
		vm, ok := lab.registry.Get(holding.vm).(*simulator.VirtualMachine)
		if !ok {
			continue
		}
		var agent bool
		lab.locked(ctx, vm.Self, func() { agent = isAgent(vm.Config) })
		switch {
		case agent && lab.atLeast("8.0.3"):
			if !lab.moveAway(ctx, vm) {
				lab.switchOff(ctx, vm)
			}
		case lab.drsMoves(ctx, vm):
			lab.moveAway(ctx, vm)
		}
	}
}

// moveAway moves the VM to the first host that admits it. It returns false if none does.
func (lab *Lab) moveAway(ctx *simulator.Context, vm *simulator.VirtualMachine) bool {
	var home ref
	var pool *ref
	lab.locked(ctx, vm.Self, func() { home, pool = *vm.Runtime.Host, vm.ResourcePool })
	return slices.ContainsFunc(lab.hostRefs, func(host ref) bool {
		return host != home && lab.migrate(ctx, vm, host, pool) == nil
	})
}

// drsMoves reports whether DRS moves this VM: it is fully automated for it, and the VM is not
// pinned. VMs with vGPUs are moved only if the description says so.
func (lab *Lab) drsMoves(ctx *simulator.Context, vm *simulator.VirtualMachine) bool {
	stays := lab.hasPCIDevice(ctx, vm) && !lab.description.VGPUsMove
	if !lab.description.DRS || stays || lab.pinned(ctx, vm) {
		return false
	}
	enabled, level := true, types.DrsBehavior(lab.description.Automation)
	cluster := lab.registry.Get(lab.cluster).(*simulator.ClusterComputeResource)
	lab.locked(ctx, lab.cluster, func() {
		for _, override := range cluster.Configuration.DrsVmConfig {
			if override.Key == vm.Self {
				enabled, level = isTrue(override.Enabled), override.Behavior
			}
		}
	})
	return enabled && level == types.DrsBehaviorFullyAutomated
}

// overrideDRS sets the automation level of one VM.
func (lab *Lab) overrideDRS(ctx *simulator.Context, vm ref, level string) {
	override := types.ClusterDrsVmConfigInfo{Key: vm, Enabled: types.NewBool(level != drsDisabled)}
	if level != drsDisabled {
		override.Behavior = types.DrsBehavior(level)
	}
	cluster := lab.registry.Get(lab.cluster).(*simulator.ClusterComputeResource)
	lab.locked(ctx, lab.cluster, func() {
		config := cluster.Configuration
		config.DrsVmConfig = append(slices.Clone(config.DrsVmConfig), override)
		lab.registry.Update(ctx, cluster, []types.PropertyChange{{Name: "configuration", Val: config}})
		cluster.ConfigurationEx.(*types.ClusterConfigInfoEx).DrsVmConfig = config.DrsVmConfig
	})
}

// restartAgents powers on the agents that were powered off because there was no other host.
func (lab *Lab) restartAgents(ctx *simulator.Context, host *simulator.HostSystem) {
	var vms []ref
	lab.locked(ctx, host.Self, func() { vms = host.Vm })
	for _, r := range vms {
		vm, ok := lab.registry.Get(r).(*simulator.VirtualMachine)
		if !ok {
			continue
		}
		var off bool
		lab.locked(ctx, r, func() { off = isAgent(vm.Config) && vm.Runtime.PowerState == poweredOff })
		if off && lab.admit(ctx, vm) == nil {
			lab.switchOn(ctx, vm)
		}
	}
}
