package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/simulator/esx"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// placement is where a VM is placed.
type placement struct {
	name      string
	host      ref
	pool      *ref // nil for a template
	folder    ref
	datastore ref
	template  bool
}

// createVM creates a powered-off VM with this configuration and adds it to the inventory in one
// step, so that no client sees an incomplete VM.
func (lab *Lab) createVM(ctx *simulator.Context, p placement, config *types.VirtualMachineConfigInfo) *simulator.VirtualMachine {
	vm := &simulator.VirtualMachine{VirtualMachine: lab.blankVM(p, config)}
	vm.DataSets = map[string]*simulator.DataSet{}
	lab.registry.NewEntity(vm)
	vm.Summary.Vm = &vm.Self
	browser := &vmBrowser{vm: vm.Self}
	browser.Self = browserOf(vm.Self)
	vm.EnvironmentBrowser = browser.Self
	lab.registry.Put(browser)
	lab.register(ctx, vm, p.folder)
	return vm
}

func (lab *Lab) blankVM(p placement, config *types.VirtualMachineConfigInfo) mo.VirtualMachine {
	now := time.Now()
	host := p.host
	vm := mo.VirtualMachine{
		Config:               config,
		Capability:           vmCapability(),
		Layout:               &types.VirtualMachineFileLayout{},
		LayoutEx:             &types.VirtualMachineFileLayoutEx{Timestamp: now},
		Storage:              &types.VirtualMachineStorageInfo{Timestamp: now},
		ResourcePool:         p.pool,
		Datastore:            []ref{p.datastore},
		Guest:                guestOff(),
		GuestHeartbeatStatus: types.ManagedEntityStatusGray,
		Runtime: types.VirtualMachineRuntimeInfo{
			Host:                &host,
			ConnectionState:     types.VirtualMachineConnectionStateConnected,
			PowerState:          types.VirtualMachinePowerStatePoweredOff,
			FaultToleranceState: types.VirtualMachineFaultToleranceStateNotConfigured,
			RecordReplayState:   types.VirtualMachineRecordReplayStateInactive,
		},
	}
	vm.Name = p.name
	vm.Parent = &p.folder
	vm.Network = lab.networksOf(config.Hardware.Device)
	vm.Summary.QuickStats.GuestHeartbeatStatus = types.ManagedEntityStatusGray
	vm.Summary.QuickStats.FtLatencyStatus = types.ManagedEntityStatusGray
	vm.Summary.OverallStatus = types.ManagedEntityStatusGreen
	vm.Summary.Storage = lab.storage(config)
	config.Template = p.template
	summarize(&vm)
	return vm
}

// summarize updates vm.summary from the VM's other properties.
func summarize(vm *mo.VirtualMachine) {
	c := vm.Config
	vm.Summary.Runtime = vm.Runtime
	vm.Summary.Guest = &types.VirtualMachineGuestSummary{
		GuestId: c.GuestId, GuestFullName: c.GuestFullName, ToolsStatus: vm.Guest.ToolsStatus,
		ToolsVersionStatus: vm.Guest.ToolsVersionStatus, ToolsVersionStatus2: vm.Guest.ToolsVersionStatus2,
		ToolsRunningStatus: vm.Guest.ToolsRunningStatus, HostName: vm.Guest.HostName, IpAddress: vm.Guest.IpAddress,
	}
	s := &vm.Summary.Config
	s.Name, s.Template, s.Annotation = c.Name, c.Template, c.Annotation
	s.VmPathName, s.Uuid, s.InstanceUuid = c.Files.VmPathName, c.Uuid, c.InstanceUuid
	s.GuestId, s.GuestFullName, s.HwVersion = c.GuestId, c.GuestFullName, c.Version
	s.MemorySizeMB, s.NumCpu = c.Hardware.MemoryMB, c.Hardware.NumCPU
	s.MemoryReservation = int32(memoryReservationMB(c))
	s.NumEthernetCards, s.NumVirtualDisks, s.NumVmiopBackings = 0, 0, 0
	for _, device := range c.Hardware.Device {
		switch d := device.(type) {
		case types.BaseVirtualEthernetCard:
			s.NumEthernetCards++
		case *types.VirtualDisk:
			s.NumVirtualDisks++
		case *types.VirtualPCIPassthrough:
			if _, ok := d.Backing.(*types.VirtualPCIPassthroughVmiopBackingInfo); ok {
				s.NumVmiopBackings++
			}
		}
	}
}

func vmCapability() types.VirtualMachineCapability {
	return types.VirtualMachineCapability{
		SnapshotOperationsSupported: true, MultipleSnapshotsSupported: true, PoweredOffSnapshotsSupported: true,
		MemorySnapshotsSupported: true, RevertToSnapshotSupported: true, BootOptionsSupported: true,
		MemoryReservationLockSupported: true, MultipleCoresPerSocketSupported: true, DiskSharesSupported: true,
		SecureBootSupported: types.NewBool(true), ChangeTrackingSupported: true,
	}
}

