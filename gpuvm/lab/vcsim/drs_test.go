package main

import (
	"testing"

	"github.com/vmware/govmomi/vim25/types"
)

// DRS starts a VM where there is a card for it; a fixed device keeps its VM where it is.
func TestDRSStartsWhereACardIsFree(t *testing.T) {
	r := newRig(t, func(d *Description) { d.DRS = true })
	var homes = map[ref]int{}
	for _, name := range []string{"first", "second", "third"} {
		vm := r.clone(name, r.dynamicWish("", 5624))
		r.finish(vm.PowerOn(r.ctx))
		homes[*r.readVM(vm, "runtime.host").Runtime.Host]++
	}
	if homes[r.host("esx-01")] != 2 || len(homes) != 2 {
		t.Errorf("they run on %v", homes)
	}
	fixed := r.clone("fixed", r.wishOn("esx-01", "0000:3b:00.0"))
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

// R10: customization sets the address, for as long as the VM exists, and counts the cards.
func TestCustomizationSetsTheAddress(t *testing.T) {
	r := newRig(t)
	wish := r.plainWish("esx-01")
	wish.Customization = customized("127.77.9.9")
	vm := r.clone("fixed", wish)
	for range 2 {
		r.finish(vm.PowerOn(r.ctx))
		r.until("the address is there", func() bool {
			guest := r.readVM(vm, "guest").Guest
			return guest.IpAddress == "127.77.9.9"
		})
		r.finish(vm.PowerOff(r.ctx))
	}
	wish.Customization = customized("127.77.9.9", "127.77.9.10")
	fault := r.fails(r.startClone("two", wish), nil)
	if mismatch, ok := fault.(*types.NicSettingMismatch); !ok || mismatch.NumberOfNicsInVM != 1 {
		t.Errorf("%T", fault)
	}
}

func TestATemplateCannotBeSnapshotted(t *testing.T) {
	r := newRig(t)
	_, err := r.template().CreateSnapshot(r.ctx, "base", "", false, false)
	if err == nil {
		t.Fatal("a snapshot of a template was accepted")
	}
}
