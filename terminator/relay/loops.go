// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"slices"
	"time"

	"github.com/sluice-gateway/sluice/terminator/loop"
)

// Loops carry connections without a goroutine for each of them. A loop that has
// little to do waits more often, and each wait costs; so connections are together
// on as few loops as can do the work, and move as that changes.
type Loops struct {
	loops []*carrying
}

// carrying is one of the loops.
type carrying struct {
	*loop.Loop
	number int
	all    *Loops
	load   func() float64 // its share of a processor
	call   *call
	pipes  []*pipe // empty ones

	// Of the loop's goroutine: to whom it gives connections in this tick, and how
	// many more.
	tick uint32
	to   *carrying
	give int
	// warm are the connections that had events of late; more than those that moved
	// away since.
	warm  []*Looped
	timer *time.Timer // of the next look at them, or nil
}

// warmth is for how long a connection without events keeps its expanded keys.
const warmth = time.Second / 2

// Shares of a processor.
const (
	// full is where a loop begins to give connections to one that has less.
	full = 0.8
	// half is how much that one may have.
	half = 0.5
	// slack is how much a loop may have that gives its connections back, and
	// fits how much it and the one that gets them may have together.
	slack, fits = 0.25, 0.6
)

// NewLoops starts n loops. The caller closes them, after the last connection.
func NewLoops(n int) (*Loops, error) {
	l := &Loops{}
	for i := range n {
		one, err := loop.New()
		if err != nil {
			l.Close()
			return nil, err
		}
		l.loops = append(l.loops, &carrying{Loop: one, number: i, all: l, load: one.Load, call: newCall()})
	}
	return l, nil
}

// Close ends the loops.
func (l *Loops) Close() {
	if l == nil {
		return
	}
	for _, one := range l.loops {
		one.Close()
		for _, p := range one.pipes {
			p.close()
		}
	}
}

// Settled returns how many processors the loops have used of late for connections that
// were there before, and how many more they were ready to use while others had them.
func (l *Loops) Settled() (used, waited float64) {
	if l == nil {
		return 0, 0
	}
	for _, one := range l.loops {
		u, w := one.Settled()
		used, waited = used+u, waited+w
	}
	return used, waited
}

// pick returns the loop for a new connection: the first that has room.
func (l *Loops) pick() *carrying {
	least := l.loops[0]
	for _, one := range l.loops {
		if one.load() < half {
			return one
		}
		if one.load() < least.load() {
			least = one
		}
	}
	return least
}

// other returns the loop that a connection of l, which just had an event, is to
// move to; or nil.
func (l *carrying) other() *carrying {
	active, tick := l.Active()
	if tick != l.tick {
		l.tick = tick
		l.plan(active / 2) // a connection has two sockets
	}
	if l.give == 0 {
		return nil
	}
	l.give--
	return l.to
}

// touch notes that a connection has something to do.
func (l *carrying) touch(c *Looped) {
	c.busy = true
	if c.warm == l {
		return
	}
	c.warm = l
	l.warm = append(l.warm, c)
	if l.timer == nil {
		l.timer = time.AfterFunc(warmth, func() { _ = l.Post(l.cool) })
	}
}

// cool has connections rest that had nothing to do since the last time.
func (l *carrying) cool() {
	l.timer = nil
	l.warm = slices.DeleteFunc(l.warm, func(c *Looped) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch {
		case c.warm != l || c.loop.Load() != l || c.done == nil:
			return true
		case !c.busy:
			if c.record != nil {
				c.record.Rest()
			}
			c.warm = nil
			return true
		}
		c.busy = false
		return false
	})
	if len(l.warm) == 0 {
		l.warm = nil
		return
	}
	l.timer = time.AfterFunc(warmth, func() { _ = l.Post(l.cool) })
}

// plan looks, once in a tick, whether connections are to move.
func (l *carrying) plan(active int) {
	l.give = 0
	load := l.load()
	switch {
	case load > full && active > 1:
		for _, one := range l.all.loops {
			if one != l && one.load() < half && (l.give == 0 || one.load() < l.to.load()) {
				l.to, l.give = one, active/4+1
			}
		}
	case load < slack:
		for _, one := range l.all.loops[:l.number] {
			if one.load()+load < fits {
				l.to, l.give = one, active
				return
			}
		}
	}
}

// Prepare returns a connection that is to be carried as [Carry] or [TCP] does, or
// nil if its sides are not of the kind that a loop carries: a client in the record
// loop or without TLS, and a backend without TLS, both on sockets. Without loops it
// is nil for all.
func (l *Loops) Prepare(client, backend Side, p *Progress) *Looped {
	if l == nil || client.TLS != nil || backend.TLS != nil || backend.Record != nil {
		return nil
	}
	c := &Looped{record: client.Record, progress: p}
	c.loop.Store(l.pick())
	if !c.client.init(c, client.Leg) || !c.backend.init(c, backend.Leg) {
		return nil
	}
	if c.record != nil {
		c.first, client.Wire.pending = client.Wire.pending, nil
		c.firstBuffer, client.Wire.buf = client.Wire.buf, nil
		c.record.SetWriter(&c.client)
	}
	return c
}
