package main

import (
	"fmt"
	"slices"

	"github.com/vmware/govmomi/vim25/types"
)

// DeviceGroupDescription is a vendor device group: GPUs that are assigned together, because a link
// connects them. Several with the same name on a host can be assigned that many times.
type DeviceGroupDescription struct {
	Name    string   `json:"name"`
	Profile string   `json:"profile"` // a vGPU of each GPU; the whole GPUs if empty
	GPUs    []string `json:"gpus"`    // PCI addresses
}

func (h *HostDescription) checkGroups() error {
	for _, g := range h.DeviceGroups {
		if g.Name == "" || len(g.GPUs) < 2 {
			return fmt.Errorf("device group '%s' needs a name and two GPUs or more", g.Name)
		}
		for _, address := range g.GPUs {
			at := slices.IndexFunc(h.GPUs, func(d GPUDescription) bool { return d.PCIAddress == address })
			if at < 0 {
				return fmt.Errorf("device group '%s' names %s, which is no GPU of it", g.Name, address)
			}
			if g.Profile != "" && h.GPUs[at].profile(g.Profile) == nil {
				return fmt.Errorf("device group '%s': %s has no vGPU profile '%s'", g.Name, address, g.Profile)
			}
		}
	}
	return nil
}

// addGroups adds the groups that a host offers, once each, with a template of every device.
func (lab *Lab) addGroups(target *types.ConfigTarget, h *hardware, cards map[string]bool) {
	for _, group := range h.groups {
		known := slices.ContainsFunc(target.VendorDeviceGroupInfo, func(i types.VirtualMachineVendorDeviceGroupInfo) bool {
			return i.DeviceGroupName == group.Name
		})
		if known || !lab.atLeast("8.0") || (group.Profile != "" && !group.all(cards)) {
			continue
		}
		info := types.VirtualMachineVendorDeviceGroupInfo{
			VirtualMachineTargetInfo: types.VirtualMachineTargetInfo{Name: group.Name},
			DeviceGroupName:          group.Name,
			DeviceGroupDescription:   fmt.Sprintf("%d connected GPUs", len(group.GPUs)),
		}
		for i := range group.GPUs {
			info.ComponentDeviceInfo = append(info.ComponentDeviceInfo, group.component(h, i))
		}
		target.VendorDeviceGroupInfo = append(target.VendorDeviceGroupInfo, info)
	}
}

func (d *DeviceGroupDescription) component(h *hardware, i int) types.VirtualMachineVendorDeviceGroupInfoComponentDeviceInfo {
	card := h.gpu(d.GPUs[i])
	device := &types.VirtualPCIPassthrough{}
	device.DeviceGroupInfo = &types.VirtualDeviceDeviceGroupInfo{GroupInstanceKey: -1, SequenceId: int32(i + 1)}
	kind := types.VirtualMachineVendorDeviceGroupInfoComponentDeviceInfoComponentTypePciPassthru
	device.Backing = &types.VirtualPCIPassthroughDynamicBackingInfo{
		AllowedDevice: []types.VirtualPCIPassthroughAllowedDevice{
			{VendorId: int32(card.VendorID), DeviceId: int32(card.DeviceID)},
		},
	}
	if d.Profile != "" {
		kind = types.VirtualMachineVendorDeviceGroupInfoComponentDeviceInfoComponentTypeNvidiaVgpu
		device.Backing = &types.VirtualPCIPassthroughVmiopBackingInfo{Vgpu: d.Profile}
	}
	return types.VirtualMachineVendorDeviceGroupInfoComponentDeviceInfo{
		Type: string(kind), VendorName: card.VendorName, DeviceName: card.Name, Device: device,
	}
}

