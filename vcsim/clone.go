package main

import (
	"path"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// CloneVMTask makes the whole VM that the CloneSpec describes (R10).
func (v *vmMethods) CloneVMTask(ctx *simulator.Context, req *types.CloneVM_Task) soap.HasFault {
	lab, source := v.lab, v.vm
	task := v.begin(ctx, "CloneVM_Task", "VirtualMachine.clone",
		func(op *operation) (types.AnyType, fault) {
			clone := &cloning{lab: lab, op: op, source: source, req: req}
			return clone.run()
		})
	return &methods.CloneVM_TaskBody{Res: &types.CloneVM_TaskResponse{Returnval: task}}
}

// cloning is a CloneVM_Task in progress.
type cloning struct {
	lab    *Lab
	op     *operation
	source *simulator.VirtualMachine
	req    *types.CloneVM_Task

	from   mo.VirtualMachine // the source as it was at the start
	to     placement
	linked bool
}

func (c *cloning) run() (types.AnyType, fault) {
	c.lab.locked(c.op.ctx, c.source.Self, func() { c.from = copyVM(&c.source.VirtualMachine) })
	c.lab.postCloning(c.op, c.source, c.req)
	if fault := c.place(); fault != nil {
		return nil, fault
	}
	if !c.lab.names.claim(c.to.folder, c.to.name) {
		return nil, &types.DuplicateName{Name: c.to.name, Object: c.to.folder}
	}
	defer c.lab.names.release(c.to.folder, c.to.name)
	if fault := c.lab.checkName(c.op.ctx, c.to.folder, c.to.name); fault != nil {
		return nil, fault
	}
	vm, fault := c.copy()
	if fault != nil {
		return nil, fault
	}
	if c.req.Spec.PowerOn && !c.to.template {
		if fault := c.lab.powerOn(c.op, vm, nil); fault != nil {
			return nil, fault
		}
	}
	return vm.Self, nil
}

// place determines the clone's host, pool, folder and datastore, and checks them.
func (c *cloning) place() fault {
	location := c.req.Spec.Location
	c.to = placement{name: c.req.Name, host: *c.from.Runtime.Host, pool: location.Pool, template: c.req.Spec.Template}
	folder, ok := c.lab.registry.Get(c.req.Folder).(*simulator.Folder)
	if !ok || !slices.Contains(folder.ChildType, "VirtualMachine") {
		return &types.InvalidArgument{InvalidProperty: "folder"}
	}
	c.to.folder = folder.Self
	if c.to.name == "" || len(c.to.name) > 80 {
		return &types.InvalidName{Name: c.to.name}
	}
	if c.to.pool == nil && !c.from.Config.Template {
		c.to.pool = c.from.ResourcePool
	}
	if c.to.pool == nil && !c.to.template {
		return &types.InvalidArgument{InvalidProperty: "spec.location.pool"}
	}
	if c.to.pool != nil && c.lab.registry.Get(*c.to.pool) == nil {
		return &types.ManagedObjectNotFound{Obj: *c.to.pool}
	}
	if location.Host != nil {
		c.to.host = *location.Host
	}
	if c.lab.hosts[c.to.host] == nil {
		return &types.ManagedObjectNotFound{Obj: c.to.host}
	}
	if policy := c.req.Spec.TpmProvisionPolicy; !slices.Contains([]string{"", "copy", newTPM}, policy) {
		return &types.InvalidArgument{InvalidProperty: "spec.tpmProvisionPolicy"}
	}
	if fault := c.lab.checkClonePolicies(&c.req.Spec); fault != nil {
		return fault
	}
	if c.to.template {
		c.to.pool = nil
	}
	return c.placeDisks()
}

func (c *cloning) placeDisks() fault {
	location := c.req.Spec.Location
	c.to.datastore = c.from.Datastore[0]
	if location.Datastore != nil {
		c.to.datastore = *location.Datastore
	}
	if fault := c.lab.checkDatastore(c.op.ctx, c.to.host, c.to.datastore); fault != nil {
		return fault
	}
	if fault := c.lab.checkHardware(c.op.ctx, c.to.host, c.from.Config); fault != nil {
		return fault
	}
	if location.DiskMoveType == string(types.VirtualMachineRelocateDiskMoveOptionsCreateNewChildDiskBacking) {
		if c.req.Spec.Snapshot == nil {
			return &types.InvalidArgument{InvalidProperty: "spec.snapshot"}
		}
		snapshot, ok := c.lab.registry.Get(*c.req.Spec.Snapshot).(*simulator.VirtualMachineSnapshot)
		if !ok || snapshot.Vm != c.source.Self {
			return &types.InvalidArgument{InvalidProperty: "spec.snapshot"}
		}
		c.linked = true
	}
	return c.checkPassthrough()
}

// checkSource checks the host that the source is registered on, because that host reads the disks.
func (c *cloning) checkSource() fault {
	if _, away := c.lab.checkHost(c.op.ctx, *c.from.Runtime.Host).(*types.HostNotConnected); away {
		return &types.InvalidHostState{Host: c.from.Runtime.Host}
	}
	return nil
}

// checkPassthrough refuses to clone a VM with a fixed device to another host, because the device
// belongs to one host.
func (c *cloning) checkPassthrough() fault {
	if c.from.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn && len(fixedDevices(c.from.Config)) > 0 {
		return &types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOff, ExistingState: c.from.Runtime.PowerState,
		}
	}
	if fault := c.lab.checkHost(c.op.ctx, c.to.host); fault != nil {
		return fault
	}
	return c.checkSource()
}

