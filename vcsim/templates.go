package main

import (
	"fmt"
	"path"
	"sort"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

func (b *builder) addTemplates() error {
	for i := range b.lab.description.Templates {
		if err := b.lab.addTemplate(&b.lab.description.Templates[i]); err != nil {
			return err
		}
	}
	return nil
}

func (lab *Lab) addTemplate(t *TemplateDescription) error {
	ctx := lab.context(nil)
	p := placement{name: t.Name, host: lab.hostRefs[0], folder: lab.vmFolder, template: true}
	if t.Host != "" {
		p.host = lab.hostNamed(t.Host)
	}
	store := &lab.description.Datastores[0]
	for i := range lab.description.Datastores {
		if lab.description.Datastores[i].Name == t.Datastore {
			store = &lab.description.Datastores[i]
		}
	}
	p.datastore = lab.datastores[store.Name]
	for _, host := range lab.hostRefs {
		if t.Host == "" && store.mountedOn(lab.hosts[host].name) {
			p.host = host
			break
		}
	}
	config := newConfig(t.Name, t.GuestID, t.Firmware, t.HardwareVersion, t.CPUs, t.MemoryGiB<<10)
	config.Hardware.NumCoresPerSocket = &t.CoresPerSocket
	if t.MemoryLimitGiB != nil {
		limit := *t.MemoryLimitGiB << 10
		config.MemoryAllocation = mergeAllocation(config.MemoryAllocation, &types.ResourceAllocationInfo{Limit: &limit})
	}
	lab.setFiles(config, p.datastore)
	dir := path.Dir(config.Files.VmPathName)
	disk := newDisk(t.DiskGiB*gib, dir, p.datastore)
	if t.DiskUsedGiB != nil {
		lab.thin.make(disk, *t.DiskUsedGiB*gib)
	}
	config.Hardware.Device = append(config.Hardware.Device, disk)
	for i := range *t.NICs {
		network := lab.description.Networks[i%len(lab.description.Networks)]
		config.Hardware.Device = append(config.Hardware.Device, lab.newCard(int32(i), network))
	}
	for _, key := range sortedKeys(t.ExtraConfig) {
		config.ExtraConfig = append(config.ExtraConfig, &types.OptionValue{Key: key, Value: t.ExtraConfig[key]})
	}
	t.encrypt(config)
	config.Annotation = fmt.Sprintf("VM template of the lab: %s", t.GuestID)
	vm := lab.createVM(ctx, p, config)
	if t.Snapshot != "" {
		lab.addSnapshot(ctx, vm, t.Snapshot)
	}
	return nil
}

// addSnapshot gives a template the snapshot that linked clones need.
func (lab *Lab) addSnapshot(ctx *simulator.Context, vm *simulator.VirtualMachine, name string) {
	snapshot := &simulator.VirtualMachineSnapshot{}
	snapshot.Vm = vm.Self
	snapshot.Config = *vm.Config
	self := lab.registry.Put(snapshot).Reference()
	lab.changeVM(ctx, vm, func(m *mo.VirtualMachine) {
		m.RootSnapshot = []ref{self}
		m.Snapshot = &types.VirtualMachineSnapshotInfo{
			CurrentSnapshot: &self,
			RootSnapshotList: []types.VirtualMachineSnapshotTree{{
				Snapshot: self, Vm: vm.Self, Name: name, Id: 1, CreateTime: time.Now(),
				State: types.VirtualMachinePowerStatePoweredOff,
			}},
		}
	})
}

// addUnrelated adds VMs that are unrelated to gpuvm, without task, event or delay. A powered-on one
// holds its GPU and its memory like any other VM.
func (lab *Lab) addUnrelated(v *VMDescription) error {
	lab.adding.Lock()
	defer lab.adding.Unlock()
	if v.Agent && !lab.atLeast("7.0.1") {
		return nil // older versions have none
	}
	ctx := lab.context(nil)
	for i := 1; i <= *v.Count; i++ {
		vm := lab.addUnrelatedVM(ctx, v, i)
		if v.DRS != "" {
			lab.overrideDRS(ctx, vm.Self, v.DRS)
		}
		if v.Power != "on" {
			continue
		}
		if fault := lab.admit(ctx, vm); fault != nil {
			lab.unregister(ctx, vm)
			return fmt.Errorf("vm %s cannot be powered on: %s", vm.Name, reasons(fault))
		}
		lab.switchOn(ctx, vm)
		lab.bootedAlready(ctx, vm)
	}
	return nil
}

func (lab *Lab) addUnrelatedVM(ctx *simulator.Context, v *VMDescription, i int) *simulator.VirtualMachine {
	name := strings.ReplaceAll(v.Name, "{i}", fmt.Sprint(i))
	name = strings.ReplaceAll(name, "{uuid}", stableUUID("vm", fmt.Sprintf("%s %d", v.Name, i)))
	if name == v.Name && *v.Count > 1 {
		name = fmt.Sprintf("%s-%d", v.Name, i)
	}
	pool := lab.pool
	p := placement{name: name, pool: &pool, folder: lab.vmFolder, host: lab.hostRefs[(i-1)%len(lab.hostRefs)]}
	if v.Host != "" {
		p.host = lab.hostNamed(v.Host)
	}
	p.datastore = lab.datastores[lab.description.Datastores[0].Name]
	if v.Agent {
		return lab.addAgent(ctx, p)
	}
	config := newConfig(name, "rockylinux_64Guest", "efi", lab.defaultHardware(p.host), v.CPUs, v.MemoryGiB<<10)
	lab.setFiles(config, p.datastore)
	config.Hardware.Device = append(config.Hardware.Device,
		newDisk(20*gib, path.Dir(config.Files.VmPathName), p.datastore),
		lab.newCard(0, lab.description.Networks[0]))
	if g := lab.hosts[p.host].gpu(v.GPU); g != nil && i == 1 {
		attachGPU(config, g)
	}
	return lab.createVM(ctx, p, config)
}

// attachGPU adds a correctly configured fixed passthrough device.
func attachGPU(config *types.VirtualMachineConfigInfo, g *gpu) {
	device := &types.VirtualPCIPassthrough{}
	device.Key, device.ControllerKey, device.UnitNumber = 13000, 100, types.NewInt32(18)
	device.DeviceInfo = &types.Description{Label: "PCI device 0", Summary: g.Name}
	backing := &types.VirtualPCIPassthroughDeviceBackingInfo{
		Id: g.PCIAddress, DeviceId: fmt.Sprintf("%x", g.DeviceID), SystemId: g.host.systemID, VendorId: int16(g.VendorID),
	}
	backing.DeviceName = g.Name
	device.Backing = backing
	config.Hardware.Device = append(config.Hardware.Device, device)
	config.MemoryReservationLockedToMax = types.NewBool(true)
	applyAllocation(config, &types.VirtualMachineConfigSpec{})
	config.ExtraConfig = append(config.ExtraConfig,
		&types.OptionValue{Key: "pciPassthru.use64bitMMIO", Value: "TRUE"},
		&types.OptionValue{Key: "pciPassthru.64bitMMIOSizeGB", Value: fmt.Sprint(2 * powerOfTwo(g.mmioMiB()/1024))})
}

// defaultHardware returns the virtual hardware version of a VM that is created on this host.
func (lab *Lab) defaultHardware(host ref) string {
	return fmt.Sprintf("vmx-%d", min(newestFor(lab.hosts[host].given.Version), 20))
}

func (lab *Lab) hostNamed(name string) ref {
	for _, r := range lab.hostRefs {
		if lab.hosts[r].name == name {
			return r
		}
	}
	return ref{}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
