package main

import (
	"maps"
	"sync"
)

// anonymous is the name under which calls before a login are counted.
const anonymous = "anonymous"

// calls counts calls by user and method (R12).
type calls struct {
	sync.Mutex
	counts map[string]map[string]int
}

func newCalls() *calls { return &calls{counts: map[string]map[string]int{}} }

func (c *calls) add(user, method string) {
	if user == "" {
		user = anonymous
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
