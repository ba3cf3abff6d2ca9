package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
)

// describe returns vCenter's text for a fault, for task errors and SOAP faults. The simulator
// leaves it empty or uses the name of the Go type.
func describe(f fault) string {
	switch x := f.(type) {
	case *types.GenericVmConfigFault:
		return x.Reason
	case *types.DuplicateName:
		return fmt.Sprintf("The name '%s' already exists.", x.Name)
	case *types.InvalidPowerState:
		return fmt.Sprintf("The attempted operation cannot be performed in the current state (%s).", stateName(x.ExistingState))
	case *types.InvalidArgument:
		return "A specified parameter was not correct: " + x.InvalidProperty
	case *types.InvalidName:
		return fmt.Sprintf("The name '%s' is invalid.", x.Name)
	case *types.NoDiskSpace:
		return fmt.Sprintf("Insufficient disk space on datastore '%s'.", x.Datastore)
	case *types.NoPermission:
		return "Permission to perform this operation was denied. Required privilege '" + x.PrivilegeId + "'"
	case *types.ManagedObjectNotFound:
		return fmt.Sprintf("The object '%s:%s' has already been deleted or has not been completely created", x.Obj.Type, x.Obj.Value)
	case *types.MethodNotFound:
		return fmt.Sprintf("The method '%s' is not supported on the object '%s'.", x.Method, x.Receiver.Value)
	case *types.InsufficientHostMemoryCapacityFault:
		return fmt.Sprintf("The host does not have sufficient memory resources to satisfy the reservation (%d MB wanted, %d MB free).",
			x.Requested>>20, x.Unreserved>>20)
	case types.BaseInvalidDeviceSpec:
		return fmt.Sprintf("Invalid configuration for device '%d'.", x.GetInvalidDeviceSpec().DeviceIndex)
	}
	name := strings.TrimSuffix(reflect.TypeOf(f).Elem().Name(), "Fault")
	if text := plainMessages[name]; text != "" {
		return text
	}
	return name
}

// reasons returns all messages of a fault.
func reasons(f fault) string {
	texts := []string{describe(f)}
	for _, m := range f.GetMethodFault().FaultMessage {
		if !slices.Contains(texts, m.Message) {
			texts = append(texts, m.Message)
		}
	}
	return strings.Join(texts, " ")
}

var plainMessages = map[string]string{
	"NotAuthenticated":                   "The session is not authenticated.",
	"InvalidLogin":                       "Cannot complete login due to an incorrect user name or password.",
	"InvalidState":                       "The operation is not allowed in the current state.",
	"HostNotConnected":                   "Unable to communicate with the remote host, since it is disconnected.",
	"HostNotReachable":                   "Unable to communicate with the remote host, since it is not reachable.",
	"RequestCanceled":                    "The task was canceled by a user.",
	"InsufficientGraphicsResources":      "The amount of graphics resource available in the parent resource pool is insufficient for the operation.",
	"NotSupported":                       "The operation is not supported on the object.",
	"ConcurrentAccess":                   "Cannot change the virtual machine's configuration: another task has changed it meanwhile.",
	"TaskInProgress":                     "The operation is not allowed: another task is already in progress.",
	"ToolsUnavailable":                   "Cannot complete operation because VMware Tools is not running in this virtual machine.",
	"ResourceInUse":                      "The resource is in use.",
	"HostConfig":                         "An error occurred during host configuration.",
	"Timedout":                           "Operation timed out.",
	"SnapshotFault":                      "An error occurred while taking a snapshot.",
	"VirtualHardwareVersionNotSupported": "The virtual hardware version is not supported.",
	"DeviceHotPlugNotSupported":          "Hot-plug is not supported for this device.",
	"InvalidCollectorVersion":            "The version of the update is not valid.",
	"MethodDisabled":                     "The method is disabled.",
}

func stateName(state types.VirtualMachinePowerState) string {
	switch state {
	case poweredOn:
		return "Powered on"
	case suspended:
		return "Suspended"
	}
	return "Powered off"
}