// newConfig returns the configuration of a VM without disks and network cards.
func newConfig(name, guestID, firmware, version string, cpus int32, memoryMB int64) *types.VirtualMachineConfigInfo {
	none := types.DefaultResourceConfigSpec()
	now := time.Now()
	c := &types.VirtualMachineConfigInfo{
		Name: name, GuestId: guestID, GuestFullName: guestFullName(guestID), Firmware: firmware, Version: version,
		Uuid: uuid.NewString(), InstanceUuid: uuid.NewString(),
		Modified: now, ChangeVersion: now.UTC().Format(time.RFC3339Nano), CreateDate: &now,
		Tools: &types.ToolsConfigInfo{ToolsVersion: 12325, AfterPowerOn: types.NewBool(true), SyncTimeWithHost: types.NewBool(false),
			LastInstallInfo: &types.ToolsConfigInfoToolsLastInstallInfo{}},
		CpuAllocation:                &none.CpuAllocation,
		MemoryAllocation:             &none.MemoryAllocation,
		BootOptions:                  &types.VirtualMachineBootOptions{EfiSecureBootEnabled: types.NewBool(false)},
		LatencySensitivity:           &types.LatencySensitivity{Level: types.LatencySensitivitySensitivityLevelNormal},
		CpuHotAddEnabled:             types.NewBool(false),
		CpuHotRemoveEnabled:          types.NewBool(false),
		MemoryHotAddEnabled:          types.NewBool(false),
		MemoryReservationLockedToMax: types.NewBool(false),
		NestedHVEnabled:              types.NewBool(false),
		ChangeTrackingEnabled:        types.NewBool(false),
	}
	c.Hardware.NumCPU, c.Hardware.MemoryMB = cpus, int32(memoryMB)
	c.Hardware.NumCoresPerSocket = types.NewInt32(1)
	c.Hardware.Device = defaultDevices()
	c.ExtraConfig = []types.BaseOptionValue{
		&types.OptionValue{Key: "nvram", Value: name + ".nvram"},
		&types.OptionValue{Key: "svga.present", Value: "TRUE"},
	}
	return c
}

// setFiles gives the VM its folder on the datastore.
func (lab *Lab) setFiles(c *types.VirtualMachineConfigInfo, datastore ref) {
	store := lab.registry.Get(datastore).(*simulator.Datastore)
	folder := lab.names.folder(store.Name, c.Name)
	dir := fmt.Sprintf("[%s] %s", store.Name, folder)
	c.Files = types.VirtualMachineFileInfo{
		VmPathName: dir + "/" + c.Name + ".vmx", SnapshotDirectory: dir, SuspendDirectory: dir, LogDirectory: dir,
	}
	c.DatastoreUrl = []types.VirtualMachineConfigInfoDatastoreUrlPair{{Name: store.Name, Url: store.Summary.Url}}
	// The simulator's snapshots write files there and would fail without the folder.
	_ = os.MkdirAll(filepath.Join(store.Summary.Url, filepath.FromSlash(folder)), 0o700)
}

func guestFullName(id string) string {
	switch id {
	case "centos7_64Guest":
		return "CentOS 7 (64-bit)"
	case "rockylinux_64Guest":
		return "Rocky Linux (64-bit)"
	}
	return strings.TrimSuffix(id, "Guest")
}

// defaultDevices returns the controllers that every VM has. The objects are shared between VMs,
// which is safe because devices are never modified. The PCI controller lists each VM's own devices.
func defaultDevices() []types.BaseVirtualDevice {
	devices := slices.Clone(esx.VirtualDevice)
	for i, device := range devices {
		if pci, ok := device.(*types.VirtualPCIController); ok {
			own := *pci
			own.Device = slices.Clone(pci.Device)
			devices[i] = &own
		}
	}
	return append(devices, &types.ParaVirtualSCSIController{VirtualSCSIController: types.VirtualSCSIController{
		SharedBus: types.VirtualSCSISharingNoSharing,
		VirtualController: types.VirtualController{BusNumber: 0, VirtualDevice: types.VirtualDevice{
			Key: 1000, ControllerKey: 100, UnitNumber: types.NewInt32(3),
			DeviceInfo: &types.Description{Label: "SCSI controller 0", Summary: "VMware paravirtual SCSI"},
		}},
	}})
}

func (lab *Lab) browser() ref {
	return *lab.registry.Get(lab.cluster).(*simulator.ClusterComputeResource).EnvironmentBrowser
}
