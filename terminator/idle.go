// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"net"
	"syscall"
	"time"

	"github.com/sluice-gateway/sluice/terminator/relay"
)

// watch resets connections that moved no byte for their idle timeout. One look
// at all of them now and then costs less than a timer for each message.
func (s *Server) watch(stop <-chan struct{}) {
	for {
		st := s.snapshot.Load()
		shortest := min(s.HalfCloseTimeout, s.IdleTimeout)
		if st.idle > 0 {
			shortest = min(shortest, st.idle)
		}
		select {
		case <-stop:
			return
		case <-time.After(min(max(shortest/8, 5*time.Millisecond), 15*time.Second)):
		}
		now := time.Now()
		for _, c := range s.conns.all() {
			c.probe()
			if c.idleFor(now) > c.idleLimit() {
				c.abort(endIdle)
			}
		}
	}
}

// probe has the kernel ask after both peers, once a connection has lived for a moment:
// system calls and timers that a short one does not need.
func (c *connection) probe() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.probed || (c.backend == nil && !c.http) {
		return
	}
	c.probed = true
	for _, leg := range []any{c.client, c.backend} {
		if leg, ok := leg.(interface {
			SetKeepAliveConfig(net.KeepAliveConfig) error
		}); ok {
			_ = leg.SetKeepAliveConfig(c.s.keepAlive())
		}
	}
}

// idleFor returns for how long nothing has moved.
func (c *connection) idleFor(now time.Time) time.Duration {
	// A peer that takes what waits for it in the kernel moves bytes as well.
	n := c.progress.Up.Load() + c.progress.Down.Load() + relay.Moved(c.client)
	c.mu.Lock()
	backend := c.backend
	c.mu.Unlock()
	if sc, ok := backend.(syscall.Conn); ok {
		n += relay.Moved(sc)
	}
	if n != c.seen {
		c.seen, c.moved = n, now.Sub(c.known.start)
	}
	return now.Sub(c.known.start) - c.moved
}

func (c *connection) idleLimit() time.Duration {
	c.mu.Lock()
	l := c.listener
	c.mu.Unlock()
	limit := c.s.IdleTimeout
	if l != nil {
		limit = l.idle
	}
	if c.progress.Ended.Load() > 0 {
		limit = min(limit, c.s.HalfCloseTimeout)
	}
	return limit
}
