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
// SyscallConn must not be read with splice(2), FIONREAD or MSG_WAITALL; and it
// must not be written to, for Write waits where TCP's own window does not.
//
// It is born with SO_LINGER {1, 0}: unless that is changed, Close resets it.
type Conn struct {
	tcp     *net.TCPConn
	raw     syscall.RawConn
	splicer *Splicer

	out         writer
	writeClosed atomic.Bool           // no byte is written any more
	ended       atomic.Bool           // a FIN was sent, in order
	endRead     atomic.Bool           // the backend's was read
	atReset     atomic.Pointer[known] // nil: was not reset by us
	atEnd       atomic.Pointer[known] // nil: not both directions have ended
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

// Dial connects to a backend, like net.Dialer.DialContext, and returns a *Conn. from is a
// local address, whose port may be 0 for one that no other connection to the same backend
// has, or nil for the kernel's choice. It is not Multipath TCP, and keepalive is left to the
// caller.
func (s *Splicer) Dial(ctx context.Context, from *net.TCPAddr, network, address string) (net.Conn, error) {
	c, err := s.dial(ctx, from, network, address)
	if err != nil {
		return nil, err // not a nil *Conn
	}
	return c, nil
}

func (s *Splicer) dial(ctx context.Context, from *net.TCPAddr, network, address string) (*Conn, error) {
	d := net.Dialer{KeepAlive: -1, Control: s.beforeConnect}
	d.SetMultipathTCP(false)
	if from != nil {
		d.LocalAddr = from
	}
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
	return s.newConn(tcp, raw), nil
}

func (s *Splicer) newConn(tcp *net.TCPConn, raw syscall.RawConn) *Conn {
	c := &Conn{tcp: tcp, raw: raw, splicer: s}
	c.out.init()
	s.add(c)
	return c
}

// beforeConnect shows the connection to sl_sockops. Without the mark it is an
// ordinary connection, so a failure is no reason not to connect. SO_LINGER is set
// as early, so that a process that is killed at any moment resets its backends:
// an empty stream that ends in order would be an answer to some. What the backend
// sends with MSG_OOB is in the stream when it is spliced, and so it is by TCP. A port for
// a local address is chosen when it connects, for one that is used towards others will do.
func (s *Splicer) beforeConnect(_, _ string, raw syscall.RawConn) error {
	var set error
	err := raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(s.mark))
		set = errors.Join(unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_OOBINLINE, 1),
			unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1))
	})
	return errors.Join(err, set)
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
		return n, c.End()
	}
	return n, c.explain("read", err)
}

// End is for those that read the descriptor themselves: it tells what it means that
// there was nothing, as Read does.
func (c *Conn) End() error {
	ended := c.ended.Load() // before what was written until then is looked at
	c.endRead.Store(true)   // before, too: of a loss from now on sendEnd tells
	end, flow := c.look()
	if lost(end, flow) > 0 {
		return c.opError("read", syscall.ECONNRESET)
	}
	if ended {
		c.atEnd.Store(&known{end, flow}) // and that is all there will be
	}
	return io.EOF
}

// Close closes the connection. Path and Counters tell afterwards what there was
// to tell at its first call. If redirected bytes are unread and CloseWrite has
// not been called, it is a reset whatever SetLinger said.
func (c *Conn) Close() error {
	k := c.atEnd.Load()
	if k == nil {
		end, flow := c.look()
		k = &known{end, flow}
	}
	c.atClose.CompareAndSwap(nil, k)
	if k.flow != nil && !c.ended.Load() && unread(k.flow) > 0 {
		_ = c.tcp.SetLinger(0)
	}
	err := c.tcp.Close()
	c.out.end()
	if c.out.waiting.Load() {
		c.splicer.awaitNoMore(c)
	}
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
	c.out.end()
}

func (c *Conn) LocalAddr() net.Addr               { return c.tcp.LocalAddr() }
func (c *Conn) RemoteAddr() net.Addr              { return c.tcp.RemoteAddr() }
func (c *Conn) SetReadDeadline(t time.Time) error { return c.tcp.SetReadDeadline(t) }

// SetDeadline is net.TCPConn's.
func (c *Conn) SetDeadline(t time.Time) error {
	c.out.setDeadline(t)
	return c.tcp.SetDeadline(t)
}

// SetWriteDeadline is net.TCPConn's. It bounds CloseWrite, too.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(t)
	return c.tcp.SetWriteDeadline(t)
}

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
	var op2 *net.OpError
	switch {
	case c.atReset.Load() != nil:
		return c.opError(op, ErrReaderBlind)
	case errors.As(err, &op2):
		return c.opError(op, op2.Err) // not RawConn's name for it
	}
	return c.opError(op, err)
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

// unread returns how many redirected bytes the backend has not read, like
// unread_by of the kernel half.
func unread(f *bpf.SpliceSlFlow) int64 {
	if f.Over != 0 {
		return 0
	}
	n := int64(f.Agent.Spliced) - splicedRead(&f.Backend)
	return min(max(n, 0), int64(f.Agent.Spliced))
}

// splicedRead returns how many redirected bytes an end has read.
func splicedRead(h *bpf.SpliceSlHalf) int64 {
	return int64(h.Received - (h.CopiedSeq - uint64(h.FirstSeq)))
}
