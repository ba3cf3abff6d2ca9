package main

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/vmware/govmomi/vim25/types"
)

// DRS starts a VM on a host with a free GPU; a VM with a fixed device stays on its host.
func TestDRSStartsWhereAGPUIsFree(t *testing.T) {
	r := newRig(t, func(d *Description) { d.DRS = true })
	var homes = map[ref]int{}
	for _, name := range []string{"first", "second", "third"} {
		vm := r.clone(name, r.dynamicSpec("", 5624))
		r.finish(vm.PowerOn(r.ctx))
		homes[*r.readVM(vm, "runtime.host").Runtime.Host]++
	}
	if homes[r.host("esx-01")] != 2 || len(homes) != 2 {
		t.Errorf("they run on %v", homes)
	}
	fixed := r.clone("fixed", r.gpuSpecOn("esx-01", "0000:3b:00.0"))
	r.refusesPowerOn(fixed, "already in use")
	if host := *r.readVM(fixed, "runtime.host").Runtime.Host; host != r.host("esx-01") {
		t.Errorf("it was moved to %v", host)
	}
}

func customized(addresses ...string) *types.CustomizationSpec {
	spec := &types.CustomizationSpec{Identity: &types.CustomizationLinuxPrep{
		HostName: &types.CustomizationFixedName{Name: "named"}, Domain: "lab.local",
	}}
	for _, address := range addresses {
		spec.NicSettingMap = append(spec.NicSettingMap, types.CustomizationAdapterMapping{
			Adapter: types.CustomizationIPSettings{Ip: &types.CustomizationFixedIp{IpAddress: address}, SubnetMask: "255.255.0.0"},
		})
	}
	return spec
}

func byDHCP() []types.CustomizationAdapterMapping {
	return []types.CustomizationAdapterMapping{{Adapter: types.CustomizationIPSettings{Ip: &types.CustomizationDhcpIpGenerator{}}}}
}

// R10: customization sets the address, as long as the VM exists, and needs one setting per network
// card.
func TestCustomizationSetsTheAddress(t *testing.T) {
	r := newRig(t)
	spec := r.plainSpec("esx-01")
	spec.Customization = customized("127.77.9.9")
	vm := r.clone("fixed", spec)
	for range 2 {
		r.finish(vm.PowerOn(r.ctx))
		r.until("the address is there", func() bool {
			guest := r.readVM(vm, "guest").Guest
			return guest.IpAddress == "127.77.9.9"
		})
		r.finish(vm.PowerOff(r.ctx))
	}
	spec.Customization = customized("127.77.9.9", "127.77.9.10")
	fault := r.fails(r.startClone("two", spec), nil)
	if mismatch, ok := fault.(*types.NicSettingMismatch); !ok || mismatch.NumberOfNicsInVM != 1 {
		t.Errorf("%T", fault)
	}
}

// A3: cloud-init that has guestinfo never sees a customization specification, and the cards that
// vCenter switched off for it stay off.
func TestGuestinfoReplacesCustomization(t *testing.T) {
	r := newRig(t)
	spec := r.plainSpec("esx-01")
	spec.Customization = customized("127.77.9.9")
	spec.Config.ExtraConfig = []types.BaseOptionValue{&types.OptionValue{Key: "guestinfo.metadata", Value: `{"instance-id": "i"}`}}
	vm := r.clone("fixed", spec)
	r.finish(vm.PowerOn(r.ctx))
	r.until("Tools run", func() bool { return r.readVM(vm, "guest").Guest.ToolsRunningStatus == toolsRunning })
	m := r.readVM(vm, "guest", "config")
	if m.Guest.IpAddress != "" || len(m.Guest.Net) != 1 || m.Guest.Net[0].Connected {
		t.Errorf("%+v", m.Guest.Net)
	}
	if n := countEvents[*types.CustomizationSucceeded](r, vm.Reference()); n != 0 {
		t.Error("it was customized")
	}
}

// The network of guestinfo.metadata is set up at the first boot of an instance id, by MAC address; a
// card that it does not name gets no address.
func TestMetadataSetsTheAddress(t *testing.T) {
	r := newRig(t, func(d *Description) { d.Templates[0].NICs = ptr(3) })
	for name, network := range map[string]string{
		"plain": `{"version": 2, "ethernets": {"a": {"match": {"macaddress": "FIRST"}, "addresses": ["127.77.9.9/16"]}, "b": {"match": {"macaddress": "SECOND"}, "dhcp4": true}}}`,
		"ipv6":  `{"version": 2, "ethernets": {"a": {"match": {"macaddress": "FIRST"}, "addresses": ["2001:db8::9/64"]}, "b": {"match": {"macaddress": "SECOND"}, "dhcp4": true}}}`,
	} {
		vm := r.clone(name, r.plainSpec("esx-01"))
		macs := []string{}
		for _, card := range r.lab.cards(r.readVM(vm, "config").Config) {
			macs = append(macs, card.mac)
		}
		set := func(id, network string) {
			network = strings.NewReplacer("FIRST", macs[0], "SECOND", macs[1]).Replace(network)
			encoded := base64.StdEncoding.EncodeToString([]byte(network))
			metadata := fmt.Sprintf(`{"instance-id": "%s", "network": "%s", "network.encoding": "base64"}`, id, encoded)
			r.finish(vm.Reconfigure(r.ctx, types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{
				&types.OptionValue{Key: "guestinfo.metadata", Value: base64.StdEncoding.EncodeToString([]byte(metadata))},
				&types.OptionValue{Key: "guestinfo.metadata.encoding", Value: "base64"},
			}}))
		}
		boot := func() []types.GuestNicInfo {
			r.finish(vm.PowerOn(r.ctx))
			r.until("Tools run", func() bool { return r.readVM(vm, "guest").Guest.ToolsRunningStatus == toolsRunning })
			net := r.readVM(vm, "guest").Guest.Net
			r.finish(vm.PowerOff(r.ctx))
			return net
		}
		set("first", network)
		net := boot()
		want := map[string]string{"plain": "127.77.9.9", "ipv6": "2001:db8::9"}[name]
		if net[0].IpAddress[0] != want || !strings.HasPrefix(net[1].IpAddress[0], "127.78.") || len(net[2].IpAddress) != 0 {
			t.Errorf("%+v", net)
		}
		set("first", `{"version": 2, "ethernets": {}}`)
		if again := boot(); again[0].IpAddress[0] != want {
			t.Errorf("%+v", again)
		}
		set("second", `{"version": 2, "ethernets": {"b": {"match": {"macaddress": "SECOND"}, "dhcp4": true}}}`)
		if rebooted := boot(); len(rebooted[0].IpAddress) != 0 {
			t.Errorf("%+v", rebooted)
		}
	}
}

func TestATemplateCannotBeSnapshotted(t *testing.T) {
	r := newRig(t)
	_, err := r.template().CreateSnapshot(r.ctx, "base", "", false, false)
	if err == nil {
		t.Fatal("a snapshot of a template was accepted")
	}
}
