package main

import (
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// defaultPrivilege stands for the privilege of methods that change something and are not listed.
const defaultPrivilege = "System.Modify"

const (
	assignToPool  = "Resource.AssignVMToPool"
	assignNetwork = "Network.Assign"
)

type need struct {
	privilege string
	object    ref
}

// methodPrivileges are the privileges of the API reference, by type and method.
var methodPrivileges = map[string]string{
	"VirtualMachine.PowerOnVM_Task":                "VirtualMachine.Interact.PowerOn",
	"VirtualMachine.PowerOffVM_Task":               "VirtualMachine.Interact.PowerOff",
	"VirtualMachine.ShutdownGuest":                 "VirtualMachine.Interact.PowerOff",
	"VirtualMachine.StandbyGuest":                  "VirtualMachine.Interact.Suspend",
	"VirtualMachine.SuspendVM_Task":                "VirtualMachine.Interact.Suspend",
	"VirtualMachine.ResetVM_Task":                  "VirtualMachine.Interact.Reset",
	"VirtualMachine.RebootGuest":                   "VirtualMachine.Interact.Reset",
	"VirtualMachine.AnswerVM":                      "VirtualMachine.Interact.AnswerQuestion",
	"VirtualMachine.UnregisterVM":                  "VirtualMachine.Inventory.Unregister",
	"VirtualMachine.Rename_Task":                   "VirtualMachine.Config.Rename",
	"VirtualMachine.CreateSnapshot_Task":           "VirtualMachine.State.CreateSnapshot",
	"VirtualMachine.CreateSnapshotEx_Task":         "VirtualMachine.State.CreateSnapshot",
	"VirtualMachine.RemoveAllSnapshots_Task":       "VirtualMachine.State.RemoveSnapshot",
	"VirtualMachine.RevertToCurrentSnapshot_Task":  "VirtualMachine.State.RevertToSnapshot",
	"VirtualMachineSnapshot.RevertToSnapshot_Task": "VirtualMachine.State.RevertToSnapshot",
	"VirtualMachineSnapshot.RemoveSnapshot_Task":   "VirtualMachine.State.RemoveSnapshot",
	"VirtualMachine.CustomizeVM_Task":              "VirtualMachine.Provisioning.Customize",
	"VirtualMachine.MarkAsTemplate":                "VirtualMachine.Provisioning.MarkAsTemplate",
	"VirtualMachine.UpgradeVM_Task":                "VirtualMachine.Config.UpgradeVirtualHardware",
	"HostSystem.EnterMaintenanceMode_Task":         "Host.Config.Maintenance",
	"HostSystem.ExitMaintenanceMode_Task":          "Host.Config.Maintenance",
	"HostSystem.RebootHost_Task":                   "Host.Config.Maintenance",
	"HostSystem.ShutdownHost_Task":                 "Host.Config.Maintenance",
	"HostSystem.DisconnectHost_Task":               "Host.Config.Connection",
	"HostSystem.ReconnectHost_Task":                "Host.Config.Connection",
	"HostPciPassthruSystem.UpdatePassthruConfig":   "Host.Config.PciPassthru",
	"HostPciPassthruSystem.Refresh":                "Host.Config.Settings",
	"HostGraphicsManager.UpdateGraphicsConfig":     "Host.Config.Settings",
	"HostGraphicsManager.RefreshGraphicsManager":   "Host.Config.Settings",
	"Folder.CreateFolder":                          "Folder.Create",
	"Folder.Rename_Task":                           "Folder.Rename",
	"Folder.MoveIntoFolder_Task":                   "Folder.Move",
	"Datacenter.PowerOnMultiVM_Task":               "VirtualMachine.Interact.PowerOn",
	"ResourcePool.CreateResourcePool":              "Resource.CreatePool",
	"ResourcePool.UpdateConfig":                    "Resource.EditPool",
	"Task.CancelTask":                              "Global.CancelTask",
	"SessionManager.TerminateSession":              "Sessions.TerminateSession",
	"EventManager.LogUserEvent":                    "Global.LogEvent",
	"CustomFieldsManager.SetField":                 "Global.SetCustomField",
	"CustomFieldsManager.AddCustomFieldDef":        "Global.ManageCustomFields",
}

// harmless are the prefixes of methods that only read, or affect only the caller's session.
var harmless = []string{
	"Retrieve", "Query", "Find", "Fetch", "Has", "Wait", "Check", "Continue", "Read", "List", "Get", "Current",
	"CreateFilter", "CreatePropertyCollector", "CreateContainerView", "CreateListView", "CreateInventoryView",
	"CreateCollectorFor", "DestroyPropertyFilter", "DestroyPropertyCollector", "DestroyView", "DestroyCollector",
	"ModifyListView", "ResetListView", "ResetCollector", "RewindCollector", "SetCollectorPageSize",
	"CancelWaitForUpdates", "CancelCheckForUpdates", "CancelRetrievePropertiesEx",
	"Login", "Logout", "SessionIsActive", "AcquireCloneTicket", "CloneSession", "SetLocale",
	"ValidateMigration", "RefreshDatastore", "RefreshStorageInfo",
}

// needs lists the privileges for a call, in the order in which vCenter checks them.
func (lab *Lab) needs(method *simulator.Method) []need {
	switch request := method.Body.(type) {
	case *types.CloneVM_Task:
		return lab.cloneNeeds(request)
	case *types.ReconfigVM_Task:
		return lab.specNeeds(request.This, &request.Spec)
	case *types.RelocateVM_Task:
		return lab.relocateNeeds(request.This, request.Spec.Pool, request.Spec.Datastore)
	case *types.MigrateVM_Task:
		return lab.relocateNeeds(request.This, request.Pool, nil)
	case *types.Destroy_Task:
		return lab.destroyNeeds(request.This)
	case *types.MarkAsVirtualMachine:
		return []need{{"VirtualMachine.Provisioning.MarkAsVM", request.This}, {assignToPool, request.Pool}}
	case *types.CreateVM_Task:
		return []need{{"VirtualMachine.Inventory.Create", request.This}, {assignToPool, request.Pool}}
	case *types.RegisterVM_Task:
		return append([]need{{"VirtualMachine.Inventory.Register", request.This}}, when(request.Pool, assignToPool)...)
	}
	if privilege := methodPrivileges[method.This.Type+"."+method.Name]; privilege != "" {
		return []need{{privilege, method.This}}
	}
	for _, beginning := range harmless {
		if strings.HasPrefix(method.Name, beginning) {
			return lab.looksAt(method)
		}
	}
	return []need{{defaultPrivilege, method.This}}
}

// looksAt returns the privilege to see the object, which every call on an inventory object needs.
func (lab *Lab) looksAt(method *simulator.Method) []need {
	if _, ok := lab.entityOf(method.This); ok && method.Name != "Fetch" {
		return []need{{"System.View", method.This}}
	}
	return nil
}

// cloneNeeds are those of CloneVM_Task, of its folder and of the ConfigSpec. That a clone's disks
// need AddNewDisk, and its networks Network.Assign, is in "Required vCenter Server Privileges for
// Common Tasks" of the vSphere Security guide.
func (lab *Lab) cloneNeeds(request *types.CloneVM_Task) []need {
	provisioning, encrypted := "VirtualMachine.Provisioning.Clone", false
	var devices []types.BaseVirtualDevice
	if vm, ok := lab.registry.Get(request.This).(*simulator.VirtualMachine); ok {
		lab.locked(lab.context(nil), vm.Self, func() {
			if vm.Config.Template {
				provisioning = "VirtualMachine.Provisioning.DeployTemplate"
			}
			encrypted = vm.Config.KeyId != nil
			devices = vm.Config.Hardware.Device
		})
	}
	needs := []need{{provisioning, request.This}, {"VirtualMachine.Inventory.CreateFromExisting", request.Folder}}
	if encrypted {
		needs = append(needs, need{"Cryptographer.Clone", request.This})
	}
	needs = append(needs, when(request.Spec.Location.Pool, assignToPool)...)
	needs = append(needs, when(request.Spec.Location.Datastore, "Datastore.AllocateSpace")...)
	if request.Spec.Customization != nil {
		needs = append(needs, need{"VirtualMachine.Provisioning.Customize", request.This})
	}
	if slices.ContainsFunc(devices, isDisk) {
		needs = append(needs, need{"VirtualMachine.Config.AddNewDisk", request.Folder})
	}
	if request.Spec.Config != nil {
		needs = append(needs, lab.specNeeds(request.Folder, request.Spec.Config)...)
	}
	for _, network := range lab.networksOf(unchanged(devices, request.Spec.Config)) {
		needs = append(needs, need{assignNetwork, network})
	}
	if request.Spec.PowerOn {
		needs = append(needs, need{"VirtualMachine.Interact.PowerOn", request.Folder})
	}
	return needs
}

// unchanged returns the devices that the ConfigSpec does not mention.
func unchanged(devices []types.BaseVirtualDevice, spec *types.VirtualMachineConfigSpec) []types.BaseVirtualDevice {
	if spec == nil {
		return devices
	}
	return slices.DeleteFunc(slices.Clone(devices), func(device types.BaseVirtualDevice) bool {
		return slices.ContainsFunc(spec.DeviceChange, func(change types.BaseVirtualDeviceConfigSpec) bool {
			return change.GetVirtualDeviceConfigSpec().Device.GetVirtualDevice().Key == device.GetVirtualDevice().Key
		})
	})
}

func (lab *Lab) relocateNeeds(vm ref, pool, datastore *ref) []need {
	privilege := "Resource.ColdMigrate"
	if object, ok := lab.registry.Get(vm).(*simulator.VirtualMachine); ok && lab.powerState(lab.context(nil), object) == poweredOn {
		privilege = "Resource.HotMigrate"
	}
	needs := append([]need{{privilege, vm}}, when(pool, assignToPool)...)
	return append(needs, when(datastore, "Datastore.AllocateSpace")...)
}

// deleting is the privilege to destroy an object, which is needed on its parent as well.
var deleting = map[string]string{
	"VirtualMachine": "VirtualMachine.Inventory.Delete",
	"Folder":         "Folder.Delete",
	"ResourcePool":   "Resource.DeletePool",
}

func (lab *Lab) destroyNeeds(self ref) []need {
	privilege := deleting[self.Type]
	if privilege == "" {
		privilege = defaultPrivilege
	}
	return append([]need{{privilege, self}}, when(lab.parentOf(self), privilege)...)
}

// when returns the privilege on an object that a call may leave out.
func when(object *ref, privilege string) []need {
	if object == nil {
		return nil
	}
	return []need{{privilege, *object}}
}

// specNeeds returns the privileges for a ConfigSpec, which depend on what it changes: the reference
// of ReconfigVM_Task, and of each property of VirtualMachineConfigSpec.
func (lab *Lab) specNeeds(object ref, spec *types.VirtualMachineConfigSpec) []need {
	const config = "VirtualMachine.Config."
	var needs []need
	add := func(changed bool, privilege string) {
		if changed {
			needs = append(needs, need{privilege, object})
		}
	}
	for _, change := range spec.DeviceChange {
		c := change.GetVirtualDeviceConfigSpec()
		disk, device := isDisk(c.Device), c.Device.GetVirtualDevice()
		edit := c.Operation == types.VirtualDeviceConfigSpecOperationEdit
		remove := c.Operation == types.VirtualDeviceConfigSpecOperationRemove
		add(edit, config+"EditDevice")
		add(disk && remove, config+"RemoveDisk")
		add(disk && !edit && !remove && c.FileOperation == "", config+"AddExistingDisk")
		add(disk && !edit && !remove && c.FileOperation != "", config+"AddNewDisk")
		add(!disk && !edit, config+"AddRemoveDevice")
		add(edit && device.Connectable != nil, "VirtualMachine.Interact.DeviceConnection")
		if card, ok := c.Device.(types.BaseVirtualEthernetCard); ok && !remove {
			needs = append(needs, when(lab.assigned(card.GetVirtualEthernetCard()), assignNetwork)...)
		}
	}
	add(spec.NumCPUs != 0 || spec.CpuHotAddEnabled != nil, config+"CPUCount")
	add(spec.MemoryMB != 0 || spec.MemoryHotAddEnabled != nil, config+"Memory")
	add(len(spec.ExtraConfig) > 0, config+"AdvancedConfig")
	add(spec.MemoryReservationLockedToMax != nil || spec.MemoryAllocation != nil || spec.CpuAllocation != nil, config+"Resource")
	add(spec.Annotation != "", config+"Annotation")
	add(spec.Name != "", config+"Rename")
	add(spec.Firmware != "" || spec.InstanceUuid != "" || spec.Uuid != "" || spec.GuestId != "" || spec.BootOptions != nil ||
		spec.Tools != nil || spec.Flags != nil, config+"Settings")
	return needs
}

func isDisk(device types.BaseVirtualDevice) bool {
	_, ok := device.(*types.VirtualDisk)
	return ok
}

// assigned returns the network that a request connects the card to; it may give the name only.
func (lab *Lab) assigned(card *types.VirtualEthernetCard) *ref {
	name, network := lab.networkOf(card)
	if named, ok := lab.networks[name]; ok && network == nil {
		network = &named
	}
	return network
}
