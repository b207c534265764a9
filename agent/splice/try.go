// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// Notify has f called, from any goroutine, when what TryWrite or TryCloseWrite
// returned EBUSY for may have changed, and when the connection is closed by
// others than its owner. A sign may be lost on a busy machine: try again every
// second as well. Nobody may wait in Write or CloseWrite from then on. nil ends it.
func (c *Conn) Notify(f func()) {
	if f == nil {
		c.out.notify.Store(nil)
		return
	}
	c.out.notify.Store(&f)
}

// TryWrite is Write for those that wait themselves. It returns how many bytes
// were written, and unless that is all of them why: EAGAIN when TCP takes no more
// for now, EBUSY when the backend must first read more of what went past TCP
// (Notify), or else why the connection has failed.
func (c *Conn) TryWrite(p []byte) (int, error) {
	w := &c.out
	w.mu.Lock()
	defer w.mu.Unlock()
	w.p = p
	defer func() { w.p = nil }()
	for {
		if c.writeClosed.Load() {
			return len(p) - len(w.p), c.opError("write", syscall.EPIPE)
		}
		if w.free == 0 || len(w.p) > w.free {
			if err := c.tryCredit(len(w.p)); err != nil {
				return len(p) - len(w.p), err
			}
		}
		w.err, w.blocked = nil, false
		err := c.raw.Control(w.attempt)
		if err == nil {
			err = w.err
		}
		switch {
		case err == nil && len(w.p) == 0:
			return len(p), nil
		case err == nil && w.blocked:
			return len(p) - len(w.p), unix.EAGAIN
		case err == nil:
		case errors.Is(err, syscall.ENOMEM):
			w.refused = 1 // see Write
			if err := c.tryCredit(0); err != nil {
				return len(p) - len(w.p), err
			}
		default:
			return len(p) - len(w.p), c.explain("write", err)
		}
	}
}

// TryCloseWrite is CloseWrite for those that wait themselves. After EBUSY it is to
// be called again.
func (c *Conn) TryCloseWrite() error {
	w := &c.out
	c.writeClosed.Store(true)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := c.tryCredit(0); err != nil {
		return err
	}
	return c.sendEnd()
}

// tryCredit is awaitCredit without the wait.
func (c *Conn) tryCredit(want int) error {
	w := &c.out
	free, err := c.mayWrite(want)
	if err == nil && free == 0 && !w.awaiting {
		w.awaiting = true
		c.splicer.await(c)
		free, err = c.mayWrite(want) // the sign may have come before
	}
	if w.awaiting && (err != nil || free > 0) {
		w.awaiting = false
		c.splicer.awaitNoMore(c)
	}
	w.free = free
	switch {
	case err != nil:
		return c.explain("write", err)
	case free == 0:
		return unix.EBUSY
	}
	return nil
}
