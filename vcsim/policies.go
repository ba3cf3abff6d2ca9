package main

import (
	"slices"
	"strconv"
	"strings"
	"sync"

	pbm "github.com/vmware/govmomi/pbm/methods"
	pbmsimulator "github.com/vmware/govmomi/pbm/simulator"
	pbmtypes "github.com/vmware/govmomi/pbm/types"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const viewPolicies = "StorageProfile.View"

// policyService is the storage policy service at /pbm and /pbm/sdk, whose callers send the
// vCenter's session in a SOAP header. It is govmomi's simulator with the lab's policies.
func (lab *Lab) policyService() *simulator.Registry {
	r := pbmsimulator.New()
	manager := ref{Type: "PbmProfileProfileManager", Value: "ProfileManager"}
	r.Put(&profileManager{r.Get(manager).(*pbmsimulator.ProfileManager), lab})
	r.Handler = func(ctx *simulator.Context, method *simulator.Method) (mo.Reference, types.BaseMethodFault) {
		if ctx.Session == nil {
			return nil, nil // the simulator refuses it
		}
		lab.calls.add(ctx.Session.UserName, method.Name)
		if !lab.accounts.may(ctx.Session.UserName, viewPolicies) {
			return nil, &types.SecurityError{} // PbmFaultNoPermission, to clients of the first version
		}
		return nil, nil
	}
	return r
}

// profileManager serves the lab's policies instead of the simulator's, and knows where they are
// applied.
type profileManager struct {
	*pbmsimulator.ProfileManager
	lab *Lab
}

func (m *profileManager) PbmQueryProfile(*pbmtypes.PbmQueryProfile) soap.HasFault {
	res := &pbmtypes.PbmQueryProfileResponse{}
	for _, policy := range m.lab.description.Policies {
		res.Returnval = append(res.Returnval, pbmtypes.PbmProfileId{UniqueId: policy.ID})
	}
	return &pbm.PbmQueryProfileBody{Res: res}
}

func (m *profileManager) PbmRetrieveContent(req *pbmtypes.PbmRetrieveContent) soap.HasFault {
	res := &pbmtypes.PbmRetrieveContentResponse{}
	for _, id := range req.ProfileIds {
		policy := m.lab.policy(id.UniqueId)
		if policy == nil {
			return &pbm.PbmRetrieveContentBody{Fault_: simulator.Fault("", &types.InvalidArgument{InvalidProperty: "profileIds"})}
		}
		profile := &pbmtypes.PbmCapabilityProfile{
			ProfileCategory: string(pbmtypes.PbmProfileCategoryEnumREQUIREMENT),
			ResourceType:    pbmtypes.PbmProfileResourceType{ResourceType: string(pbmtypes.PbmProfileResourceTypeEnumSTORAGE)},
			Constraints:     &pbmtypes.PbmCapabilityConstraints{},
		}
		profile.ProfileId, profile.Name = id, policy.Name
		res.Returnval = append(res.Returnval, profile)
	}
	return &pbm.PbmRetrieveContentBody{Res: res}
}

// PbmQueryAssociatedProfile returns the policy of a VM's home, or of a disk, such as "vm-12:2000".
func (m *profileManager) PbmQueryAssociatedProfile(req *pbmtypes.PbmQueryAssociatedProfile) soap.HasFault {
	res := &pbmtypes.PbmQueryAssociatedProfileResponse{Returnval: m.applied(req.Entity)}
	return &pbm.PbmQueryAssociatedProfileBody{Res: res}
}

func (m *profileManager) PbmQueryAssociatedProfiles(req *pbmtypes.PbmQueryAssociatedProfiles) soap.HasFault {
	res := &pbmtypes.PbmQueryAssociatedProfilesResponse{}
	for _, entity := range req.Entities {
		res.Returnval = append(res.Returnval, pbmtypes.PbmQueryProfileResult{Object: entity, ProfileId: m.applied(entity)})
	}
	return &pbm.PbmQueryAssociatedProfilesBody{Res: res}
}

func (m *profileManager) applied(entity pbmtypes.PbmServerObjectRef) []pbmtypes.PbmProfileId {
	vm, disk, _ := strings.Cut(entity.Key, ":")
	if id := m.lab.policies.on(ref{Type: "VirtualMachine", Value: vm}, disk); id != "" {
		return []pbmtypes.PbmProfileId{{UniqueId: id}}
	}
	return nil
}

func (lab *Lab) policy(id string) *StoragePolicyDescription {
	for i := range lab.description.Policies {
		if lab.description.Policies[i].ID == id {
			return &lab.description.Policies[i]
		}
	}
	return nil
}

// checkClonePolicies refuses policies with data services in a clone, for its home or for a disk.
func (lab *Lab) checkClonePolicies(spec *types.VirtualMachineCloneSpec) fault {
	requested := slices.Clone(spec.Location.Profile)
	for _, disk := range spec.Location.Disk {
		requested = append(requested, disk.Profile...)
	}
	changes := spec.Location.DeviceChange
	if spec.Config != nil {
		requested = append(requested, spec.Config.VmProfile...)
		changes = append(slices.Clone(changes), spec.Config.DeviceChange...)
	}
	for _, change := range changes {
		requested = append(requested, change.GetVirtualDeviceConfigSpec().Profile...)
	}
	for _, id := range profileIDs(requested) {
		policy := lab.policy(id)
		if policy == nil {
			return &types.InvalidArgument{InvalidProperty: "spec.location.profile"}
		}
		if policy.DataServices {
			refused := &types.InvalidArgument{InvalidProperty: "spec.location.profile"}
			refused.FaultMessage = []types.LocalizableMessage{message("vmprov.cloneWithDataServicePolicy",
				"Changing or applying VM Storage Policies with Data Service capabilities during clone operations is disallowed.")}
			return refused
		}
	}
	return nil
}

// checkPolicies refuses policies with data services on a running VM.
func (lab *Lab) checkPolicies(vm *mo.VirtualMachine, spec *types.VirtualMachineConfigSpec) fault {
	requested := slices.Clone(spec.VmProfile)
	for _, change := range spec.DeviceChange {
		requested = append(requested, change.GetVirtualDeviceConfigSpec().Profile...)
	}
	for _, id := range profileIDs(requested) {
		policy := lab.policy(id)
		if policy == nil {
			return &types.InvalidArgument{InvalidProperty: "configSpec.vmProfile"}
		}
		if policy.DataServices && vm.Runtime.PowerState != poweredOff {
			return &types.InvalidPowerState{RequestedState: poweredOff, ExistingState: vm.Runtime.PowerState}
		}
	}
	return nil
}

func profileIDs(specs []types.BaseVirtualMachineProfileSpec) []string {
	var ids []string
	for _, spec := range specs {
		if defined, ok := spec.(*types.VirtualMachineDefinedProfileSpec); ok {
			ids = append(ids, defined.ProfileId)
		}
	}
	return ids
}

// appliedPolicies records which policy is applied where, because no property of a VM shows it.
type appliedPolicies struct {
	mutex sync.Mutex
	of    map[ref]*vmPolicies
}

type vmPolicies struct {
	VM    string            `json:"vm"`
	Home  string            `json:"home"`
	Disks map[string]string `json:"disks"` // by key
}

func (a *appliedPolicies) apply(vm ref, home []types.BaseVirtualMachineProfileSpec, changes []types.BaseVirtualDeviceConfigSpec) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if a.of == nil {
		a.of = map[ref]*vmPolicies{}
	}
	if a.of[vm] == nil {
		a.of[vm] = &vmPolicies{Disks: map[string]string{}}
	}
	for _, id := range profileIDs(home) {
		a.of[vm].Home = id
	}
	for _, change := range changes {
		spec := change.GetVirtualDeviceConfigSpec()
		disk, ok := spec.Device.(*types.VirtualDisk)
		for _, id := range profileIDs(spec.Profile) {
			if ok {
				a.of[vm].Disks[strconv.Itoa(int(disk.Key))] = id
			}
		}
	}
}

// on returns the policy of a disk, by its key, or without a key that of the VM's home.
func (a *appliedPolicies) on(vm ref, disk string) string {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	switch applied := a.of[vm]; {
	case applied == nil:
		return ""
	case disk == "":
		return applied.Home
	default:
		return applied.Disks[disk]
	}
}

func (a *appliedPolicies) forget(vm ref) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	delete(a.of, vm)
}

func (a *appliedPolicies) list(lab *Lab) []vmPolicies {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	found := []vmPolicies{}
	for vm, applied := range a.of {
		found = append(found, vmPolicies{lab.nameOf(vm), applied.Home, applied.Disks})
	}
	return found
}
