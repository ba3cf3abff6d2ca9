package main

import (
	"slices"
	"strings"
	"sync"
)

// hostSlots is how many provisioning operations vCenter runs on a host at once; more are queued.
const hostSlots = 8

// slots grants provisioning slots, first come first served. An operation takes the slots of all its
// hosts in one step, so that two operations never wait for each other.
type slots struct {
	mutex sync.Mutex
	moved *sync.Cond
	used  map[ref]int
	queue []*ticket
}

type ticket struct{ hosts []ref }

func newSlots() *slots {
	s := &slots{used: map[ref]int{}}
	s.moved = sync.NewCond(&s.mutex)
	return s
}

// acquire waits for a slot on each host. It returns false if the operation was cancelled before.
func (s *slots) acquire(givenUp func() bool, hosts ...ref) bool {
	slices.SortFunc(hosts, func(a, b ref) int { return strings.Compare(a.Value, b.Value) })
	t := &ticket{hosts: slices.Compact(hosts)}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.queue = append(s.queue, t)
	for !s.isTurn(t) {
		if givenUp() {
			s.leave(t)
			return false
		}
		s.moved.Wait()
	}
	s.leave(t)
	for _, host := range t.hosts {
		s.used[host]++
	}
	return true
}

func (s *slots) release(hosts ...ref) {
	slices.SortFunc(hosts, func(a, b ref) int { return strings.Compare(a.Value, b.Value) })
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, host := range slices.Compact(hosts) {
		s.used[host]--
	}
	s.moved.Broadcast()
}

// wake makes waiting operations check whether they were cancelled.
func (s *slots) wake() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.moved.Broadcast()
}

// isTurn reports whether every host has a free slot and no earlier operation waits for one of these
// hosts.
func (s *slots) isTurn(t *ticket) bool {
	for _, host := range t.hosts {
		if s.used[host] >= hostSlots {
			return false
		}
	}
	for _, earlier := range s.queue {
		if earlier == t {
			return true
		}
		if slices.ContainsFunc(earlier.hosts, func(h ref) bool { return slices.Contains(t.hosts, h) }) {
			return false
		}
	}
	return true
}

func (s *slots) leave(t *ticket) {
	s.queue = slices.DeleteFunc(s.queue, func(other *ticket) bool { return other == t })
	s.moved.Broadcast()
}