// groupChanges applies the rules of device groups to a spec: a group is added as a whole, removed
// as a whole, and never changed. It returns the VM's groups afterwards and the keys of the new
// ones.
func (lab *Lab) groupChanges(c *types.VirtualMachineConfigInfo, spec *types.VirtualMachineConfigSpec) (*types.VirtualMachineVirtualDeviceGroups, map[int32]int32, fault) {
	invalid := &types.InvalidArgument{InvalidProperty: "configSpec.deviceGroups"}
	added, removed := groupedDevices(c, spec)
	groups := slices.DeleteFunc(groupsOf(c), func(g *types.VirtualMachineVirtualDeviceGroupsVendorDeviceGroup) bool {
		return removed[g.GroupInstanceKey] == len(membersOf(c, g.GroupInstanceKey))
	})
	for _, g := range groups {
		if removed[g.GroupInstanceKey] > 0 || len(added[g.GroupInstanceKey]) > 0 {
			return nil, nil, invalid
		}
	}
	keys := map[int32]int32{}
	for _, requested := range requestedGroups(spec) {
		group := lab.groupNamed(requested.DeviceGroupName)
		if group == nil || !group.isMadeOf(added[requested.GroupInstanceKey]) {
			return nil, nil, invalid
		}
		own := *requested
		own.GroupInstanceKey = freeGroupKey(groups)
		keys[requested.GroupInstanceKey] = own.GroupInstanceKey
		groups = append(groups, &own)
	}
	for key := range added {
		if _, known := keys[key]; !known {
			return nil, nil, invalid
		}
	}
	return asGroups(groups), keys, nil
}

// intoGroups replaces the temporary group keys of added devices with the real ones.
func intoGroups(devices []types.BaseVirtualDevice, keys map[int32]int32) {
	for i, device := range devices {
		info := device.GetVirtualDevice().DeviceGroupInfo
		if info == nil || info.GroupInstanceKey >= 0 {
			continue
		}
		own := *info
		own.GroupInstanceKey = keys[info.GroupInstanceKey]
		devices[i] = cloneDevice(device)
		devices[i].GetVirtualDevice().DeviceGroupInfo = &own
	}
}

// groupGrants assigns one of the host's sets of GPUs to each group of the VM, or returns a fault.
// The caller holds the lock of the allocations.
func (a *admission) groupGrants(granted map[int32]grant) fault {
	for _, group := range groupsOf(a.config) {
		members := membersOf(a.config, group.GroupInstanceKey)
		offered := slices.DeleteFunc(slices.Clone(a.hardware.groups), func(d DeviceGroupDescription) bool {
			return d.Name != group.DeviceGroupName
		})
		if len(offered) == 0 {
			return devicePowerOnFault(message("msg.deviceGroup.unknown",
				"The host does not offer the device group '"+group.DeviceGroupName+"'."))
		}
		at := slices.IndexFunc(offered, func(d DeviceGroupDescription) bool { return a.hasFree(&d, granted) })
		if at < 0 {
			return devicePowerOnFault(message("msg.deviceGroup.noneFree",
				"No free devices are left for the device group '"+group.DeviceGroupName+"'."))
		}
		for i, device := range members {
			g := a.hardware.gpu(offered[at].GPUs[i])
			share := grant{gpu: g, profile: g.profile(offered[at].Profile)}
			if _, fault := a.mapped(share, granted); fault != nil {
				return fault
			}
			granted[device.Key] = share
		}
	}
	return nil
}

// hasFree reports whether every GPU of the set has space for its part.
func (a *admission) hasFree(d *DeviceGroupDescription, granted map[int32]grant) bool {
	for _, address := range d.GPUs {
		g := a.hardware.gpu(address)
		profile := g.profile(d.Profile)
		if profile == nil && (!a.active[address] || a.taken(g, granted)) {
			return false
		}
		if profile != nil && (!a.direct[address] || !a.fits(g, profile, granted)) {
			return false
		}
	}
	return true
}

func (d *DeviceGroupDescription) all(cards map[string]bool) bool {
	return !slices.ContainsFunc(d.GPUs, func(address string) bool { return !cards[address] })
}

func (lab *Lab) groupNamed(name string) *DeviceGroupDescription {
	for _, h := range lab.hosts {
		for i := range h.groups {
			if h.groups[i].Name == name {
				return &h.groups[i]
			}
		}
	}
	return nil
}

