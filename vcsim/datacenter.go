package main

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

type datacenterMethods struct{ methodsOf }

// PowerOnMultiVMTask starts one power-on per VM, with the same checks. As in vCenter, the task
// itself succeeds even if they fail.
func (d *datacenterMethods) PowerOnMultiVMTask(ctx *simulator.Context, req *types.PowerOnMultiVM_Task) soap.HasFault {
	task := d.begin(ctx, "PowerOnMultiVM_Task", "Datacenter.powerOnVm",
		func(op *operation) (types.AnyType, fault) {
			op.started()
			var result types.ClusterPowerOnVmResult
			for _, r := range req.Vm {
				vm, ok := d.lab.registry.Get(r).(*simulator.VirtualMachine)
				if !ok {
					missing := &types.ManagedObjectNotFound{Obj: r}
					result.NotAttempted = append(result.NotAttempted, types.ClusterNotAttemptedVmInfo{
						Vm: r, Fault: types.LocalizedMethodFault{Fault: missing, LocalizedMessage: describe(missing)},
					})
					continue
				}
				of := &vmMethods{methodsOf: methodsOf{lab: d.lab, self: r}, vm: vm}
				body := of.PowerOnVMTask(op.ctx, &types.PowerOnVM_Task{This: r}).(*methods.PowerOnVM_TaskBody)
				result.Attempted = append(result.Attempted, types.ClusterAttemptedVmInfo{Vm: r, Task: &body.Res.Returnval})
			}
			return result, nil
		})
	return &methods.PowerOnMultiVM_TaskBody{Res: &types.PowerOnMultiVM_TaskResponse{Returnval: task}}
}

type datastoreMethods struct{ methodsOf }

// RefreshDatastore keeps the sizes; the simulator would set its own.
func (*datastoreMethods) RefreshDatastore(*simulator.Context, *types.RefreshDatastore) soap.HasFault {
	return &methods.RefreshDatastoreBody{Res: &types.RefreshDatastoreResponse{}}
}

type taskMethods struct{ methodsOf }

// CancelTask requests the operation to stop; its task then fails with RequestCanceled.
func (t *taskMethods) CancelTask(ctx *simulator.Context, _ *types.CancelTask) soap.HasFault {
	if t.lab.requestCancel(t.self) {
		return &methods.CancelTaskBody{Res: &types.CancelTaskResponse{}}
	}
	return &methods.CancelTaskBody{Fault_: simulator.Fault("", &types.InvalidState{})}
}
