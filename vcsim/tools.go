package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	toolsRunning    = string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
	toolsNotRunning = string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning)
)

// guestOff is vCenter's information on a guest whose Tools do not report: only that they are
// installed.
func guestOff() *types.GuestInfo {
	return &types.GuestInfo{
		ToolsStatus: types.VirtualMachineToolsStatusToolsNotRunning, ToolsRunningStatus: toolsNotRunning,
		ToolsVersionStatus: "guestToolsUnmanaged", ToolsVersionStatus2: "guestToolsUnmanaged", ToolsVersion: "12325",
		GuestState: "notRunning", GuestOperationsReady: types.NewBool(false),
		InteractiveGuestOperationsReady: types.NewBool(false), GuestStateChangeSupported: types.NewBool(false),
	}
}

// startGuest boots the guest: Tools report after boot_s, and after customization_s with a
// customization.
func (lab *Lab) startGuest(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	delay := seconds(lab.description.Timings.BootS)
	customization := lab.pendingCustomization(ctx, vm)
	if customization != nil {
		delay += seconds(lab.description.Timings.CustomizationS)
		lab.postCustomizationStarted(ctx, vm)
	}
	own := lab.context(ctx.Session)
	lab.bootTimers.start(vm.Self, delay, func() { lab.guestBooted(own, vm, customization) })
}

// bootedAlready is like startGuest, for VMs that have been running before.
func (lab *Lab) bootedAlready(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	cards := lab.cards(vm.Config)
	if lab.guests.has(oneMachineID, vm.Name) {
		cards = lab.addresses.leaseOne(string(oneMachineID), cards)
	} else {
		cards = lab.addresses.unrelated(cards)
	}
	lab.reportGuest(ctx, vm, lab.hostName(vm, nil), cards)
}

// restartGuest reboots the guest: Tools stop and report again later.
func (lab *Lab) restartGuest(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	lab.bootTimers.stop(vm.Self)
	now := time.Now()
	lab.changeVM(ctx, vm, func(m *mo.VirtualMachine) {
		m.Guest = guestOff()
		m.Runtime.BootTime = &now
	})
	lab.startGuest(ctx, vm)
}

func (lab *Lab) guestBooted(ctx *simulator.Context, vm *simulator.VirtualMachine, customization *types.CustomizationSpec) {
	if lab.guests.has(drops, lab.nameOf(vm.Self)) {
		lab.switchOff(ctx, vm)
		return
	}
	if customization != nil {
		failed := lab.guests.has(failsCustomization, lab.nameOf(vm.Self))
		if !failed {
			lab.connectCards(ctx, vm, true)
		}
		lab.postCustomizationEnded(ctx, vm, failed)
	}
	var found []cardInfo
	var metadata *cloudInit
	var unsealed bool
	lab.locked(ctx, vm.Self, func() {
		found, metadata = lab.cards(vm.Config), metadataOf(vm.Config)
		unsealed = hasTrouble(vm.Config, oneMachineID)
	})
	if customization != nil {
		lab.addresses.fix(vm.Self, found, fixedAddresses(customization))
	}
	name := lab.nameOf(vm.Self)
	if plan := lab.guests.network(vm.Self, name, metadata); plan != nil {
		fixed, silent := plan.give(found)
		lab.addresses.fix(vm.Self, found, fixed)
		for i := range found {
			found[i].connected = found[i].connected && !silent[i]
		}
	}
	var leased []cardInfo
	if unsealed || lab.guests.has(oneMachineID, name) {
		leased = lab.addresses.leaseOne(string(oneMachineID), found)
	} else {
		leased = lab.addresses.lease(vm.Self, found)
	}
	if lab.guests.has(isolated, name) && len(leased) > 0 {
		leased[0].address = lab.addresses.unreachable(leased[0].address)
	}
	lab.reportGuest(ctx, vm, lab.hostName(vm, customization), leased)
}

// hasTrouble returns whether the guest has one of the troubles that docs/lab.md lists.
func hasTrouble(c *types.VirtualMachineConfigInfo, trouble guestTrouble) bool {
	for _, one := range strings.Split(option(c, "guestinfo.lab.troubles"), ",") {
		if strings.TrimSpace(one) == string(trouble) {
			return true
		}
	}
	return false
}

