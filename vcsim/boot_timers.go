package main

import (
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// boots holds the timers of booting guests, and which VMs are on their way to power-on.
type boots struct {
	sync.Mutex
	timers   map[ref]*time.Timer
	starting map[ref]ref // the task that works on the VM
}

func newBoots() *boots {
	return &boots{timers: map[ref]*time.Timer{}, starting: map[ref]ref{}}
}

// begin is a fault that names the task which switches the VM on, or removes it, already.
func (b *boots) begin(vm, task ref) fault {
	b.Lock()
	defer b.Unlock()
	if other, ok := b.starting[vm]; ok {
		return &types.TaskInProgress{Task: other}
	}
	b.starting[vm] = task
	return nil
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
