// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bench/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Of(m.Run).Run()) }

// pair is a TCP connection, both ends in this process.
func pair(t *testing.T, ln net.Listener) (ours, theirs *net.TCPConn) {
	t.Helper()
	theirsC, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	oursC, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { oursC.Close(); theirsC.Close() })
	return oursC.(*net.TCPConn), theirsC.(*net.TCPConn)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func start(t *testing.T) *Loop {
	t.Helper()
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// do calls f on the loop and waits for it.
func do(t *testing.T, l *Loop, f func()) {
	t.Helper()
	done := make(chan struct{})
	if err := l.Post(func() { defer close(done); f() }); err != nil {
		t.Fatal(err)
	}
	<-done
}

// echo writes back what it reads, a little at a time.
type echo struct {
	w      Watch
	l      *Loop
	c      *net.TCPConn
	events atomic.Int64
	reads  int // bytes of each
	gone   chan struct{}
}

func newEcho(t *testing.T, l *Loop, c *net.TCPConn, reads int) *echo {
	t.Helper()
	e := &echo{l: l, c: c, reads: reads, gone: make(chan struct{})}
	e.w.Socket, _ = c.SyscallConn()
	if err := Leave(c); err != nil {
		t.Fatal(err)
	}
	do(t, l, func() {
		if err := l.Add(&e.w, e, unix.EPOLLIN); err != nil {
			t.Error(err)
		}
	})
	return e
}

func (e *echo) Ready(w *Watch, events uint32) {
	e.events.Add(1)
	b := make([]byte, e.reads)
	_ = e.w.Socket.Control(func(fd uintptr) {
		n, err := unix.Read(int(fd), b)
		if n > 0 {
			_, err = unix.Write(int(fd), b[:n])
		} else if err == nil {
			err = io.EOF
		}
		if err != nil && err != unix.EAGAIN {
			e.l.Remove(w)
			close(e.gone)
		}
	})
}

func TestManySocketsAreServed(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	sockets := int(min(5000, limit.Cur/2-100)) // 10,000 descriptors, two of each in this process
	l, ln := start(t), listen(t)
	var theirs []*net.TCPConn
	var all []*echo
	for range sockets {
		a, b := pair(t, ln)
		all, theirs = append(all, newEcho(t, l, a, 100)), append(theirs, b)
	}
	for round := range 3 {
		for i, c := range theirs {
			if _, err := c.Write([]byte{byte(round), byte(i), byte(i >> 8)}); err != nil {
				t.Fatal(err)
			}
		}
		for i, c := range theirs {
			var b [3]byte
			if _, err := io.ReadFull(c, b[:]); err != nil || b != [3]byte{byte(round), byte(i), byte(i >> 8)} {
				t.Fatalf("socket %d got %v, %v", i, b, err)
			}
		}
	}
	for i, c := range theirs {
		c.Close()
		<-all[i].gone
	}
	if n := len(l.free); n != len(l.watches) {
		t.Errorf("%d of %d places are free at the end", n, len(l.watches))
	}
}

// TestABusySocketDoesNotStarveOthers keeps one socket readable for ever.
func TestABusySocketDoesNotStarveOthers(t *testing.T) {
	l, ln := start(t), listen(t)
	a, busy := pair(t, ln)
	e := newEcho(t, l, a, 10)
	go func() { _, _ = io.Copy(io.Discard, busy) }()
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for p := bytes.Repeat([]byte("x"), 64<<10); !stop.Load(); {
			if _, err := busy.Write(p); err != nil {
				return
			}
		}
	})
	b, quiet := pair(t, ln)
	newEcho(t, l, b, 10)
	for range 100 {
		if _, err := quiet.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(quiet, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
	}
	if e.events.Load() < 100 {
		t.Errorf("the busy socket had %d events", e.events.Load())
	}
	stop.Store(true)
	busy.Close()
	wg.Wait()
}

// remover removes another socket when its own is ready, in the same batch.
type remover struct {
	w, other Watch
	l        *Loop
	calls    int
}

func (r *remover) Ready(w *Watch, _ uint32) {
	r.calls++
	r.l.Remove(&r.w)
	r.l.Remove(&r.other)
}