// reportGuest publishes what VMware Tools in a running guest report (R10).
func (lab *Lab) reportGuest(ctx *simulator.Context, vm *simulator.VirtualMachine, hostName string, leased []cardInfo) {
	silent := lab.guests.has(noIP, lab.nameOf(vm.Self))
	lab.changeVM(ctx, vm, func(m *mo.VirtualMachine) {
		if m.Runtime.PowerState != poweredOn {
			return // it was powered off meanwhile
		}
		m.Guest.ToolsStatus = types.VirtualMachineToolsStatusToolsOk
		m.Guest.ToolsRunningStatus = toolsRunning
		m.Guest.GuestState = "running"
		m.Guest.GuestId, m.Guest.GuestFullName = m.Config.GuestId, m.Config.GuestFullName
		m.Guest.GuestFamily = string(types.VirtualMachineGuestOsFamilyLinuxGuest)
		m.Guest.GuestOperationsReady = types.NewBool(true)
		m.Guest.GuestStateChangeSupported = types.NewBool(true)
		m.Guest.HostName = hostName
		for _, card := range leased {
			m.Guest.Net = append(m.Guest.Net, card.report(silent))
		}
		if len(leased) > 0 && !silent {
			m.Guest.IpAddress = leased[0].address
		}
		m.GuestHeartbeatStatus = types.ManagedEntityStatusGreen
		m.Summary.QuickStats.GuestHeartbeatStatus = types.ManagedEntityStatusGreen
	})
}

// hostName returns the name that the customization or cloud-init's metadata sets, else the VM's
// name.
func (lab *Lab) hostName(vm *simulator.VirtualMachine, customization *types.CustomizationSpec) string {
	name := vm.Name
	if customization != nil {
		if prep, ok := customization.Identity.(*types.CustomizationLinuxPrep); ok {
			if fixed, ok := prep.HostName.(*types.CustomizationFixedName); ok {
				name = fixed.Name
			}
		}
	}
	return strings.ToLower(strings.ReplaceAll(name, "_", "-"))
}

// cardInfo is a network card of a VM with its address.
type cardInfo struct {
	key     int32
	mac     string
	network string
	address string
	prefix  int32

	connected bool
}

func (lab *Lab) cards(c *types.VirtualMachineConfigInfo) []cardInfo {
	var found []cardInfo
	for _, device := range c.Hardware.Device {
		if card, ok := device.(types.BaseVirtualEthernetCard); ok {
			e := card.GetVirtualEthernetCard()
			info := cardInfo{key: e.Key, mac: e.MacAddress, connected: e.Connectable == nil || e.Connectable.StartConnected}
			info.network, _ = lab.networkOf(e)
			found = append(found, info)
		}
	}
	return found
}

// report returns the network card as Tools report it: always with its link-local IPv6 address, and
// with an IPv4 address if it has one.
func (c *cardInfo) report(silent bool) types.GuestNicInfo {
	nic := types.GuestNicInfo{Network: c.network, MacAddress: c.mac, Connected: c.connected, DeviceConfigId: c.key}
	config := &types.NetIpConfigInfo{}
	add := func(address string, prefix int32, origin string) {
		nic.IpAddress = append(nic.IpAddress, address)
		config.IpAddress = append(config.IpAddress, types.NetIpConfigInfoIpAddress{
			IpAddress: address, PrefixLength: prefix, Origin: origin, State: string(types.NetIpConfigInfoIpAddressStatusPreferred),
		})
	}
	if c.address != "" && !silent {
		add(c.address, c.prefix, "dhcp")
	}
	if c.connected {
		add(linkLocal(c.mac), 64, "linklayer")
	}
	nic.IpConfig = config
	return nic
}

func linkLocal(mac string) string {
	var b [6]byte
	if _, err := fmt.Sscanf(mac, "%02x:%02x:%02x:%02x:%02x:%02x", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5]); err != nil {
		return "fe80::1"
	}
	return fmt.Sprintf("fe80::%x:%xff:fe%02x:%x", uint16(b[0]^2)<<8|uint16(b[1]), b[2], b[3], uint16(b[4])<<8|uint16(b[5]))
}

// dropAddress removes the address of a running guest.
func (lab *Lab) dropAddress(vm *simulator.VirtualMachine) {
	lab.changeVM(lab.context(nil), vm, func(m *mo.VirtualMachine) {
		if m.Guest.ToolsRunningStatus != toolsRunning {
			return
		}
		m.Guest.IpAddress, m.Guest.Net = "", nil
		for _, card := range lab.cards(m.Config) {
			m.Guest.Net = append(m.Guest.Net, card.report(true))
		}
	})
}

// unplug disconnects a VM's network cards, now and at power-on, as in the vSphere Client. They get
// no address then.
func (lab *Lab) unplug(vm *simulator.VirtualMachine) {
	lab.guests.order(noIP, lab.nameOf(vm.Self))
	lab.connectCards(lab.context(nil), vm, false)
	lab.dropAddress(vm)
}
