// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/terminator/loop"
	"github.com/sluice-gateway/sluice/terminator/record"
)

// Looped is a connection on a loop. All but Start and Check runs there, with mu
// held: it is for the moments when the connection moves to another loop.
//
// Each direction is read when its target has taken all of what came before: so
// much is held for a connection, and nothing while it is idle.
type Looped struct {
	mu       sync.Mutex
	loop     atomic.Pointer[carrying]
	warm     *carrying    // on whose list it is; nil: it rests
	record   *record.Conn // of the client; nil: it is plain
	progress *Progress
	done     func(End, error) // nil: not started, or over

	client, backend end
	// first came with the end of the handshake.
	first       []byte
	firstBuffer *buffer
	rest        *rest // of a record, n bytes; or nil
	n           int

	// upErr and downErr end a direction as soon as its target has all of it.
	upErr, downErr error
	// upDone and downDone: the end was passed on. downEnding: close_notify is
	// written, FIN not yet.
	upDone, downDone, downEnding bool

	placed bool // on the loop, and not still to come
	busy   bool // had an event since warm's loop looked

	timer *time.Timer // of the next look, while credit lacks
	acked uint64      // by the client, when its stream and that to it ended in order
}

// answers is how much may wait for a client beside what a backend sent: alerts
// and answers to new keys.
const answers = 16 << 10

// retry is after how long a backend that did not read enough is looked at again,
// should its sign have been lost.
const retry = time.Second

// Start has the connection carried. done is called when it is over, with both legs
// closed; mostly on the loop, so it must not wait.
func (c *Looped) Start(done func(End, error)) {
	err := errors.Join(loop.Leave(c.client.leg.(syscall.Conn)), loop.Leave(c.backend.leg.(syscall.Conn)))
	c.post(func() { c.start(done, err) })
}

// post has f called on the connection's loop.
func (c *Looped) post(f func()) {
	l := c.loop.Load()
	_ = l.Post(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.loop.Load() != l {
			c.post(f) // it has moved meanwhile
			return
		}
		f()
	})
}

// move gives the connection to another loop.
func (c *Looped) move(to *carrying) {
	from := c.loop.Load()
	if !c.placed {
		return // it is on its way to one
	}
	from.Remove(&c.client.watch)
	from.Remove(&c.backend.watch)
	c.placed = false
	c.loop.Store(to)
	c.post(func() {
		if c.done != nil {
			c.add(0)
		}
	})
}

// Check has the loop look at the connection's legs, which others may have
// closed. It may be called from anywhere.
func (c *Looped) Check() { c.post(c.look) }

func (c *Looped) start(done func(End, error), err error) {
	c.done = done
	if err != nil {
		c.over(BackendReset, err)
		return
	}
	if c.add(unix.EPOLLIN); c.done == nil {
		return
	}
	c.loop.Load().touch(c)
	if c.backend.try != nil {
		c.backend.try.Notify(c.Check)
	}
	if len(c.first) > 0 {
		b := c.firstBuffer
		c.open(c.first)
		if b != nil {
			b.put()
		}
		c.first, c.firstBuffer = nil, nil
		c.settle()
	}
}

// add puts the connection on its loop.
func (c *Looped) add(events uint32) {
	l := c.loop.Load()
	c.placed = true
	if err := l.Add(&c.backend.watch, c, events); err != nil {
		c.over(BackendReset, err)
	} else if err = l.Add(&c.client.watch, c, events); err != nil {
		c.over(ClientReset, err)
	}
	c.settle()
}

// look does whatever can be done.
func (c *Looped) look() {
	if c.done != nil {
		c.up()
	}
	if c.done != nil {
		c.down()
	}
	c.settle()
}

// Ready implements loop.Handler.
func (c *Looped) Ready(w *loop.Watch, events uint32) {
	const in = unix.EPOLLIN | unix.EPOLLHUP | unix.EPOLLERR | unix.EPOLLRDHUP
	const out = unix.EPOLLOUT | unix.EPOLLHUP | unix.EPOLLERR
	c.mu.Lock()
	defer c.mu.Unlock()
	c.loop.Load().touch(c)
	fromClient := w == &c.client.watch
	if events&out != 0 {
		if fromClient {
			c.flushDown()
		} else {
			c.flushUp()
		}
	}
	if c.done != nil && events&in != 0 {
		if fromClient {
			c.up()
		} else {
			c.down()
		}
	}
	if c.settle(); c.done == nil {
		return
	}
	if to := c.loop.Load().other(); to != nil {
		c.move(to)
	}
}

// settle waits for what the connection can go on with.
func (c *Looped) settle() {
	if c.done == nil {
		return
	}
	var client, backend uint32
	if c.upErr == nil && c.backend.empty() && c.client.held() <= sealedBulk+answers {
		client |= unix.EPOLLIN
	}
	if !c.client.empty() {
		client |= unix.EPOLLOUT
	}
	if c.downErr == nil && c.client.empty() {
		backend |= unix.EPOLLIN
	}
	if c.backend.blocked && !c.backend.empty() {
		backend |= unix.EPOLLOUT
	}
	if c.backend.credit && c.timer == nil {
		c.timer = time.AfterFunc(retry, func() {
			c.post(func() {
				c.timer = nil
				c.look()
			})
		})
	}
	l := c.loop.Load()
	if err := l.Want(&c.client.watch, client); err != nil {
		c.over(ClientReset, err)
	} else if err := l.Want(&c.backend.watch, backend); err != nil {
		c.over(BackendReset, err)
	}
}

// finish ends a connection both of whose directions have ended.
func (c *Looped) finish() {
	if c.upDone && c.downDone {
		c.over(Done, nil)
	}
}

// over ends the connection; only its first call counts.
func (c *Looped) over(how End, err error) {
	done := c.done
	if done == nil {
		return
	}
	c.done = nil
	l := c.loop.Load()
	l.Forget(&c.backend.watch)
	if c.timer != nil {
		c.timer.Stop()
	}
	c.dropRest()
	c.client.drop()
	c.backend.drop()
	if c.backend.try != nil {
		c.backend.try.Notify(nil)
	}
	switch {
	case how == Done:
		l.Forget(&c.client.watch)
		Finish(c.backend.leg)
		Finish(c.client.leg)
	case how == ClientTLS, how == BackendReset && c.downDone:
		l.Remove(&c.client.watch)
		Abort(c.backend.leg)
		wait := settle
		if how == ClientTLS {
			wait = dismiss
		}
		go func() {
			wait(c.client.leg)
			Abort(c.client.leg)
			done(how, err)
		}()
		return
	default:
		l.Forget(&c.client.watch)
		Abort(c.backend.leg)
		Abort(c.client.leg)
	}
	done(how, err)
}
