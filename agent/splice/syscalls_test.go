// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// by is a reading that is one function.
type by func(p []byte) (int, error)

func (f by) read(p []byte) (int, error) { return f(p) }
func (by) close() error                 { return nil }

func recv(flags int) func(testing.TB, int) (reading, error) {
	return func(_ testing.TB, fd int) (reading, error) {
		return by(func(p []byte) (int, error) { return recvfrom(fd, p, flags) }), nil
	}
}

func recvfrom(fd int, p []byte, flags int) (int, error) {
	n, _, err := unix.Recvfrom(fd, p, flags)
	return max(n, 0), err
}

// with is read(2) on a socket with an option.
func with(level, option, value int) func(testing.TB, int) (reading, error) {
	return func(_ testing.TB, fd int) (reading, error) {
		err := unix.SetsockoptInt(fd, level, option, value)
		return by(func(p []byte) (int, error) { return unix.Read(fd, p) }), err
	}
}

// waiting reads without blocking, after something has said that it is readable.
func waiting(ready func(fd int) error, read func(fd int, p []byte) (int, error)) func(testing.TB, int) (reading, error) {
	return func(_ testing.TB, fd int) (reading, error) {
		return by(func(p []byte) (int, error) {
			for {
				if err := ready(fd); err != nil && !errors.Is(err, unix.EINTR) {
					return 0, err
				}
				n, err := read(fd, p)
				if !errors.Is(err, unix.EAGAIN) {
					return n, err
				}
			}
		}), unix.SetNonblock(fd, true)
	}
}

func pollIn(fd int) error {
	_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
	return err
}

func selectIn(fd int) error {
	var set unix.FdSet
	set.Set(fd)
	_, err := unix.Select(fd+1, &set, nil, nil, nil)
	return err
}

// edge reads when epoll says so, once for each change, until there is nothing
// or, if short, until it gets less than it has asked for.
func edge(short bool) func(testing.TB, int) (reading, error) {
	return func(_ testing.TB, fd int) (reading, error) {
		ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		if err != nil {
			return nil, err
		}
		e := &edges{ep: ep, fd: fd, short: short}
		return e, errors.Join(unix.SetNonblock(fd, true),
			unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET}))
	}
}

type edges struct {
	ep, fd int
	short  bool
	got    []byte
	more   bool // to be read without another event
	hungUp bool
}

func (e *edges) close() error { return unix.Close(e.ep) }

func (e *edges) read(p []byte) (int, error) {
	for len(e.got) == 0 {
		if !e.more {
			var events [1]unix.EpollEvent
			if _, err := unix.EpollWait(e.ep, events[:], -1); err != nil && !errors.Is(err, unix.EINTR) {
				return 0, err
			}
			e.hungUp = e.hungUp || events[0].Events&unix.EPOLLRDHUP != 0
		}
		buf := make([]byte, 8<<10)
		n, err := unix.Read(e.fd, buf)
		switch {
		case err == unix.EAGAIN:
			e.more = false
			continue
		case err != nil || n == 0:
			return 0, err
		}
		e.more = !e.short || n == len(buf) || e.hungUp
		e.got = buf[:n]
	}
	n := copy(p, e.got)
	e.got = e.got[n:]
	return n, nil
}

// peeked looks first, with further flags, and then reads what it has seen.
func peeked(flags int) func(testing.TB, int) (reading, error) {
	return func(_ testing.TB, fd int) (reading, error) {
		return by(func(p []byte) (int, error) {
			flags := flags
			if len(p) > 3000 { // more than a message: TCP alone hangs at the end of the stream
				flags = 0
			}
			n, err := recvfrom(fd, p, unix.MSG_PEEK|flags)
			if n == 0 || err != nil {
				return 0, err
			}
			again := make([]byte, n)
			for got := 0; got < n; {
				m, err := unix.Read(fd, again[got:])
				if err != nil || m == 0 {
					return 0, fmt.Errorf("%d of %d bytes that were peeked at: %w", got, n, err)
				}
				got += m
			}
			if !bytes.Equal(again, p[:n]) {
				return 0, errors.New("what was peeked at is not what was read")
			}
			return n, nil
		}), nil
	}
}

// discard has the kernel throw away n bytes that were peeked at.
func discard(fd, n int) error {
	for n > 0 {
		m, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), 0, uintptr(n), unix.MSG_TRUNC, 0, 0)
		if errno != 0 {
			return fmt.Errorf("discard %d bytes: %w", n, errno)
		}
		n -= int(m)
	}
	return nil
}

func peekedAndDiscarded(_ testing.TB, fd int) (reading, error) {
	return by(func(p []byte) (int, error) {
		n, err := recvfrom(fd, p, unix.MSG_PEEK)
		if n == 0 || err != nil {
			return 0, err
		}
		return n, discard(fd, n)
	}), nil
}

// lowat sets SO_RCVLOWAT to what it wants next, and polls until it has come. (A read
// before that hangs with TCP alone: what comes after the first bytes wakes nobody if it
// is less.)
func lowat(_ testing.TB, fd int) (reading, error) {
	return by(func(p []byte) (int, error) {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, min(len(p), 2000)); err != nil {
			return 0, err
		}
		err := pollIn(fd)
		for errors.Is(err, unix.EINTR) {
			err = pollIn(fd)
		}
		if err != nil {
			return 0, err
		}
		return unix.Read(fd, p)
	}), nil
}

