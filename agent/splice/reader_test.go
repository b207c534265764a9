// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bench/keyed"
	"github.com/sluice-gateway/sluice/bpf"
)

// T5: backends that splice from the start, as Go's io.Copy between two TCP
// connections does, get every byte.
func TestBackendThatSplicesGetsItsBytes(t *testing.T) {
	s := splicer(t)
	origin := listen(t, "tcp", "127.0.0.1:0")
	serve(t, origin, echo)
	proxy := func(header int) func(*net.TCPConn) {
		return func(c *net.TCPConn) {
			up, err := net.Dial("tcp", origin.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			defer up.Close()
			if _, err := io.CopyN(struct{ io.Writer }{up}, struct{ io.Reader }{c}, int64(header)); err != nil {
				t.Error(err)
			}
			back := make(chan struct{})
			go func() {
				defer close(back)
				_, _ = io.Copy(c, up)
				_ = c.CloseWrite()
			}()
			_, _ = io.Copy(up, c)
			_ = up.(*net.TCPConn).CloseWrite()
			<-back
		}
	}
	for _, tc := range []struct {
		name   string
		header int
	}{{"at once", 0}, {"after a header", 100}} {
		t.Run(tc.name, func(t *testing.T) {
			l := listen(t, "tcp", "127.0.0.1:0")
			serve(t, l, proxy(tc.header))
			key := know(t, s, addrOf(l), Auto)
			c := dial(t, s, addrOf(l))
			if err := roundTrips(c, 50); err != nil {
				t.Fatal(err)
			}
			sent := make(chan error, 1)
			go func() { sent <- errors.Join(keyed.Send(c, 5, 8<<20, 30_000), c.CloseWrite()) }()
			if err := keyed.Receive(c, 5, 8<<20); err != nil {
				t.Error(err)
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
			if n := c.Counters().SplicedOut; n != 0 {
				t.Errorf("%d bytes were redirected to a reader that splices", n)
			}
			if r := endpoint(t, s, key).Reader; r != bpf.SpliceSlReaderSlBySplice {
				t.Errorf("endpoint's reader is %d, want it remembered as splicing", r)
			}
		})
	}
}

// T5: one that turns to splice(2) with redirected bytes unread would wait for
// ever. It is reset, and remembered.
func TestLateSplicerIsResetAndRemembered(t *testing.T) {
	s := splicer(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	key := know(t, s, addrOf(l), Auto)
	p := ends(t, s, l)
	warm(t, p)
	resets := s.resets.Load()
	if err := sendPattern(p.agent, 0, 1000); err != nil {
		t.Fatal(err)
	}
	if _, err := spliceRead(p.backend, 1000); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("late splicer got %v, want connection reset", err)
	}
	if _, err := p.agent.Read(make([]byte, 1)); !errors.Is(err, ErrReaderBlind) {
		t.Errorf("agent reads %v, want %v", err, ErrReaderBlind)
	}
	if n := s.resets.Load() - resets; n != 1 {
		t.Errorf("%d resets counted, want 1", n)
	}
	expectPath(t, p.agent, PathSpliced, "")
	if r := endpoint(t, s, key).Reader; r != bpf.SpliceSlReaderSlBySplice {
		t.Errorf("endpoint's reader is %d, want it remembered as splicing", r)
	}

	next := ends(t, s, l)
	if err := exchange(next, 3, 1<<20, 1<<20); err != nil {
		t.Error(err)
	}
	if c := next.agent.Counters(); c.SplicedOut != 0 {
		t.Errorf("%d bytes redirected to a remembered endpoint", c.SplicedOut)
	}
}

// A thread that splices while another one still reads by recv is not reset as
// long as the bytes are read.
func TestSplicerWhoseBytesAreReadIsNotReset(t *testing.T) {
	s := splicer(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	know(t, s, addrOf(l), Auto)
	p := ends(t, s, l)
	warm(t, p)
	if err := sendPattern(p.agent, 0, 1000); err != nil {
		t.Fatal(err)
	}
	if _, err := spliceRead(p.backend, 0); !errors.Is(err, unix.EAGAIN) {
		t.Fatalf("splice(2): %v, want EAGAIN", err)
	}
	if err := readPattern(p.backend, 0, 1000); err != nil {
		t.Fatal(err)
	}
	time.Sleep(4 * blindSplice)
	if err := p.pass(p.agent, p.backend, 1000); err != nil {
		t.Error(err)
	}
	if c := p.agent.Counters(); c.Sent-c.SplicedOut < 1000 {
		t.Errorf("%+v: want the flow back on TCP", c)
	}
}

func TestReadersThatRedirectsWouldCheatStayOnTCP(t *testing.T) {
	s := splicer(t)
	for _, tc := range []struct {
		reason string
		setUp  func(t *testing.T, fd int)
		flags  int
	}{
		{"reader_waits", func(*testing.T, int) {}, unix.MSG_WAITALL},
		{"reader_waits", func(t *testing.T, fd int) {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, 50); err != nil {
				t.Fatal(err)
			}
		}, 0},
	} {
		l := listen(t, "tcp", "127.0.0.1:0")
		know(t, s, addrOf(l), Auto)
		p := ends(t, s, l)
		f, err := p.backend.File() // blocking
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.SetNonblock(int(f.Fd()), false); err != nil {
			t.Fatal(err)
		}
		tc.setUp(t, int(f.Fd()))
		b := make([]byte, 100)
		for i := range 20 {
			if err := sendPattern(p.agent, i, 50); err != nil {
				t.Fatal(err)
			}
			if err := sendPattern(p.agent, i+50, 50); err != nil {
				t.Fatal(err)
			}
			for n := 0; n < len(b); {
				m, _, err := unix.Recvfrom(int(f.Fd()), b[n:], tc.flags)
				if err != nil {
					t.Fatal(err)
				}
				if n += m; tc.flags != 0 && m != len(b) {
					t.Errorf("MSG_WAITALL returned %d of %d bytes", m, len(b))
				}
			}
			if err := comparePattern(b, i); err != nil {
				t.Fatal(err)
			}
		}
		expectPath(t, p.agent, PathRelay, tc.reason)
		f.Close()
	}
}

func TestPeekingIsNotReading(t *testing.T) {
	s := splicer(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	know(t, s, addrOf(l), Auto)
	p := ends(t, s, l)
	raw, err := p.backend.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	peek := func(n int) {
		t.Helper()
		var m int
		var peekErr error
		err := raw.Read(func(fd uintptr) bool {
			m, _, peekErr = unix.Recvfrom(int(fd), make([]byte, n), unix.MSG_PEEK)
			return peekErr != unix.EAGAIN
		})
		if err := errors.Join(err, peekErr); err != nil || m != n {
			t.Fatalf("peek: %d bytes, %v; want %d", m, err, n)
		}
	}
	for i := range 10 {
		if err := sendPattern(p.agent, i, 100); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			peek(100)
		}
		if err := readPattern(p.backend, i, 100); err != nil {
			t.Fatal(err)
		}
	}
	_, f := p.agent.look()
	if f.Backend.Received != 1000 || splicedRead(&f.Backend) != int64(f.Agent.Spliced) || f.Agent.Spliced != 1000-earn*100 {
		t.Errorf("books are %+v and %+v", f.Agent, f.Backend)
	}
}

// passt peeks at what comes, from where it has peeked last, and discards it later.
func TestPeekingFromAnOffsetStaysOnTCP(t *testing.T) {
	s := splicer(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	know(t, s, addrOf(l), Auto)
	p := ends(t, s, l)
	raw, err := p.backend.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	recv := func(b []byte, flags int) (n int) {
		t.Helper()
		var recvErr error
		err := raw.Read(func(fd uintptr) bool {
			n, _, recvErr = unix.Recvfrom(int(fd), b, flags)
			return recvErr != unix.EAGAIN
		})
		if err := errors.Join(err, recvErr); err != nil {
			t.Fatal(err)
		}
		return n
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0) })
	if err := errors.Join(err, set); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if err := sendPattern(p.agent, i, 100); err != nil {
			t.Fatal(err)
		}
		for _, at := range []int{0, 60} {
			b := make([]byte, 60)
			if err := comparePattern(b[:recv(b, unix.MSG_PEEK)], i+at); err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
		}
		if i%2 == 0 {
			err = readPattern(p.backend, i, 100)
		} else if n := recv(make([]byte, 100), unix.MSG_TRUNC); n != 100 {
			err = fmt.Errorf("%d bytes discarded", n)
		}
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	expectPath(t, p.agent, PathRelay, "reader_peeks")
}

func TestLostBytesReadAsReset(t *testing.T) {
	s := splicer(t)
	var closing sync.WaitGroup
	defer closing.Wait()
	// The agent's half-close waits for the backend to read.
	halfClosing := func(p *pair) error {
		closing.Go(func() { _ = p.agent.CloseWrite() })
		eventually(t, "the agent waits", p.agent.out.waiting.Load)
		return nil
	}
	for _, tc := range []struct {
		name  string
		close func(p *pair) error
		want  error
	}{
		{"close with redirected bytes unread", func(p *pair) error { return p.backend.Close() }, syscall.ECONNRESET},
		{"close after the agent's half-close", func(p *pair) error {
			return errors.Join(halfClosing(p), p.backend.Close())
		}, syscall.ECONNRESET},
		{"half-close, then reading on", func(p *pair) error {
			return errors.Join(p.backend.CloseWrite(), readPattern(p.backend, 0, 5000))
		}, io.EOF},
		{"close after reading all", func(p *pair) error {
			return errors.Join(readPattern(p.backend, 0, 5000), p.backend.Close())
		}, io.EOF},
		{"half-close after the agent's, then reading on", func(p *pair) error {
			return errors.Join(halfClosing(p), p.backend.CloseWrite(), readPattern(p.backend, 0, 5000))
		}, io.EOF},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := listen(t, "tcp", "127.0.0.1:0")
			know(t, s, addrOf(l), Auto)
			p := ends(t, s, l)
			warm(t, p)
			if err := sendPattern(p.agent, 0, 5000); err != nil {
				t.Fatal(err)
			}
			if err := tc.close(p); err != nil {
				t.Fatal(err)
			}
			if _, err := p.agent.Read(make([]byte, 1)); !errors.Is(err, tc.want) {
				t.Errorf("agent reads %v, want %v", err, tc.want)
			}
		})
	}
}

// Data together with its FIN is one read; the FIN is no byte.
func TestFinIsNotCountedAsAByte(t *testing.T) {
	s := splicer(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	know(t, s, addrOf(l), Auto)
	for range 50 {
		p := ends(t, s, l)
		raw, _ := p.agent.SyscallConn()
		if err := sendPattern(p.agent, 0, 10); err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, 1) })
		if err := errors.Join(sendPattern(p.agent, 10, 100), p.agent.CloseWrite()); err != nil {
			t.Fatal(err)
		}
		if err := readPattern(p.backend, 0, 110); err != nil {
			t.Fatal(err)
		}
		if n, err := p.backend.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Fatalf("%d, %v", n, err)
		}
		if _, f := p.agent.look(); splicedRead(&f.Backend) != 0 || f.Backend.Received != 110 {
			t.Fatalf("books are %+v", f.Backend)
		}
		if err := p.backend.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := p.agent.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatalf("agent reads %v, want end of file", err)
		}
		p.agent.Close()
	}
}
