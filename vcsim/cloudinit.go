package main

import (
	"encoding/base64"
	"net/netip"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
	"gopkg.in/yaml.v3"
)

// cloudInit is what a guest's cloud-init reads of guestinfo.metadata (its VMware data source).
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

// readsGuestinfo: cloud-init takes the first data source that has anything, and guestinfo comes
// before a customization specification, which it then never sees.
func readsGuestinfo(c *types.VirtualMachineConfigInfo) bool {
	return option(c, "guestinfo.metadata") != "" || option(c, "guestinfo.userdata") != ""
}

// metadataOf is nil where there is none, or none that can be read.
func metadataOf(c *types.VirtualMachineConfigInfo) *cloudInit {
	text := decoded(option(c, "guestinfo.metadata"), option(c, "guestinfo.metadata.encoding"))
	m := &cloudInit{}
	if text == "" || yaml.Unmarshal([]byte(text), m) != nil {
		return nil
	}
	return m
}

// plan is the network configuration; nil where the metadata has none.
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

// give sorts the cards: those with fixed addresses, those that ask DHCP, and those that stay silent
// because the plan does not know them.
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