// asking reads what FIONREAD has told.
func asking(_ testing.TB, fd int) (reading, error) {
	return by(func(p []byte) (int, error) {
		for {
			ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}}
			if _, err := unix.Poll(ready, -1); err != nil && !errors.Is(err, unix.EINTR) {
				return 0, err
			}
			n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
			if err != nil {
				return 0, err
			}
			if n > 0 {
				return unix.Read(fd, p[:min(n, len(p))])
			}
			if ready[0].Revents&(unix.POLLRDHUP|unix.POLLERR|unix.POLLHUP) != 0 {
				return unix.Read(fd, p)
			}
			time.Sleep(time.Millisecond)
		}
	}), nil
}

func readv(_ testing.TB, fd int) (reading, error) {
	return by(func(p []byte) (int, error) { return unix.Readv(fd, [][]byte{p[:len(p)/3], p[len(p)/3:]}) }), nil
}

func recvmsg(_ testing.TB, fd int) (reading, error) {
	return by(func(p []byte) (int, error) {
		n, _, _, _, err := unix.Recvmsg(fd, p, make([]byte, 100), 0)
		return n, err
	}), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_INQ, 1)
}

// recvmmsg asks for four messages at once.
func recvmmsg(_ testing.TB, fd int) (reading, error) {
	type mmsghdr struct {
		unix.Msghdr
		n uint32
		_ uint32
	}
	return by(func(p []byte) (int, error) {
		var messages [4]mmsghdr
		var parts [4]unix.Iovec
		size := (len(p) + 3) / 4
		for i := range messages {
			part := p[min(i*size, len(p)):min((i+1)*size, len(p))]
			if len(part) > 0 {
				parts[i].Base = &part[0]
				parts[i].SetLen(len(part))
			}
			messages[i].Iov, messages[i].Iovlen = &parts[i], 1
		}
		const waitForOne = 0x10000
		got, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages)), 4, waitForOne, 0, 0)
		if errno != 0 {
			return 0, errno
		}
		n := 0
		for i := range int(got) { // they may be short: close the gaps
			n += copy(p[n:], p[min(i*size, len(p)):][:messages[i].n])
		}
		return n, nil
	}), nil
}

// splices is splice(2) through a pipe.
type splices struct {
	fd   int
	pipe [2]int
}

func bySplice(_ testing.TB, fd int) (reading, error) {
	s := &splices{fd: fd}
	return s, unix.Pipe2(s.pipe[:], unix.O_CLOEXEC)
}

func (s *splices) read(p []byte) (int, error) {
	n, err := unix.Splice(s.fd, nil, s.pipe[1], nil, min(len(p), 32<<10), 0)
	if err != nil || n == 0 {
		return 0, err
	}
	return unix.Read(s.pipe[0], p[:n])
}

func (s *splices) close() error { return errors.Join(unix.Close(s.pipe[0]), unix.Close(s.pipe[1])) }

// signaled is read(2) in a thread that gets signals all the time, whose handler
// has SA_RESTART, as Go's have.
func signaled(t testing.TB, fd int) (reading, error) {
	return by(func(p []byte) (int, error) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tid := unix.Gettid()
		done, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-done:
					return
				case <-time.After(200 * time.Microsecond):
					if err := unix.Tgkill(unix.Getpid(), tid, unix.SIGURG); err != nil {
						t.Error(err)
					}
				}
			}
		}()
		defer func() { close(done); <-stopped }()
		return unix.Read(fd, p)
	}), nil
}

var ways = []way{
	{name: "read(2)", open: recv(0)},
	{name: "readv(2)", open: readv},
	{name: "recvmsg(2) with TCP_INQ", open: recvmsg},
	{name: "recvmmsg(2)", open: recvmmsg},
	{name: "poll(2)", open: waiting(pollIn, unix.Read)},
	{name: "select(2)", open: waiting(selectIn, unix.Read)},
	{name: "epoll(7), edges", open: edge(false)},
	{name: "epoll(7), edges, until a short read", open: edge(true)},
	{name: "SO_BUSY_POLL", open: with(unix.SOL_SOCKET, unix.SO_BUSY_POLL, 50)},
	{name: "SO_OOBINLINE", open: with(unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)},
	{name: "MSG_WAITALL", open: recv(unix.MSG_WAITALL), tcp: true},
	{name: "MSG_PEEK", open: peeked(0)},
	{name: "MSG_PEEK and MSG_WAITALL", open: peeked(unix.MSG_WAITALL), tcp: true},
	{name: "MSG_PEEK and MSG_TRUNC", open: peekedAndDiscarded, tcp: true, fails: unix.EFAULT},
	{name: "SO_RCVLOWAT and poll(2)", open: lowat, tcp: true},
	{name: "FIONREAD", open: asking, fails: unix.ECONNRESET},
	{name: "splice(2)", open: bySplice, tcp: true, fails: unix.ECONNRESET},
	{name: "read(2) and signals", open: signaled},
	{name: "another process, inherited", open: inAnotherProcess("inherited", false)},
	{name: "another process, by SCM_RIGHTS", open: inAnotherProcess("passed", false)},
	{name: "two processes by turns", open: inAnotherProcess("inherited", true)},
	{name: "IORING_OP_READ", open: uring(opRead, 0)},
	{name: "IORING_OP_RECV", open: uring(opRecv, 0)},
	{name: "IORING_OP_RECV and MSG_WAITALL", open: uring(opRecv, unix.MSG_WAITALL)},
	{name: "IORING_OP_RECV, many", open: uringMultishot},
	{name: "IORING_OP_SPLICE", open: uringSplice, tcp: true, fails: unix.ECONNRESET},
}
