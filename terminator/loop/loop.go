// SPDX-License-Identifier: Apache-2.0

// Package loop waits for many sockets on one goroutine. A message then costs
// epoll_wait(2), read(2) and write(2), and nothing of Go's scheduler: no failed
// read before each wait, no goroutine to park and to wake, no stack.
package loop

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Handler is told of what its descriptors are ready for. It runs on the loop,
// must not wait for anything, and should do no more than one buffer's work at a
// time: others wait meanwhile.
type Handler interface {
	Ready(w *Watch, events uint32)
}

// Loop is an epoll instance and the goroutine that waits for it.
type Loop struct {
	epoll   int
	wake    int // an eventfd
	watches []*Watch
	free    []int32
	round   int32 // of the last watch that got a slot
	done    chan struct{}
	meter   meter

	mu     sync.Mutex
	posted []func()
	closed bool
}

// Watch is a socket on a loop. The zero value is on none.
type Watch struct {
	Socket syscall.RawConn // set before Add

	handler Handler
	slot    int32
	round   int32  // tells apart those that have the slot one after the other
	events  uint32 // in epoll: EPOLLIN and EPOLLOUT
	want    uint32 // of these, what the handler waits for
	tick    uint32 // the last one in which there was an event
	second  uint16 // in which it was added, as meter.second
	settled bool   // it has been on this loop or another for a while
	state   state
}

type state uint8

const (
	off     state = iota // never was on a loop, or not any more
	on                   // in epoll
	outside              // on a loop, but not in epoll
)

// ErrClosed is what Post returns after Close.
var ErrClosed = errors.New("loop is closed")

// New starts a loop. The caller closes it.
func New() (*Loop, error) {
	if err := poller(); err != nil {
		return nil, err
	}
	l := &Loop{epoll: -1, wake: -1, done: make(chan struct{})}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	}
	if err == nil {
		err = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, l.wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1})
	}
	if err != nil {
		l.release()
		return nil, fmt.Errorf("make an epoll loop: %w", err)
	}
	addProcessors(1)
	go l.run()
	return l, nil
}

// Close ends the loop and waits for it. Sockets that are on it stay open.
func (l *Loop) Close() {
	_ = l.Post(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.closed = true
	})
	<-l.done
}

