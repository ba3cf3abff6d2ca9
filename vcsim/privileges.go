package main

import (
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// defaultPrivilege stands for the privilege of methods that change something and are not listed.
const defaultPrivilege = "System.Modify"

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
	"VirtualMachine.Destroy_Task":                  "VirtualMachine.Inventory.Delete",
	"VirtualMachine.UnregisterVM":                  "VirtualMachine.Inventory.Unregister",
	"VirtualMachine.Rename_Task":                   "VirtualMachine.Config.Rename",
	"VirtualMachine.CreateSnapshot_Task":           "VirtualMachine.State.CreateSnapshot",
	"VirtualMachine.CreateSnapshotEx_Task":         "VirtualMachine.State.CreateSnapshot",
	"VirtualMachine.RemoveAllSnapshots_Task":       "VirtualMachine.State.RemoveSnapshot",
	"VirtualMachine.RevertToCurrentSnapshot_Task":  "VirtualMachine.State.RevertToSnapshot",
	"VirtualMachineSnapshot.RevertToSnapshot_Task": "VirtualMachine.State.RevertToSnapshot",
	"VirtualMachineSnapshot.RemoveSnapshot_Task":   "VirtualMachine.State.RemoveSnapshot",
	"VirtualMachine.RelocateVM_Task":               "Resource.ColdMigrate",
	"VirtualMachine.MigrateVM_Task":                "Resource.HotMigrate",
	"VirtualMachine.CustomizeVM_Task":              "VirtualMachine.Provisioning.Customize",
	"VirtualMachine.MarkAsTemplate":                "VirtualMachine.Provisioning.MarkAsTemplate",
	"VirtualMachine.MarkAsVirtualMachine":          "VirtualMachine.Provisioning.MarkAsVM",
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
	"Folder.Destroy_Task":                          "Folder.Delete",
	"Folder.Rename_Task":                           "Folder.Rename",
	"Folder.MoveIntoFolder_Task":                   "Folder.Move",
	"Folder.CreateVM_Task":                         "VirtualMachine.Inventory.Create",
	"Folder.RegisterVM_Task":                       "VirtualMachine.Inventory.Register",
	"Datacenter.PowerOnMultiVM_Task":               "VirtualMachine.Interact.PowerOn",
	"ResourcePool.CreateResourcePool":              "Resource.CreatePool",
	"ResourcePool.Destroy_Task":                    "Resource.DeletePool",
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
		return specNeeds(request.This, &request.Spec)
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

func (lab *Lab) cloneNeeds(request *types.CloneVM_Task) []need {
	provisioning, encrypted := "VirtualMachine.Provisioning.Clone", false
	if vm, ok := lab.registry.Get(request.This).(*simulator.VirtualMachine); ok {
		lab.locked(lab.context(nil), vm.Self, func() {
			if vm.Config.Template {
				provisioning = "VirtualMachine.Provisioning.DeployTemplate"
			}
			encrypted = vm.Config.KeyId != nil
		})
	}
	needs := []need{{provisioning, request.This}, {"VirtualMachine.Inventory.CreateFromExisting", request.Folder}}
	if encrypted {
		needs = append(needs, need{"Cryptographer.Clone", request.This})
	}
	if pool := request.Spec.Location.Pool; pool != nil {
		needs = append(needs, need{"Resource.AssignVMToPool", *pool})
	}
	if datastore := request.Spec.Location.Datastore; datastore != nil {
		needs = append(needs, need{"Datastore.AllocateSpace", *datastore})
	}
	if request.Spec.Customization != nil {
		needs = append(needs, need{"VirtualMachine.Provisioning.Customize", request.This})
	}
	if request.Spec.Config != nil {
		needs = append(needs, specNeeds(request.Folder, request.Spec.Config)...)
	}
	if request.Spec.PowerOn {
		needs = append(needs, need{"VirtualMachine.Interact.PowerOn", request.Folder})
	}
	return needs
}

// specNeeds returns the privileges for a ConfigSpec, which depend on what it changes.
func specNeeds(object ref, spec *types.VirtualMachineConfigSpec) []need {
	const config = "VirtualMachine.Config."
	var needs []need
	add := func(when bool, privilege string) {
		if when {
			needs = append(needs, need{config + privilege, object})
		}
	}
	for _, change := range spec.DeviceChange {
		c := change.GetVirtualDeviceConfigSpec()
		_, disk := c.Device.(*types.VirtualDisk)
		edit := c.Operation == types.VirtualDeviceConfigSpecOperationEdit
		add(edit, "EditDevice")
		add(!edit && disk, "AddNewDisk")
		add(!edit && !disk, "AddRemoveDevice")
	}
	add(spec.NumCPUs != 0, "CPUCount")
	add(spec.MemoryMB != 0, "Memory")
	add(len(spec.ExtraConfig) > 0, "AdvancedConfig")
	add(spec.MemoryReservationLockedToMax != nil || spec.MemoryAllocation != nil || spec.CpuAllocation != nil, "Resource")
	add(spec.Annotation != "", "Annotation")
	add(spec.Name != "", "Rename")
	add(spec.Firmware != "" || spec.InstanceUuid != "" || spec.CpuHotAddEnabled != nil || spec.MemoryHotAddEnabled != nil || spec.Flags != nil, "Settings")
	return needs
}