func TestARemovedSocketIsNotToldOf(t *testing.T) {
	l, ln := start(t), listen(t)
	a, first := pair(t, ln)
	b, second := pair(t, ln)
	r := &remover{l: l}
	for _, c := range []*net.TCPConn{a, b} {
		if err := Leave(c); err != nil {
			t.Fatal(err)
		}
	}
	do(t, l, func() {
		// Both are ready before the loop looks.
		_, _ = first.Write([]byte("x"))
		_, _ = second.Write([]byte("x"))
		r.w.Socket, _ = a.SyscallConn()
		r.other.Socket, _ = b.SyscallConn()
		if err := l.Add(&r.w, r, unix.EPOLLIN); err != nil {
			t.Error(err)
		}
		if err := l.Add(&r.other, r, unix.EPOLLIN); err != nil {
			t.Error(err)
		}
	})
	do(t, l, func() {})
	do(t, l, func() {
		if r.calls != 1 {
			t.Errorf("called %d times", r.calls)
		}
	})
}

// replacer removes both of two sockets when one is ready, and gives another one the
// place of the socket that was not told of yet.
type replacer struct {
	w, other, next Watch
	l              *Loop
	told           []*Watch
	err            error
}

func (r *replacer) Ready(w *Watch, _ uint32) {
	if r.told = append(r.told, w); len(r.told) > 1 {
		return
	}
	later := &r.other
	if w == later {
		later = &r.w
	}
	r.l.Remove(w)
	r.l.Remove(later)
	r.err = r.l.Add(&r.next, r, unix.EPOLLIN)
}

func TestANewSocketIsNotToldOfTheOneBeforeIt(t *testing.T) {
	l, ln := start(t), listen(t)
	a, first := pair(t, ln)
	b, second := pair(t, ln)
	c, _ := pair(t, ln)
	r := &replacer{l: l}
	for w, c := range map[*Watch]*net.TCPConn{&r.w: a, &r.other: b, &r.next: c} {
		w.Socket, _ = c.SyscallConn()
		if err := Leave(c); err != nil {
			t.Fatal(err)
		}
	}
	do(t, l, func() {
		// Both are ready before the loop looks.
		_, _ = first.Write([]byte("x"))
		_, _ = second.Write([]byte("x"))
		for _, w := range []*Watch{&r.w, &r.other} {
			if err := l.Add(w, r, unix.EPOLLIN); err != nil {
				t.Error(err)
			}
		}
	})
	do(t, l, func() {})
	do(t, l, func() {
		if r.err != nil || len(r.told) != 1 {
			t.Errorf("%d events were told, the new socket's: %t; %v", len(r.told), slices.Contains(r.told, &r.next), r.err)
		}
		l.Remove(&r.next)
	})
}

// failure counts what it is told of a socket that wants nothing.
type failure struct {
	w     Watch
	calls atomic.Int64
}

func (f *failure) Ready(*Watch, uint32) { f.calls.Add(1) }

func TestAFailureThatNobodyWantsIsToldOnce(t *testing.T) {
	l, ln := start(t), listen(t)
	a, b := pair(t, ln)
	f := &failure{}
	f.w.Socket, _ = a.SyscallConn()
	if err := Leave(a); err != nil {
		t.Fatal(err)
	}
	do(t, l, func() {
		if err := l.Add(&f.w, f, 0); err != nil {
			t.Error(err)
		}
	})
	_ = b.SetLinger(0)
	b.Close()
	for f.calls.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	for range 100 {
		do(t, l, func() {})
	}
	if n := f.calls.Load(); n != 1 {
		t.Errorf("told %d times", n)
	}
	do(t, l, func() { // whoever reads then is told again
		if err := l.Want(&f.w, unix.EPOLLIN); err != nil {
			t.Error(err)
		}
	})
	for f.calls.Load() == 1 {
		time.Sleep(time.Millisecond)
	}
	a.Close()
	do(t, l, func() { l.Remove(&f.w) })
}

func TestPostsKeepTheirOrder(t *testing.T) {
	l := start(t)
	var got []int
	for i := range 1000 {
		if err := l.Post(func() { got = append(got, i) }); err != nil {
			t.Fatal(err)
		}
	}
	do(t, l, func() {})
	for i, n := range got {
		if i != n {
			t.Fatalf("%d came as number %d", n, i)
		}
	}
	if len(got) != 1000 {
		t.Errorf("%d of 1000 came", len(got))
	}
}

func TestNothingIsPostedAfterClose(t *testing.T) {
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := l.Post(func() { t.Error("called") }); !errors.Is(err, ErrClosed) {
		t.Errorf("Post after Close: %v", err)
	}
}

func TestASocketOfNetCanBeClosedAfterLeave(t *testing.T) {
	ln := listen(t)
	for range 100 {
		a, b := pair(t, ln)
		if err := Leave(a); err != nil {
			t.Fatal(err)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		if n, err := b.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Fatalf("the other end read %d, %v", n, err)
		}
	}
}
