// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bpf"
)

// Conn is a connection to a backend. It is an ordinary TCP connection some of
// whose bytes may go another way, and that shows in nothing but its speed.
//
// It has neither ReadFrom nor WriteTo, on purpose: io.Copy would use splice(2),
// which does not see spliced bytes. For the same reason the descriptor behind
// SyscallConn must not be read with splice(2), FIONREAD or MSG_WAITALL.
type Conn struct {
	tcp     *net.TCPConn
	raw     syscall.RawConn
	splicer *Splicer

	writeClosed atomic.Bool
	atReset     atomic.Pointer[known] // nil: was not reset by us
	atClose     atomic.Pointer[known] // nil: not closed yet
}

// known is what the kernel half knew of a connection. flow is nil when the
// connection was in none, or had ended.
type known struct {
	end  bpf.SpliceSlEnd
	flow *bpf.SpliceSlFlow
}

var _ interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
	SetLinger(int) error
	SetKeepAliveConfig(net.KeepAliveConfig) error
} = (*Conn)(nil)

// ErrReaderBlind is the cause when a connection was reset because its backend
// reads in a way, like splice(2), that does not see bytes that are there for
// it. Further connections to its endpoint take that into account.
var ErrReaderBlind = errors.New("connection reset: the backend reads in a way that does not see spliced bytes")

// Dial connects to a backend, like net.Dialer.DialContext, and returns a *Conn.
// It is not Multipath TCP, and keepalive is left to the caller.
func (s *Splicer) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := s.dial(ctx, network, address)
	if err != nil {
		return nil, err // not a nil *Conn
	}
	return c, nil
}

func (s *Splicer) dial(ctx context.Context, network, address string) (*Conn, error) {
	d := net.Dialer{KeepAlive: -1, Control: s.setMark}
	d.SetMultipathTCP(false)
	nc, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("dial %s: network %q is not TCP", address, network), nc.Close())
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	c := &Conn{tcp: tcp, raw: raw, splicer: s}
	s.add(c)
	return c, nil
}

// setMark shows the connection to sl_sockops. Without the mark it is an
// ordinary connection, so a failure is no reason not to connect.
func (s *Splicer) setMark(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(s.mark))
	})
}

// Read reads like a TCP connection does. In particular it returns ECONNRESET
// and not io.EOF when the backend has closed with bytes unread, which the
// kernel does not tell for spliced ones.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.tcp.Read(p)
	if err == nil {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		if end, flow := c.look(); lost(end, flow) > 0 {
			return n, c.opError("read", syscall.ECONNRESET)
		}
		return n, err
	}
	return n, c.explain("read", err)
}

// Write writes like a TCP connection does. After CloseWrite it fails.
func (c *Conn) Write(p []byte) (n int, err error) {
	if c.writeClosed.Load() {
		// A redirect would be delivered, after the end of file.
		return 0, c.opError("write", syscall.EPIPE)
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		m, err := c.tcp.Write(p[n:])
		n += m
		if err == nil {
			return n, nil
		}
		if !errors.Is(err, syscall.ENOMEM) {
			return n, c.explain("write", err)
		}
		// The backend's memory limit, or the kernel's, was met by a redirect.
		// TCP would wait; the deadline ends this loop as it would end that. What
		// was refused stays booked as unread, so the connection's end may read
		// as a reset: rather that than the opposite.
		time.Sleep(wait)
	}
}

// CloseWrite sends a FIN.
func (c *Conn) CloseWrite() error {
	c.writeClosed.Store(true)
	return c.tcp.CloseWrite()
}

// Close closes the connection. Path and Counters tell afterwards what there was
// to tell at its first call.
func (c *Conn) Close() error {
	end, flow := c.look()
	c.atClose.CompareAndSwap(nil, &known{end, flow})
	err := c.tcp.Close()
	c.splicer.remove(c)
	if c.atReset.Load() != nil {
		return nil
	}
	return err
}

// resetNow ends the connection with a reset, whoever is using it.
func (c *Conn) resetNow() {
	end, flow := c.look()
	c.atReset.Store(&known{end, flow})
	_ = c.tcp.SetLinger(0)
	_ = c.tcp.Close() // fails only if the owner was faster
}

func (c *Conn) LocalAddr() net.Addr                { return c.tcp.LocalAddr() }
func (c *Conn) RemoteAddr() net.Addr               { return c.tcp.RemoteAddr() }
func (c *Conn) SetDeadline(t time.Time) error      { return c.tcp.SetDeadline(t) }
func (c *Conn) SetReadDeadline(t time.Time) error  { return c.tcp.SetReadDeadline(t) }
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.tcp.SetWriteDeadline(t) }

// SetLinger is net.TCPConn's.
func (c *Conn) SetLinger(sec int) error { return c.tcp.SetLinger(sec) }

// SetKeepAliveConfig is net.TCPConn's.
func (c *Conn) SetKeepAliveConfig(k net.KeepAliveConfig) error { return c.tcp.SetKeepAliveConfig(k) }

// SyscallConn is net.TCPConn's; see Conn for what not to do with it.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

func (c *Conn) explain(op string, err error) error {
	if c.atReset.Load() != nil {
		return c.opError(op, ErrReaderBlind)
	}
	return err
}

// Path tells how the connection's bytes go: "spliced" when at least one went
// past TCP, in either direction, or else "relay" with the reason why none did.
// It costs two system calls.
func (c *Conn) Path() (path, reason string) {
	end, flow := c.look()
	outcome := outcomeOf(end, flow)
	if outcome == bpf.SpliceSlOutcomeSlSpliced {
		return PathSpliced, ""
	}
	return PathRelay, c.splicer.label(outcome)
}

// Paths.
const (
	PathSpliced = "spliced"
	PathRelay   = "relay"
)

// Counters are a connection's bytes.
type Counters struct {
	Sent, Received        uint64 // to and from the backend
	SplicedOut, SplicedIn uint64 // of these, past TCP
}

// Counters returns what the kernel half has counted. Connections that it never
// took in (see Path) have zeroes.
func (c *Conn) Counters() Counters {
	end, flow := c.look()
	if flow == nil {
		return Counters{Sent: end.Sent, Received: end.Received, SplicedOut: end.SplicedOut, SplicedIn: end.SplicedIn}
	}
	return Counters{
		Sent: flow.Agent.Sent, Received: flow.Agent.Received,
		SplicedOut: flow.Agent.Spliced, SplicedIn: flow.Backend.Spliced,
	}
}

// endGone is SL_GONE: the socket has left its flow.
const endGone = 1 << 31

// look reads what the kernel half knows of the connection. flow is nil when
// the connection is in none or has ended.
func (c *Conn) look() (end bpf.SpliceSlEnd, flow *bpf.SpliceSlFlow) {
	err := c.raw.Control(func(fd uintptr) {
		if c.splicer.objs.SlEnds.Lookup(int32(fd), &end) != nil {
			end = bpf.SpliceSlEnd{}
		}
	})
	if k := cmp.Or(c.atReset.Load(), c.atClose.Load()); err != nil && k != nil {
		return k.end, k.flow
	}
	if err != nil || end.Flow == 0 || end.State&endGone != 0 {
		return end, nil
	}
	flow = new(bpf.SpliceSlFlow)
	if err := c.splicer.objs.SlFlows.Lookup(end.Flow, flow); err != nil {
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return c.look() // ended just now
		}
		return end, nil
	}
	return end, flow
}

func lost(end bpf.SpliceSlEnd, flow *bpf.SpliceSlFlow) uint32 {
	if flow != nil {
		return flow.Lost
	}
	return end.Lost
}
