package main

import (
	"fmt"
	"log"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// taskLife is how long vCenter keeps a task after its end.
const taskLife = 10 * time.Minute

// operation is a task that takes time: it is queued, reports progress and can be cancelled. The
// simulator's tasks hold their object's lock from start to end; these hold none while they wait.
type operation struct {
	lab    *Lab
	ctx    *simulator.Context // its own, because locks belong to a context
	task   *simulator.Task
	cancel chan struct{}
	once   sync.Once
}

// operations knows the tasks that can be cancelled.
type operations struct {
	sync.Mutex
	running map[ref]*operation
	count   atomic.Int64
}

func newOperations() *operations {
	return &operations{running: map[ref]*operation{}}
}

// begin starts run as a task on entity and returns the task at once. The task is queued until run
// calls started.
func (lab *Lab) begin(ctx *simulator.Context, entity ref, name, description string,
	run func(*operation) (types.AnyType, fault)) ref {
	number := 1_000_000 + lab.tasks.count.Add(1) // above the simulator's own numbers
	task := simulator.CreateTask(entity, name, nil)
	task.Self = ref{Type: "Task", Value: fmt.Sprintf("task-%d", number)}
	task.Info.Key, task.Info.Task = task.Self.Value, task.Self
	task.Info.Name, task.Info.DescriptionId = name, description
	task.Info.EntityName = lab.nameOf(entity)
	task.Info.Cancelable = true
	task.Info.EventChainId = int32(number)
	task.Info.Reason = &types.TaskReasonUser{UserName: ctx.Session.UserName}
	op := &operation{lab: lab, ctx: lab.context(ctx.Session), task: task, cancel: make(chan struct{})}
	lab.tasks.Lock()
	lab.tasks.running[task.Self] = op
	lab.tasks.Unlock()
	lab.locked(op.ctx, entity, func() { lab.registry.Put(task) })
	go op.execute(run)
	return task.Self
}

func (lab *Lab) nameOf(self ref) string {
	var name string
	if entity, ok := lab.registry.Get(self).(mo.Entity); ok {
		lab.locked(lab.context(nil), self, func() { name = entity.Entity().Name })
	}
	return name
}

func (op *operation) execute(run func(*operation) (types.AnyType, fault)) {
	result, fault := op.safely(run)
	op.lab.tasks.Lock()
	delete(op.lab.tasks.running, op.task.Self)
	op.lab.tasks.Unlock()
	now := time.Now()
	changes := []types.PropertyChange{
		{Name: "info.completeTime", Val: now},
		{Name: "info.cancelable", Val: false},
	}
	if fault != nil {
		changes = append(changes,
			types.PropertyChange{Name: "info.error", Val: types.LocalizedMethodFault{Fault: fault, LocalizedMessage: describe(fault)}},
			types.PropertyChange{Name: "info.state", Val: types.TaskInfoStateError})
	} else {
		changes = append(changes,
			types.PropertyChange{Name: "info.progress", Val: int32(100)},
			types.PropertyChange{Name: "info.result", Val: result},
			types.PropertyChange{Name: "info.state", Val: types.TaskInfoStateSuccess})
	}
	op.update(changes)
	time.AfterFunc(taskLife, func() { op.lab.forgetTask(op.task) })
}

// safely turns a panic into a failed task, so that one call does not end the program.
func (op *operation) safely(run func(*operation) (types.AnyType, fault)) (result types.AnyType, f fault) {
	defer func() {
		if problem := recover(); problem != nil {
			log.Printf("%s: %v\n%s", op.task.Info.Name, problem, debug.Stack())
			result, f = nil, &types.SystemError{Reason: fmt.Sprint(problem)}
		}
	}()
	return run(op)
}

// started moves the task from queued to running.
func (op *operation) started() {
	op.update([]types.PropertyChange{
		{Name: "info.startTime", Val: time.Now()},
		{Name: "info.state", Val: types.TaskInfoStateRunning},
	})
}

// work waits and reports progress from the first to the last percentage, in at most twenty steps.
// It returns RequestCanceled if the task was cancelled meanwhile.
func (op *operation) work(duration time.Duration, from, to int32) fault {
	const shortest = 20 * time.Millisecond
	steps := min(max(duration/shortest, 1), 20)
	for i := time.Duration(1); i <= steps; i++ {
		if fault := op.pause(duration / steps); fault != nil {
			return fault
		}
		progress := from + int32(i)*(to-from)/int32(steps)
		op.update([]types.PropertyChange{{Name: "info.progress", Val: min(progress, 99)}})
	}
	return nil
}

func (op *operation) pause(duration time.Duration) fault {
	timer := time.NewTimer(duration)
	defer timer.Stop()
	select {
	case <-op.cancel:
		return &types.RequestCanceled{}
	case <-timer.C:
		return nil
	}
}

func (op *operation) update(changes []types.PropertyChange) {
	op.lab.registry.AtomicUpdate(op.ctx, op.task, changes)
}

// requestCancel requests a running operation to stop. The operation itself then fails with
// RequestCanceled.
func (lab *Lab) requestCancel(task ref) bool {
	lab.tasks.Lock()
	op := lab.tasks.running[task]
	lab.tasks.Unlock()
	if op == nil {
		return false
	}
	op.update([]types.PropertyChange{{Name: "info.cancelled", Val: true}})
	op.once.Do(func() { close(op.cancel) })
	lab.slots.wake()
	return true
}

// forgetTask removes an old task, also from the lists of recent tasks.
func (lab *Lab) forgetTask(task *simulator.Task) {
	ctx := lab.context(nil)
	remove := func(list []ref) []ref {
		return slices.DeleteFunc(slices.Clone(list), func(r ref) bool { return r == task.Self })
	}
	lab.registry.Remove(ctx, task.Self)
	manager := lab.registry.Get(*lab.content().TaskManager).(*simulator.TaskManager)
	lab.editList(ctx, manager, "recentTask", &manager.RecentTask, remove)
	if entity, ok := lab.registry.Get(*task.Info.Entity).(mo.Entity); ok {
		lab.editList(ctx, entity, "recentTask", &entity.Entity().RecentTask, remove)
	}
}