// isMadeOf reports whether the devices are exactly those of the group, one of each sequence id.
func (d *DeviceGroupDescription) isMadeOf(devices []*types.VirtualPCIPassthrough) bool {
	seen := map[int32]bool{}
	for _, device := range devices {
		backing, shared := device.Backing.(*types.VirtualPCIPassthroughVmiopBackingInfo)
		if shared != (d.Profile != "") || (shared && backing.Vgpu != d.Profile) {
			return false
		}
		id := device.DeviceGroupInfo.SequenceId
		if id < 1 || int(id) > len(d.GPUs) || seen[id] {
			return false
		}
		seen[id] = true
	}
	return len(devices) == len(d.GPUs)
}

// groupedDevices returns the devices that a spec adds, by group key, and how many it removes from
// each group.
func groupedDevices(c *types.VirtualMachineConfigInfo, spec *types.VirtualMachineConfigSpec) (map[int32][]*types.VirtualPCIPassthrough, map[int32]int) {
	added, removed := map[int32][]*types.VirtualPCIPassthrough{}, map[int32]int{}
	for _, change := range spec.DeviceChange {
		s := change.GetVirtualDeviceConfigSpec()
		device, ok := s.Device.(*types.VirtualPCIPassthrough)
		if !ok {
			continue
		}
		if s.Operation == types.VirtualDeviceConfigSpecOperationAdd && device.DeviceGroupInfo != nil {
			key := device.DeviceGroupInfo.GroupInstanceKey
			added[key] = append(added[key], device)
		}
		if s.Operation == types.VirtualDeviceConfigSpecOperationRemove {
			for _, present := range passthroughDevices(c) {
				if present.Key == device.Key && present.DeviceGroupInfo != nil {
					removed[present.DeviceGroupInfo.GroupInstanceKey]++
				}
			}
		}
	}
	return added, removed
}

func requestedGroups(spec *types.VirtualMachineConfigSpec) []*types.VirtualMachineVirtualDeviceGroupsVendorDeviceGroup {
	var requested []*types.VirtualMachineVirtualDeviceGroupsVendorDeviceGroup
	for _, g := range vendorGroups(spec.DeviceGroups) {
		if g.GroupInstanceKey < 0 {
			requested = append(requested, g)
		}
	}
	return requested
}

func groupsOf(c *types.VirtualMachineConfigInfo) []*types.VirtualMachineVirtualDeviceGroupsVendorDeviceGroup {
	return vendorGroups(c.DeviceGroups)
}

func vendorGroups(groups *types.VirtualMachineVirtualDeviceGroups) []*types.VirtualMachineVirtualDeviceGroupsVendorDeviceGroup {
	if groups == nil {
		return nil
	}
	var found []*types.VirtualMachineVirtualDeviceGroupsVendorDeviceGroup
	for _, g := range groups.DeviceGroup {
		if vendor, ok := g.(*types.VirtualMachineVirtualDeviceGroupsVendorDeviceGroup); ok {
			found = append(found, vendor)
		}
	}
	return found
}

func asGroups(groups []*types.VirtualMachineVirtualDeviceGroupsVendorDeviceGroup) *types.VirtualMachineVirtualDeviceGroups {
	if len(groups) == 0 {
		return nil
	}
	all := &types.VirtualMachineVirtualDeviceGroups{}
	for _, g := range groups {
		all.DeviceGroup = append(all.DeviceGroup, g)
	}
	return all
}

// membersOf returns the devices of a group in order.
func membersOf(c *types.VirtualMachineConfigInfo, key int32) []*types.VirtualPCIPassthrough {
	var members []*types.VirtualPCIPassthrough
	for _, d := range passthroughDevices(c) {
		if d.DeviceGroupInfo != nil && d.DeviceGroupInfo.GroupInstanceKey == key {
			members = append(members, d)
		}
	}
	slices.SortFunc(members, func(a, b *types.VirtualPCIPassthrough) int {
		return int(a.DeviceGroupInfo.SequenceId - b.DeviceGroupInfo.SequenceId)
	})
	return members
}

func freeGroupKey(groups []*types.VirtualMachineVirtualDeviceGroupsVendorDeviceGroup) int32 {
	key := int32(0)
	for _, g := range groups {
		key = max(key, g.GroupInstanceKey+1)
	}
	return key
}
