package main

import (
	"encoding/binary"
	"net/netip"
	"sync"
)

// addresses is the lab's DHCP server: the same card gets the same address while its VM exists.
type addresses struct {
	sync.Mutex
	block netip.Prefix
	vms   map[ref]map[string]netip.Prefix // keyed by VM and MAC address
	used  map[netip.Addr]bool
	other uint32 // how many addresses went to unrelated VMs

	identities map[string]netip.Prefix // leases of machines that have one DHCP identity
}

func newAddresses(block string) *addresses {
	return &addresses{
		block: netip.MustParsePrefix(block).Masked(), // already checked with the description
		vms:   map[ref]map[string]netip.Prefix{},
		used:  map[netip.Addr]bool{},

		identities: map[string]netip.Prefix{},
	}
}

// lease assigns addresses of the block to the network cards. A card gets none if the block is
// exhausted or the card is disconnected.
func (a *addresses) lease(vm ref, cards []cardInfo) []cardInfo {
	a.Lock()
	defer a.Unlock()
	if a.vms[vm] == nil {
		a.vms[vm] = map[string]netip.Prefix{}
	}
	for i := range cards {
		if !cards[i].connected {
			continue
		}
		had, ok := a.vms[vm][cards[i].mac]
		if !ok {
			address, free := a.free()
			if !free {
				continue
			}
			had = netip.PrefixFrom(address, a.block.Bits())
			a.vms[vm][cards[i].mac] = had
			a.used[address] = true
		}
		cards[i].address, cards[i].prefix = had.Addr().String(), int32(had.Bits())
	}
	return cards
}

// leaseOne assigns one address to the first card of every machine of the same DHCP identity, as a
// server does that goes by the client's DUID and not by its MAC address. The lease outlives the VMs.
func (a *addresses) leaseOne(identity string, cards []cardInfo) []cardInfo {
	a.Lock()
	defer a.Unlock()
	had, ok := a.identities[identity]
	if !ok {
		address, free := a.free()
		if !free {
			return cards
		}
		had = netip.PrefixFrom(address, a.block.Bits())
		a.identities[identity], a.used[address] = had, true
	}
	for i := range cards {
		if cards[i].connected {
			cards[i].address, cards[i].prefix = had.Addr().String(), int32(had.Bits())
			break
		}
	}
	return cards
}

// fix gives network cards the fixed addresses configured for the guest. They stay as long as the VM
// exists.
func (a *addresses) fix(vm ref, cards []cardInfo, fixed map[int]netip.Prefix) {
	a.Lock()
	defer a.Unlock()
	for i, address := range fixed {
		if i >= len(cards) {
			continue
		}
		if a.vms[vm] == nil {
			a.vms[vm] = map[string]netip.Prefix{}
		}
		a.vms[vm][cards[i].mac] = address
		a.used[address.Addr()] = true
	}
}

// unrelated assigns addresses outside the block, where nothing listens.
func (a *addresses) unrelated(cards []cardInfo) []cardInfo {
	a.Lock()
	defer a.Unlock()
	for i := range cards {
		n := a.other
		a.other++
		address := netip.AddrFrom4([4]byte{10, 77, byte(n / 254), byte(n%254 + 1)})
		cards[i].address, cards[i].prefix = address.String(), 16
	}
	return cards
}

// unreachable returns an address on a network that the lab's clients cannot reach.
func (a *addresses) unreachable(address string) string {
	bytes := netip.MustParseAddr(address).As16()
	return netip.AddrFrom4([4]byte{127, 255, bytes[14], bytes[15]}).String()
}

func (a *addresses) forget(vm ref) {
	a.Lock()
	defer a.Unlock()
	for _, address := range a.vms[vm] {
		delete(a.used, address.Addr())
	}
	delete(a.vms, vm)
}

// free returns the first unused address. It skips .0 and .255, so that every block of 256 looks
// like an ordinary network.
func (a *addresses) free() (netip.Addr, bool) {
	base := binary.BigEndian.Uint32(a.block.Addr().AsSlice())
	for n := uint32(1); n < uint32(1)<<(32-a.block.Bits()); n++ {
		var bytes [4]byte
		binary.BigEndian.PutUint32(bytes[:], base+n)
		address := netip.AddrFrom4(bytes)
		if last := bytes[3]; last != 0 && last != 255 && !a.used[address] {
			return address, true
		}
	}
	return netip.Addr{}, false
}
