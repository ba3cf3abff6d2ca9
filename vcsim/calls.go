package main

import (
	"maps"
	"sync"
)

// nobody is who calls before a login.
const nobody = "anonymous"

// calls counts by user and method (R12).
type calls struct {
	sync.Mutex
	counts map[string]map[string]int
}

func newCalls() *calls { return &calls{counts: map[string]map[string]int{}} }

func (c *calls) add(user, method string) {
	if user == "" {
		user = nobody
	}
	c.Lock()
	defer c.Unlock()
	if c.counts[user] == nil {
		c.counts[user] = map[string]int{}
	}
	c.counts[user][method]++
}

func (c *calls) read() map[string]map[string]int {
	c.Lock()
	defer c.Unlock()
	counts := map[string]map[string]int{}
	for user, methods := range c.counts {
		counts[user] = maps.Clone(methods)
	}
	return counts
}

func (c *calls) reset() {
	c.Lock()
	defer c.Unlock()
	clear(c.counts)
}