// copy waits for a provisioning slot on both hosts, takes the configured time and creates the VM.
func (c *cloning) copy() (*simulator.VirtualMachine, fault) {
	hosts := []ref{*c.from.Runtime.Host, c.to.host}
	if !c.lab.slots.acquire(c.op.cancelled, hosts...) {
		return nil, &types.RequestCanceled{}
	}
	defer c.lab.slots.release(hosts...)
	c.op.started()
	config, fault := c.configure()
	if fault == nil {
		fault = c.lab.checkCustomization(c.req.Spec.Customization, config)
	}
	if fault != nil {
		return nil, fault
	}
	bytes := c.lab.ownDiskBytes(config)
	if fault = c.lab.reserveSpace(c.op.ctx, c.to.datastore, bytes); fault == nil {
		if fault = c.transfer(); fault != nil {
			c.lab.releaseSpace(c.op.ctx, c.to.datastore, bytes)
		}
	}
	if fault != nil {
		c.lab.names.forgetFolder(config.Files.VmPathName)
		return nil, fault
	}
	vm := c.lab.createVM(c.op.ctx, c.to, config)
	c.lab.policies.apply(vm.Self, c.req.Spec.Location.Profile, nil)
	if c.req.Spec.Customization != nil {
		c.lab.customize(c.op.ctx, vm, c.req.Spec.Customization)
	}
	c.lab.postClonedEvents(c.op.ctx, c.source, vm)
	return vm, nil
}

// transfer takes the time of a clone. The host may disconnect meanwhile.
func (c *cloning) transfer() fault {
	if fault := c.op.work(seconds(c.lab.description.Timings.CloneS), 0, 95); fault != nil {
		return fault
	}
	return c.lab.checkHost(c.op.ctx, c.to.host)
}

// configure returns the clone's configuration: the source's, with the changes of the spec.
func (c *cloning) configure() (*types.VirtualMachineConfigInfo, fault) {
	config := copied(c.from.Config)
	config.Name = c.to.name
	config.Uuid, config.InstanceUuid = uuid.NewString(), uuid.NewString()
	config.ManagedBy = nil
	config.CreateDate = types.NewTime(c.op.task.Info.QueueTime)
	config.ExtraConfig = inherited(config.ExtraConfig, c.to.name)
	c.lab.setFiles(config, c.to.datastore)
	config.Hardware.Device = c.lab.cloneDevices(config.Hardware.Device, path.Dir(config.Files.VmPathName))
	if c.req.Spec.TpmProvisionPolicy == newTPM {
		config.Hardware.Device = replaceTPM(config.Hardware.Device)
	}
	if c.linked {
		linkDisks(config.Hardware.Device, c.from.Config.Hardware.Device)
	}
	vm := mo.VirtualMachine{Config: config}
	specs := []*types.VirtualMachineConfigSpec{{DeviceChange: nicsAndDisks(c.req.Spec.Location.DeviceChange)}}
	if spec := c.req.Spec.Config; spec != nil {
		own := *spec
		own.Name = "" // the name is an argument of CloneVM_Task
		own.InstanceUuid = c.lab.freeInstanceUUID(own.InstanceUuid)
		specs = append(specs, &own)
	}
	for _, spec := range specs {
		if fault := c.lab.applySpec(&vm, spec); fault != nil {
			c.lab.names.forgetFolder(config.Files.VmPathName)
			return nil, fault
		}
	}
	return config, nil
}

// inherited returns the source's extraConfig for a clone: all keys, except those with file names.
func inherited(options []types.BaseOptionValue, name string) []types.BaseOptionValue {
	return mergeOptions(options, []types.BaseOptionValue{&types.OptionValue{Key: "nvram", Value: name + ".nvram"}})
}

// nicsAndDisks returns the changes that vCenter honours in a RelocateSpec: those of network cards
// and disks.
func nicsAndDisks(changes []types.BaseVirtualDeviceConfigSpec) []types.BaseVirtualDeviceConfigSpec {
	return slices.DeleteFunc(slices.Clone(changes), func(change types.BaseVirtualDeviceConfigSpec) bool {
		switch change.GetVirtualDeviceConfigSpec().Device.(type) {
		case types.BaseVirtualEthernetCard, *types.VirtualDisk:
			return false
		}
		return true
	})
}

// freeInstanceUUID returns the requested id, or a new one if a VM already has it, as vCenter does.
func (lab *Lab) freeInstanceUUID(requested string) string {
	if requested == "" {
		return ""
	}
	for _, vm := range lab.allVMs() {
		var taken bool
		lab.locked(lab.context(nil), vm.Self, func() { taken = strings.EqualFold(vm.Config.InstanceUuid, requested) })
		if taken {
			return uuid.NewString()
		}
	}
	return strings.ToLower(requested)
}

func (lab *Lab) allVMs() []*simulator.VirtualMachine {
	entities := lab.registry.All("VirtualMachine")
	vms := make([]*simulator.VirtualMachine, 0, len(entities))
	for _, entity := range entities {
		vms = append(vms, entity.(*simulator.VirtualMachine))
	}
	return vms
}

func (op *operation) cancelled() bool {
	select {
	case <-op.cancel:
		return true
	default:
		return false
	}
}
