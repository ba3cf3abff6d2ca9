package main

import (
	"maps"
	"sync"

	"github.com/vmware/govmomi/simulator"
)

// anonymous is the name under which calls before a login are counted.
const anonymous = "anonymous"

// calls counts calls by user and method, and the values that they read, by user, type and path
// (R12).
type calls struct {
	sync.Mutex
	counts map[string]map[string]int
	values map[string]map[string]int
}

func newCalls() *calls {
	return &calls{counts: map[string]map[string]int{}, values: map[string]map[string]int{}}
}

func (c *calls) add(user, method string) {
	c.Lock()
	defer c.Unlock()
	of(c.counts, user)[method]++
}

// addValues counts the properties of an object that a call returned; unset ones are none.
func (c *calls) addValues(ctx *simulator.Context, kind string, paths []string) {
	user := ""
	if ctx.Session != nil {
		user = ctx.Session.UserName
	}
	c.Lock()
	defer c.Unlock()
	counts := of(c.values, user)
	for _, path := range paths {
		counts[kind+" "+path]++
	}
}

func (c *calls) read() map[string]map[string]int {
	c.Lock()
	defer c.Unlock()
	return copyOf(c.counts)
}

func (c *calls) readValues() map[string]map[string]int {
	c.Lock()
	defer c.Unlock()
	return copyOf(c.values)
}

func (c *calls) reset() {
	c.Lock()
	defer c.Unlock()
	clear(c.counts)
	clear(c.values)
}

func of(counts map[string]map[string]int, user string) map[string]int {
	if user == "" {
		user = anonymous
	}
	if counts[user] == nil {
		counts[user] = map[string]int{}
	}
	return counts[user]
}

func copyOf(counts map[string]map[string]int) map[string]map[string]int {
	copied := map[string]map[string]int{}
	for user, own := range counts {
		copied[user] = maps.Clone(own)
	}
	return copied
}
