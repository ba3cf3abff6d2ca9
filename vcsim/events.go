package main

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// post puts an event about a VM into the event history.
func (lab *Lab) post(ctx *simulator.Context, event types.BaseEvent) {
	manager := lab.registry.EventManager()
	lab.locked(ctx, manager, func() {
		manager.PostEvent(ctx, &types.PostEvent{This: manager.Self, EventToPost: event})
	})
}

func (lab *Lab) vmEvent(ctx *simulator.Context, vm *simulator.VirtualMachine) types.VmEvent {
	var e types.VmEvent
	var template bool
	lab.locked(ctx, vm.Self, func() {
		e.Vm = &types.VmEventArgument{EntityEventArgument: types.EntityEventArgument{Name: vm.Name}, Vm: vm.Self}
		e.Host = &types.HostEventArgument{
			EntityEventArgument: types.EntityEventArgument{Name: lab.hosts[*vm.Runtime.Host].name}, Host: *vm.Runtime.Host,
		}
		template = vm.Config.Template
	})
	e.Template = template
	e.Datacenter = &types.DatacenterEventArgument{
		EntityEventArgument: types.EntityEventArgument{Name: lab.description.Datacenter}, Datacenter: lab.datacenter,
	}
	e.ComputeResource = &types.ComputeResourceEventArgument{
		EntityEventArgument: types.EntityEventArgument{Name: lab.description.Cluster}, ComputeResource: lab.cluster,
	}
	e.UserName = ctx.Session.UserName
	return e
}

// postCloning posts an event with the new VM's name, which the task does not have. Both have the
// same chain id.
func (lab *Lab) postCloning(op *operation, source *simulator.VirtualMachine, req *types.CloneVM_Task) {
	from := lab.vmEvent(op.ctx, source)
	var event types.BaseEvent
	if from.Template {
		deploying := &types.VmBeingDeployedEvent{VmEvent: from, SrcTemplate: *from.Vm}
		deploying.Vm = &types.VmEventArgument{EntityEventArgument: types.EntityEventArgument{Name: req.Name}, Vm: source.Self}
		event = deploying
	} else {
		event = &types.VmBeingClonedEvent{
			VmCloneEvent: types.VmCloneEvent{VmEvent: from}, DestName: req.Name, DestHost: *from.Host,
			DestFolder: types.FolderEventArgument{
				EntityEventArgument: types.EntityEventArgument{Name: lab.nameOf(req.Folder)}, Folder: req.Folder,
			},
		}
	}
	lab.post(op.ctx, event)
	op.update([]types.PropertyChange{{Name: "info.eventChainId", Val: event.GetEvent().ChainId}})
}

func (lab *Lab) postClonedEvents(ctx *simulator.Context, source, vm *simulator.VirtualMachine) {
	event := lab.vmEvent(ctx, vm)
	lab.post(ctx, &types.VmInstanceUuidAssignedEvent{VmEvent: event, InstanceUuid: vm.Config.InstanceUuid})
	lab.post(ctx, &types.VmClonedEvent{
		VmCloneEvent: types.VmCloneEvent{VmEvent: event}, SourceVm: *lab.vmEvent(ctx, source).Vm,
	})
}

func (lab *Lab) postPowerEvent(ctx *simulator.Context, vm *simulator.VirtualMachine, state types.VirtualMachinePowerState) {
	if ctx.Session == lab.root.Session {
		return // the initial VMs have no history
	}
	event := lab.vmEvent(ctx, vm)
	if state == poweredOn {
		lab.post(ctx, &types.VmPoweredOnEvent{VmEvent: event})
		return
	}
	lab.post(ctx, &types.VmPoweredOffEvent{VmEvent: event})
}

func (lab *Lab) postPowerOnFailed(ctx *simulator.Context, vm *simulator.VirtualMachine, f fault) {
	event := &types.VmFailedToPowerOnEvent{}
	event.VmEvent = lab.vmEvent(ctx, vm)
	event.Reason = types.LocalizedMethodFault{Fault: f, LocalizedMessage: describe(f)}
	lab.post(ctx, event)
}

func (lab *Lab) postCustomizationStarted(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	event := &types.CustomizationStartedEvent{}
	event.VmEvent, event.LogLocation = lab.vmEvent(ctx, vm), "/var/log/vmware-imc/toolsDeployPkg.log"
	lab.post(ctx, event)
}

func (lab *Lab) postCustomizationEnded(ctx *simulator.Context, vm *simulator.VirtualMachine, failed bool) {
	base := types.CustomizationEvent{VmEvent: lab.vmEvent(ctx, vm), LogLocation: "/var/log/vmware-imc/toolsDeployPkg.log"}
	if failed {
		failure := &types.CustomizationUnknownFailure{}
		failure.CustomizationEvent = base
		lab.post(ctx, failure)
		return
	}
	lab.post(ctx, &types.CustomizationSucceeded{CustomizationEvent: base})
}
