package main

import (
	"encoding/base64"
	"net/netip"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
	"gopkg.in/yaml.v3"
)

// cloudInit is the part of guestinfo.metadata that the guests' cloud-init reads (its VMware data
// source).
type cloudInit struct {
	InstanceID string    `yaml:"instance-id"`
	Network    yaml.Node `yaml:"network"`
	Encoding   string    `yaml:"network.encoding"`
}

// netplan is cloud-init's network config, version 2, as far as the lab's guests need it.
type netplan struct {
	Version   int `yaml:"version"`
	Ethernets map[string]struct {
		Match struct {
			MACAddress string `yaml:"macaddress"`
		} `yaml:"match"`
		DHCP4     bool     `yaml:"dhcp4"`
		DHCP6     bool     `yaml:"dhcp6"`
		Addresses []string `yaml:"addresses"`
	} `yaml:"ethernets"`
}

// readsGuestinfo reports whether cloud-init uses guestinfo. It uses the first data source that has
// data, and guestinfo comes before a customization specification, which is then never read.
func readsGuestinfo(c *types.VirtualMachineConfigInfo) bool {
	return option(c, "guestinfo.metadata") != "" || option(c, "guestinfo.userdata") != ""
}

// metadataOf returns the metadata, or nil if there is none or it cannot be read.
func metadataOf(c *types.VirtualMachineConfigInfo) *cloudInit {
	text := decoded(option(c, "guestinfo.metadata"), option(c, "guestinfo.metadata.encoding"))
	m := &cloudInit{}
	if text == "" || yaml.Unmarshal([]byte(text), m) != nil {
		return nil
	}
	return m
}

// plan returns the network configuration, or nil if the metadata has none.
func (m *cloudInit) plan() *netplan {
	p := &netplan{}
	var err error
	switch m.Network.Kind {
	case yaml.MappingNode:
		err = m.Network.Decode(p)
	case yaml.ScalarNode:
		err = yaml.Unmarshal([]byte(decoded(m.Network.Value, m.Encoding)), p)
	default:
		return nil
	}
	if err != nil || p.Version != 2 {
		return nil
	}
	return p
}

// give returns the fixed addresses of the network cards, and the cards without an address because
// the plan does not name them. All others use DHCP.
func (p *netplan) give(cards []cardInfo) (fixed map[int]netip.Prefix, silent map[int]bool) {
	fixed, silent = map[int]netip.Prefix{}, map[int]bool{}
	for i, card := range cards {
		silent[i] = true
		for _, e := range p.Ethernets {
			if !strings.EqualFold(e.Match.MACAddress, card.mac) {
				continue
			}
			for _, text := range e.Addresses {
				if prefix, err := netip.ParsePrefix(text); err == nil {
					fixed[i] = prefix
				}
			}
			_, has := fixed[i]
			silent[i] = !has && !e.DHCP4 && !e.DHCP6
		}
	}
	return fixed, silent
}

func decoded(value, encoding string) string {
	switch strings.ToLower(encoding) {
	case "":
		return value
	case "base64", "b64":
		text, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			return ""
		}
		return string(text)
	}
	return ""
}
