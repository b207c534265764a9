// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bpf"
)

// maxWrite is how many bytes one write(2) takes at most.
const maxWrite = 64 << 10

// recheck is how often a writer that waits looks for itself, should a sign of
// the kernel half have been lost.
const recheck = time.Second

// writer is a Conn's way out: one write at a time, and none before the backend
// has read enough of what went past TCP.
type writer struct {
	mu      sync.Mutex
	flow    uint64 // the socket's cookie; 0: not asked yet
	free    int    // bytes that may be written before sl_may_write is asked
	written uint64 // bytes that write(2) has taken
	refused uint64 // 1: a redirect was, for want of memory
	p       []byte // what try is to write
	err     error  // of try
	try     func(fd uintptr) bool
	attempt func(fd uintptr)

	notify   atomic.Pointer[func()] // called when something has changed for who waits
	deadline atomic.Int64           // UnixNano; 0: none
	waiting  atomic.Bool
	closed   atomic.Bool

	blocked  bool // by TCP, in the last call of attempt
	awaiting bool // TryWrite or TryCloseWrite left with EBUSY
}

func (w *writer) init() {
	w.free = Credit
	w.try = w.once
	w.attempt = func(fd uintptr) { w.blocked = !w.once(fd) }
}

// Moved returns a figure that grows while the backend reads what Write or
// CloseWrite waits for. TCP's own figures do not show that.
func (c *Conn) Moved() int64 {
	if !c.out.waiting.Load() {
		return 0
	}
	if _, flow := c.look(); flow != nil {
		return int64(flow.Backend.Received)
	}
	return 0
}

// wake has whoever waits look again.
func (w *writer) wake() {
	if f := w.notify.Load(); f != nil {
		(*f)()
	}
}

// once writes what the socket takes of p, as far as credit goes. It returns
// false when the socket takes no more.
func (w *writer) once(fd uintptr) bool {
	for {
		p := w.p[:min(len(w.p), w.free, maxWrite)]
		// Without what the runtime does around system calls that may block: this
		// one does not.
		n, _, err := unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch err {
		case 0:
			w.p = w.p[n:]
			w.free -= int(n)
			w.written += uint64(n)
			if int(n) < len(p) {
				w.free = 0 // see Credit
			}
			if len(w.p) == 0 || w.free == 0 {
				return true
			}
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			w.err = os.NewSyscallError("write", err)
			return true
		}
	}
}

// Write writes like a TCP connection does; only, CloseWrite does not interrupt a
// Write that TCP's window keeps waiting. After CloseWrite it fails.
func (c *Conn) Write(p []byte) (int, error) {
	w := &c.out
	w.mu.Lock()
	defer w.mu.Unlock()
	w.p = p
	defer func() { w.p = nil }()
	for {
		if c.writeClosed.Load() {
			// A redirect would be delivered, after the end of file.
			return len(p) - len(w.p), c.opError("write", syscall.EPIPE)
		}
		if w.free == 0 || len(w.p) > w.free {
			if err := c.awaitCredit(max(1, len(w.p))); err != nil {
				return len(p) - len(w.p), c.explain("write", err)
			}
		}
		w.err = nil
		err := c.raw.Write(w.try)
		if err == nil {
			err = w.err
		}
		switch {
		case err == nil && len(w.p) == 0:
			return len(p), nil
		case err == nil:
		case errors.Is(err, syscall.ENOMEM):
			// A redirect met the backend's memory limit, or the kernel's. TCP knows
			// how to wait for memory: it gets the rest of this connection, once
			// the backend has read what it was redirected.
			w.refused = 1
			if err := c.awaitCredit(0); err != nil {
				return len(p) - len(w.p), c.explain("write", err)
			}
		default:
			return len(p) - len(w.p), c.explain("write", err)
		}
	}
}

// CloseWrite sends a FIN. First it waits, as long as Write would, until a Write
// in progress has returned and the backend has read every redirected byte: one
// that turns to splice(2) would take the FIN for the end without them.
func (c *Conn) CloseWrite() error {
	w := &c.out
	c.writeClosed.Store(true)
	w.wake()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := c.awaitCredit(0); err != nil {
		return c.explain("close", err)
	}
	return c.sendEnd()
}

// sendEnd sends a FIN. A backend that has ended its stream and then closed without
// reading all of ours does not reset: End cannot tell any more, so this does.
func (c *Conn) sendEnd() error {
	if c.endRead.Load() {
		if end, flow := c.look(); lost(end, flow) > 0 {
			return c.opError("close", syscall.ECONNRESET)
		}
	}
	c.ended.Store(true)
	return c.tcp.CloseWrite()
}

// awaitCredit waits until the kernel half lets the connection write: as many as
// want bytes, or half of Credit, whichever is less; for 0 a FIN.
func (c *Conn) awaitCredit(want int) error {
	w := &c.out
	free, err := c.mayWrite(want)
	if err != nil || free > 0 {
		w.free = free
		return err
	}
	sign := make(chan struct{}, 1)
	signal := func() {
		select {
		case sign <- struct{}{}:
		default:
		}
	}
	w.notify.Store(&signal)
	defer w.notify.Store(nil)
	s := c.splicer
	s.await(c)
	defer s.awaitNoMore(c)
	timer := time.NewTimer(recheck)
	defer timer.Stop()
	for {
		switch {
		case w.closed.Load():
			return net.ErrClosed
		case want > 0 && c.writeClosed.Load():
			return syscall.EPIPE
		}
		if w.free, err = c.mayWrite(want); err != nil || w.free > 0 {
			return err
		}
		pause := recheck
		if d := w.deadline.Load(); d != 0 {
			left := time.Until(time.Unix(0, d))
			if left <= 0 {
				return os.ErrDeadlineExceeded
			}
			pause = min(pause, left)
		}
		timer.Reset(pause)
		select {
		case <-sign:
		case <-timer.C:
		}
	}
}

// mayWrite asks sl_may_write.
func (c *Conn) mayWrite(want int) (int, error) {
	w, s := &c.out, c.splicer
	if w.flow == 0 {
		err := c.raw.Control(func(fd uintptr) {
			w.flow, _ = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE)
		})
		if err != nil {
			return 0, err
		}
	}
	s.use.RLock()
	defer s.use.RUnlock()
	if s.released {
		return 0, net.ErrClosed // as this connection is
	}
	n, err := s.objs.SlMayWrite.Run(&ebpf.RunOptions{
		Context: bpf.SpliceSlRequest{Flow: w.flow, Written: w.written, Want: uint64(want), Refused: w.refused},
	})
	if err != nil {
		return 0, fmt.Errorf("ask sl_may_write: %w", err)
	}
	return int(n), nil
}

// await has the events of c's flow wake it.
func (s *Splicer) await(c *Conn) {
	c.out.waiting.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting[c.out.flow] = c
}

func (s *Splicer) awaitNoMore(c *Conn) {
	c.out.waiting.Store(false)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, c.out.flow)
}

// hasRead passes a sign of the kernel half on.
func (s *Splicer) hasRead(flow uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.waiting[flow]; c != nil {
		c.out.wake()
	}
}

// end has a waiting writer give up.
func (w *writer) end() {
	w.closed.Store(true)
	w.wake()
}

// setDeadline keeps the deadline for awaitCredit.
func (w *writer) setDeadline(t time.Time) {
	if t.IsZero() {
		w.deadline.Store(0)
	} else {
		w.deadline.Store(t.UnixNano())
	}
	w.wake()
}