func (l *Loop) release() {
	for _, fd := range []int{l.epoll, l.wake} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// Post has f called on the loop, soon. Any goroutine may post, and what one
// posts keeps its order.
func (l *Loop) Post(f func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	l.posted = append(l.posted, f)
	if len(l.posted) == 1 {
		one := [8]byte{1}
		_, _ = unix.Write(l.wake, one[:])
	}
	return nil
}

// Add has h called for events of the socket, which has left Go's poller (Leave).
// This and the other methods of a Watch may only be called on the loop.
func (l *Loop) Add(w *Watch, h Handler, events uint32) error {
	if len(l.free) == 0 {
		l.watches = append(l.watches, nil)
		l.free = append(l.free, int32(len(l.watches)-1))
	}
	last := len(l.free) - 1
	l.round++
	*w = Watch{Socket: w.Socket, handler: h, slot: l.free[last], round: l.round, events: events, want: events, second: l.meter.second, settled: w.settled, state: outside}
	if err := l.control(w, unix.EPOLL_CTL_ADD); err != nil {
		w.state = off
		return err
	}
	w.state = on
	l.free = l.free[:last]
	l.watches[w.slot] = w
	return nil
}

// Want changes what is waited for. Without any, only the socket's failure or
// end is told, once.
func (l *Loop) Want(w *Watch, events uint32) error {
	w.want = events
	if w.state == off || w.events == events {
		return nil
	}
	if w.state == on && events|unix.EPOLLIN == w.events {
		return nil // most often it is wanted again before there is any: see unwanted
	}
	w.events = events
	op := unix.EPOLL_CTL_MOD
	if w.state == outside {
		op = unix.EPOLL_CTL_ADD
	}
	if err := l.control(w, op); err != nil {
		return err
	}
	w.state = on
	return nil
}

// unwanted takes out of epoll what nobody waits for. It tells whether there was
// nothing else.
func (l *Loop) unwanted(w *Watch, events uint32) bool {
	const failed = unix.EPOLLHUP | unix.EPOLLERR
	switch {
	case w.want == 0 && events&failed != 0:
		// Failures are told whether they are wanted or not, again and again.
		_ = l.control(w, unix.EPOLL_CTL_DEL)
		w.events, w.state = 0, outside
	case w.want != w.events:
		w.events = w.want
		_ = l.control(w, unix.EPOLL_CTL_MOD) // fails only for a socket that is closed
	}
	return events&(w.want|failed) == 0
}

// Remove takes a socket off the loop. Its handler is not called any more.
func (l *Loop) Remove(w *Watch) {
	if w.state == on {
		_ = l.control(w, unix.EPOLL_CTL_DEL)
	}
	l.Forget(w)
}

// Forget is Remove for a socket that is closed, or will be before its handler
// returns: closing takes it out of epoll.
func (l *Loop) Forget(w *Watch) {
	if w.state == off {
		return
	}
	w.state = off
	l.watches[w.slot] = nil
	l.free = append(l.free, w.slot)
}

func (l *Loop) control(w *Watch, op int) error {
	var err error
	cerr := w.Socket.Control(func(fd uintptr) {
		err = unix.EpollCtl(l.epoll, op, int(fd), &unix.EpollEvent{Events: w.events, Fd: w.slot, Pad: w.round})
	})
	if cerr != nil {
		return cerr
	}
	return os.NewSyscallError("epoll_ctl", err)
}

// batch is how many sockets one epoll_wait(2) tells of.
const batch = 128

func (l *Loop) run() {
	defer close(l.done)
	defer addProcessors(-1)
	defer l.release()
	var events [batch]unix.EpollEvent
	l.meter.start()
	defer l.meter.stop()
	for {
		n := l.wait(&events)
		l.meter.look()
		for i := range events[:n] {
			e := &events[i]
			if e.Fd < 0 {
				if l.called(); l.closed {
					return
				}
				continue
			}
			// Whoever came before in this batch may have removed it.
			w := l.watches[e.Fd]
			if w == nil || w.round != e.Pad || w.state != on {
				continue
			}
			if l.unwanted(w, e.Events) {
				continue
			}
			l.meter.count(w)
			w.handler.Ready(w, e.Events)
		}
	}
}

// moment is how many milliseconds a loop waits without Go's scheduler knowing. After
// 10 its monitor would interrupt it.
const moment = 5

// wait returns how many events there are, at least one. At first the scheduler is not
// told of the system call, and the loop keeps its processor: while the loop would wait
// for no more than a moment, the monitor would take the processor away from it, time
// and again, and giving it back costs more than the message. Who stops the world
// meanwhile does so by a signal, which ends the wait.
func (l *Loop) wait(events *[batch]unix.EpollEvent) int {
	n, _, err := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll), uintptr(unsafe.Pointer(events)), batch, moment, 0, 0)
	for err != 0 || n == 0 {
		l.meter.asleep.Store(true)
		n, _, err = unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll), uintptr(unsafe.Pointer(events)), batch, ^uintptr(0), 0, 0)
		l.meter.asleep.Store(false)
	}
	return int(n)
}

// called calls what was posted.
func (l *Loop) called() {
	var count [8]byte
	_, _ = unix.Read(l.wake, count[:])
	l.mu.Lock()
	posted := l.posted
	l.posted = nil
	l.mu.Unlock()
	for _, f := range posted {
		f()
	}
}

// goPoller is the epoll instance of Go's runtime, once it is found.
var goPoller struct {
	once  sync.Once
	epoll int
	err   error
}

func poller() error {
	goPoller.once.Do(func() { goPoller.epoll, goPoller.err = findPoller() })
	return goPoller.err
}

// Leave takes a connection's socket out of Go's poller, which would go on
// waking a thread for its events. From then on its Read and Write wait for
// nothing that has not come already; all else works as before.
func Leave(c syscall.Conn) error {
	if err := poller(); err != nil {
		return err
	}
	return leave(c, goPoller.epoll)
}

func leave(c syscall.Conn, epoll int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = unix.EpollCtl(epoll, unix.EPOLL_CTL_DEL, int(fd), nil) })
	return errors.Join(cerr, os.NewSyscallError("epoll_ctl", err))
}

// findPoller finds the epoll instance of Go's runtime: the one that a pipe of
// package os can be taken out of. Nothing else is assumed of the runtime.
func findPoller() (int, error) {
	probe, other, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("find Go's poller: %w", err)
	}
	defer probe.Close()
	defer other.Close()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0, fmt.Errorf("find Go's poller: %w", err)
	}
	for _, e := range all {
		var fd int
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err != nil || target != "anon_inode:[eventpoll]" {
			continue
		}
		if _, err := fmt.Sscan(e.Name(), &fd); err == nil && leave(probe, fd) == nil {
			return fd, nil
		}
	}
	return 0, errors.New("find Go's poller: no epoll instance of this process has a pipe of package os")
}
