package main

import (
	"strings"
	"testing"

	"github.com/vmware/govmomi/vim25/types"
)

// R1: hosts and GPUs are those of the description.
func TestHostsAreDescribed(t *testing.T) {
	r := newRig(t, func(d *Description) {
		d.Hosts[0].Model = "PowerEdge R750"
		d.Hosts[0].GPUs[0].DeviceID = 0x8123
		d.Hosts[0].GPUs[1].Passthrough = &Passthrough{Capable: true, Enabled: true}
	})
	h := r.readHost("esx-01", "hardware", "config.pciPassthruInfo", "config.graphicsInfo", "summary.hardware")
	if h.Hardware.SystemInfo.Model != "PowerEdge R750" || h.Summary.Hardware.Vendor != "Dell Inc." {
		t.Errorf("%+v", h.Hardware.SystemInfo)
	}
	if h.Hardware.MemorySize != 64<<30 || h.Hardware.CpuInfo.NumCpuCores != 28 {
		t.Errorf("%d bytes, %d cores", h.Hardware.MemorySize, h.Hardware.CpuInfo.NumCpuCores)
	}
	for _, d := range h.Hardware.PciDevice {
		if d.Id == "0000:3b:00.0" && (d.DeviceId != -32477 || d.VendorId != 4318 || d.ClassId != 0x302 || d.Bus != 0x3b) {
			t.Errorf("ids are not signed shorts: %+v", d)
		}
	}
	for _, base := range h.Config.PciPassthruInfo {
		info := base.GetHostPciPassthruInfo()
		if info.Id == "0000:af:00.0" && (!info.PassthruEnabled || info.PassthruActive || info.DependentDevice != info.Id) {
			t.Errorf("%+v", info)
		}
	}
	if h.Config.GraphicsInfo[0].MemorySizeInKB != 16<<20 {
		t.Errorf("%d KB of graphics memory", h.Config.GraphicsInfo[0].MemorySizeInKB)
	}
}

func TestDescriptionRejectsUnknownValues(t *testing.T) {
	for text, complaint := range map[string]string{
		`{"hosts": [{"name": "a", "gpu": []}]}`:                                      `unknown field "gpu"`,
		`{"hosts": []}`:                                                              "at least one",
		`{"hosts": [{"name": "a"}, {"name": "a"}]}`:                                  "there twice",
		`{"hosts": [{"name": "a", "gpus": [{"pci_address": "3b:00.0"}]}]}`:           "does not look like",
		`{"hosts": [{"name": "a"}], "templates": [{"name": "t", "host": "b"}]}`:      "no host 'b'",
		`{"hosts": [{"name": "a"}], "address_block": "127.77.0.0"}`:                  "not an IPv4 block",
		`{"hosts": [{"name": "a"}], "users": [{"name": "u", "role": "owner"}]}`:      "none of admin",
		`{"hosts": [{"name": "a"}], "about": {"api_version": "eight"}}`:              "api_version",
		`{"hosts": [{"name": "a"}], "vms": [{"power": "maybe"}]}`:                    "none of on, off",
		`{"hosts": [{"name": "a", "graphics_type": "direct"}]}`:                      "graphics_type",
		`{"hosts": [{"name": "a"}], "datastores": [{"name": "d", "free": 1}]}`:       `unknown field "free"`,
		`{"hosts": [{"name": "a"}], "templates": [{"name": "t", "datastore": "x"}]}`: "no datastore 'x'",
	} {
		_, err := parseDescription([]byte(text))
		if err == nil || !strings.Contains(err.Error(), complaint) {
			t.Errorf("%s: %v, expected %q", text, err, complaint)
		}
	}
}

// R2: the same PCI address on two hosts, each with its host's systemId; without a host, the union.
func TestConfigTargetIsPerHost(t *testing.T) {
	r := newRig(t)
	systemIDs := func(host string) (ids []string) {
		for _, p := range r.configTarget(host).PciPassthrough {
			info := p.GetVirtualMachinePciPassthroughInfo()
			ids = append(ids, info.SystemId+" "+info.PciDevice.Id)
		}
		return ids
	}
	first, second, all := systemIDs("esx-01"), systemIDs("esx-02"), systemIDs("")
	if len(first) != 2 || len(second) != 1 || len(all) != 3 {
		t.Fatalf("%v, %v, %v", first, second, all)
	}
	if first[0] == second[0] || strings.Fields(first[0])[1] != strings.Fields(second[0])[1] {
		t.Errorf("%s and %s", first[0], second[0])
	}
	uuid := r.readHost("esx-01", "hardware.systemInfo.uuid").Hardware.SystemInfo.Uuid
	if strings.HasPrefix(first[0], uuid) {
		t.Error("the systemId is the mainboard's uuid: a client that reads the wrong one would pass")
	}
	_, err := queryConfigTarget(r.ctx, r.client.Client, &types.QueryConfigTarget{
		This: r.lab.browser(), Host: &types.ManagedObjectReference{Type: "HostSystem", Value: "host-none"},
	})
	if _, ok := faultOf(t, err).(*types.ManagedObjectNotFound); !ok {
		t.Errorf("unknown host: %v", err)
	}
}
