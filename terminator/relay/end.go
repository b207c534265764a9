// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/terminator/loop"
)

// tryLeg is a leg that decides itself whether it may be written to: EAGAIN means
// not before its descriptor is ready for that, EBUSY not before the function given
// to Notify is called.
type tryLeg interface {
	TryWrite(p []byte) (int, error)
	TryCloseWrite() error
	Notify(func())
	// End tells what a read of no bytes means.
	End() error
}

// end is a leg on a loop.
type end struct {
	of    *Looped
	watch loop.Watch
	leg   Leg
	try   tryLeg // nil: an ordinary socket

	waiting []byte // to be written; in buf, or buf is nil
	buf     *buffer
	through *pipe // and what was in it before; or nil
	bulk    bool  // what comes from it comes in bulk
	blocked bool  // the socket takes no more for now
	credit  bool  // the leg does not allow it for now
}

// init tells whether the leg is one for a loop.
func (e *end) init(of *Looped, l Leg) bool {
	e.of, e.leg = of, l
	e.try, _ = l.(tryLeg)
	_, plain := l.(*net.TCPConn)
	sc, ok := l.(syscall.Conn)
	if !ok || !plain && e.try == nil {
		return false
	}
	var err error
	e.watch.Socket, err = sc.SyscallConn()
	return err == nil
}

// call is a system call on a socket. Each loop has one, for a function of its own
// for each socket would be a good part of an idle connection.
type call struct {
	p           []byte
	n           int
	err         syscall.Errno
	read, write func(fd uintptr)
}

func newCall() *call {
	c := &call{}
	c.read = func(fd uintptr) {
		for c.err = unix.EINTR; c.err == unix.EINTR; {
			c.n, c.err = read(fd, c.p)
		}
	}
	c.write = func(fd uintptr) {
		for c.err = unix.EINTR; c.err == unix.EINTR; {
			c.n, c.err = write(fd, c.p)
		}
	}
	return c
}

// read is one read(2) of a socket that may have bytes: EAGAIN if not.
func (e *end) read(p []byte) (int, error) {
	c := e.of.loop.Load().call
	c.p = p
	err := e.watch.Socket.Control(c.read)
	c.p = nil
	switch {
	case err == nil && c.err == unix.EAGAIN:
		return 0, unix.EAGAIN
	case err == nil && c.err != 0:
		return 0, os.NewSyscallError("read", c.err)
	case err == nil && c.n > 0:
		return c.n, nil
	case e.try != nil && err != nil: // closed; it may know why
		return e.leg.Read(p)
	case e.try != nil:
		return 0, e.try.End()
	case err != nil:
		return 0, err
	}
	return 0, io.EOF
}

// empty tells that nothing waits to be written.
func (e *end) empty() bool { return len(e.waiting) == 0 && e.through == nil }

func (e *end) held() int { return len(e.waiting) }

// put has p written by the next flush. It is in b, which the end owns from then
// on. Nothing else may wait.
func (e *end) put(b *buffer, p []byte) { e.buf, e.waiting = b, p }

// Write implements io.Writer for a record.Conn: it keeps what the socket does
// not take.
func (e *end) Write(p []byte) (int, error) {
	if e.empty() {
		n, err := e.send(p)
		if err != nil && !e.waits(err) {
			return n, err
		}
		if n == len(p) {
			return n, nil
		}
		e.keep(p[n:])
		return len(p), nil
	}
	e.waiting = append(e.waiting, p...)
	return len(p), nil
}

// keep has p written later. As much as one read takes may follow it.
func (e *end) keep(p []byte) {
	b := bufferOf(e.of.turn(&e.of.backend))
	e.put(b, append(b.b[:0], p...))
}

// flush writes what waits, as far as it goes.
func (e *end) flush() error {
	switch {
	case e.empty():
		return nil
	case e.through != nil:
		return e.drain()
	}
	n, err := e.send(e.waiting)
	if e.waiting = e.waiting[n:]; e.empty() {
		e.drop()
	}
	if e.waits(err) {
		return nil
	}
	return err
}

// drop forgets what waits.
func (e *end) drop() {
	if e.buf != nil {
		e.buf.put()
	}
	e.buf, e.waiting = nil, nil
	if e.through != nil {
		e.of.loop.Load().putPipe(e.through)
		e.through = nil
	}
}

// send writes what goes without waiting.
func (e *end) send(p []byte) (n int, err error) {
	if e.blocked = false; e.try != nil {
		n, err = e.try.TryWrite(p)
		e.blocked, e.credit = errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EBUSY)
		return n, err
	}
	c := e.of.loop.Load().call
	for n < len(p) {
		c.p = p[n:]
		err = e.watch.Socket.Control(c.write)
		c.p = nil
		switch {
		case err != nil:
			return n, err
		case c.err == unix.EAGAIN:
			e.blocked = true
			return n, unix.EAGAIN
		case c.err != 0:
			return n, os.NewSyscallError("write", c.err)
		}
		n += c.n
	}
	return n, nil
}

// waits tells whether an error of send or closeWrite only means: later.
func (e *end) waits(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EBUSY)
}

func (e *end) closeWrite() error {
	if e.try != nil {
		err := e.try.TryCloseWrite()
		e.credit = errors.Is(err, unix.EBUSY)
		return err
	}
	return e.leg.CloseWrite()
}
