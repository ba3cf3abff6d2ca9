package main

import (
	"sync"
	"time"
)

// boots holds the timers of booting guests, and which VMs are on their way to power-on.
type boots struct {
	sync.Mutex
	timers   map[ref]*time.Timer
	starting map[ref]bool
}

func newBoots() *boots {
	return &boots{timers: map[ref]*time.Timer{}, starting: map[ref]bool{}}
}

// begin is false if a power-on of the VM is running already.
func (b *boots) begin(vm ref) bool {
	b.Lock()
	defer b.Unlock()
	if b.starting[vm] {
		return false
	}
	b.starting[vm] = true
	return true
}

func (b *boots) end(vm ref) {
	b.Lock()
	defer b.Unlock()
	delete(b.starting, vm)
}

func (b *boots) start(vm ref, delay time.Duration, booted func()) {
	b.Lock()
	defer b.Unlock()
	var timer *time.Timer
	timer = time.AfterFunc(delay, func() {
		b.Lock()
		current := b.timers[vm] == timer
		if current {
			delete(b.timers, vm)
		}
		b.Unlock()
		if current {
			booted()
		}
	})
	b.timers[vm] = timer
}

func (b *boots) stop(vm ref) {
	b.Lock()
	defer b.Unlock()
	if timer := b.timers[vm]; timer != nil {
		timer.Stop()
		delete(b.timers, vm)
	}
}
