package main

import (
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// bootTimers holds the timers of booting guests, and the VMs that are being powered on.
type bootTimers struct {
	sync.Mutex
	timers   map[ref]*time.Timer
	starting map[ref]ref // the task that is working on the VM
}

func newBootTimers() *bootTimers {
	return &bootTimers{timers: map[ref]*time.Timer{}, starting: map[ref]ref{}}
}

// begin returns a TaskInProgress fault if another task is powering the VM on or removing it.
func (b *bootTimers) begin(vm, task ref) fault {
	b.Lock()
	defer b.Unlock()
	if other, ok := b.starting[vm]; ok {
		return &types.TaskInProgress{Task: other}
	}
	b.starting[vm] = task
	return nil
}

func (b *bootTimers) end(vm ref) {
	b.Lock()
	defer b.Unlock()
	delete(b.starting, vm)
}

func (b *bootTimers) start(vm ref, delay time.Duration, booted func()) {
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

func (b *bootTimers) stop(vm ref) {
	b.Lock()
	defer b.Unlock()
	if timer := b.timers[vm]; timer != nil {
		timer.Stop()
		delete(b.timers, vm)
	}
}
